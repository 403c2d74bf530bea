# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Supervisor: finds what hangs, and has streams placed anew when demands have changed."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from yolox_trt.core.faults import HungError
from yolox_trt.executor.ledger import Outcome, log_events
from yolox_trt.executor.outcomes import log
from yolox_trt.executor.placement import PlacementProblem
from yolox_trt.executor.placements import DRIFT_PERIOD
from yolox_trt.executor.snapshot import DeviceStatus
from yolox_trt.executor.worker import Worker
from yolox_trt.executor.worker_pool import WorkerPool

_LOGGER = logging.getLogger(__name__)

#: A look that comes so many seconds late tells that the whole process stood still: it was stopped,
#: or its virtual machine got no processor. What is watched could not go on either.
STANDSTILL = 0.5


class Supervisor:
    """A thread that watches a pool's workers, from its creation until `stop`.

    No callback runs on it: one that blocks would be watched by nobody.
    """

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._scheduler = pool.scheduler
        options = pool.scheduler.options
        limits = (options.watchdog, options.callback_limit)
        self._period = min([0.25, *(limit / 4.0 for limit in limits if limit)])
        self._next_look = pool.clock() + DRIFT_PERIOD
        #: When the process went on after it had stood still.
        self._resumed = -math.inf
        self._looked = self._clocks()
        self._stopping = False
        self._planning = False
        #: Threads for what may last: placements, and callbacks that no worker can make.
        self._helpers: list[threading.Thread] = []
        self._thread = threading.Thread(
            target=self._supervise, name="executor-supervisor", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end (the pool's lock is held)."""
        self._stopping = True
        self._pool.attention.notify_all()

    def join(self, timeout: float) -> None:
        """Wait for the thread, and for those that it has started, to end."""
        end = time.monotonic() + timeout
        self._join(self._thread, end)
        for thread in self._helpers:  # not before: it may have started one meanwhile
            self._join(thread, end)

    @staticmethod
    def _join(thread: threading.Thread, end: float) -> None:
        if thread is not threading.current_thread():
            thread.join(max(0.0, end - time.monotonic()))

    def _supervise(self) -> None:
        going = True
        while going:
            try:
                going = self._look_round()
            except Exception as error:
                log(_LOGGER, logging.ERROR, "the supervisor raised", error=error)
                time.sleep(self._period)

    def _look_round(self) -> bool:
        """Wait until something may be due, and see to it; False when it is to end."""
        pool = self._pool
        events: list[tuple[int, str]] = []
        with pool.lock:
            if not (self._stopping or self._may_plan()):
                pool.attention.wait(self._period)
            if self._stopping:
                return False
            now = self._look(events)
            for worker in list(pool.workers.values()):
                self._check(worker, now, events)
            for state in self._scheduler.devices.values():
                state.forgive(now)
            problem, reason = self._problem(now)
            if problem is not None:
                self._scheduler.placements.note_planned(now)
                self._planning = True
        if events:
            log_events(events)
            self._looked = self._clocks()  # a handler of the log may have kept it
        if problem is not None:
            # On a thread of its own: a placement may take long, and watchdogs may not wait.
            try:
                self._help("planner", self._plan, problem, reason)
            except RuntimeError:  # no thread for it now
                with pool.lock:
                    self._planning, self._scheduler.placements.needed = False, True
                raise
        return True

    def _help(self, name: str, target: Callable[..., None], *arguments: object) -> None:
        """Have something done on another thread.

        Raises:
            RuntimeError: there can be no further one.
        """
        helper = threading.Thread(
            target=target, args=arguments, name=f"executor-{name}", daemon=True
        )
        helper.start()
        # join() may come at any time, and joins only what runs.
        self._helpers = [*(each for each in self._helpers if each.is_alive()), helper]

    def _look(self, events: list[tuple[int, str]]) -> float:
        """Note (lock held) whether the process stood still since the last look; return the time."""
        now, before = self._clocks(), self._looked
        # By both clocks, for that of a test jumps.
        late = min(now[0] - before[0], now[1] - before[1]) - self._period
        if late > STANDSTILL:
            self._resumed = now[0]
            text = f"the process stood still for {late:.1f} s: watchdogs begin anew"
            events.append((logging.WARNING, text))
        self._looked = now
        return now[0]

    def _clocks(self) -> tuple[float, float]:
        return self._pool.clock(), time.monotonic()

    def _check(self, worker: Worker, now: float, events: list[tuple[int, str]]) -> None:
        """Look (lock held) whether a worker's callback, call or restart hangs."""
        options, batch = self._scheduler.options, worker.state.running
        if worker.started and not worker.alive:
            self._pool.revive(worker, now)
            return
        if worker.callback is not None:
            # What is under way waits for the callback: it does not hang itself.
            limit = options.callback_limit
            if (
                limit
                and now - max(worker.callback[2], self._resumed) > limit
                and self._pool.take_over(worker, now)
            ):
                events.extend(self._scheduler.callback_hangs(*worker.callback, now).events)
            return
        if not worker.busy or worker.abandoned:
            return
        if batch is not None and now > max(batch.watchdog_at, self._resumed + batch.watchdog):
            error = HungError(
                f"detect() of {batch.model.name} has not returned for {now - batch.began:.2f} s "
                f"(expected {batch.expected_end - batch.began:.3f} s)"
            )
        elif now > worker.restart_watchdog_at and now > self._resumed + options.restart_watchdog:
            error = HungError(f"restart has not returned for {options.restart_watchdog:g} s")
        else:
            return
        for outcome in self._pool.leave(worker, error, now):
            self._report(outcome, worker, events)

    def _report(self, outcome: Outcome, worker: Worker, events: list[tuple[int, str]]) -> None:
        """Have the drops told by a worker that is left behind (lock held), and keep the events."""
        successor = self._pool.workers[worker.state.device]
        if successor is not worker:
            successor.take(outcome)  # and this supervisor watches its callbacks
            return
        events.extend(outcome.events)
        if outcome.drops:
            drops = Outcome(outcome.drops)
            try:
                self._help("reporter", drops.report)
            except RuntimeError:  # no thread for it now
                worker.take(drops)  # which tells them when its call returns

    def _may_plan(self) -> bool:
        """Whether a policy is to be asked at once."""
        if self._planning or not self._scheduler.placements.needed:
            return False
        # The last one to start replans for all.
        statuses = [state.status for state in self._scheduler.devices.values()]
        return DeviceStatus.STARTING not in statuses

    def _problem(self, now: float) -> tuple[PlacementProblem | None, str]:
        """Return what a policy is to be asked now, None for nothing, and why."""
        placements = self._scheduler.placements
        if self._planning:
            return None, ""
        if placements.needed:
            if self._may_plan():
                return placements.problem(now), "streams or devices changed"
            return None, ""
        if self._scheduler.policy.replans and now >= self._next_look:
            self._next_look = now + DRIFT_PERIOD
            if placements.drifted(now):
                return placements.problem(now, drifted=True), "rates or times changed"
        return None, ""

    def _plan(self, problem: PlacementProblem, reason: str) -> None:
        """Ask the policy, and move the streams."""
        try:
            placement = self._scheduler.policy.place(problem)
        except Exception as error:
            text = "placement failed; streams stay where they are"
            log(_LOGGER, logging.ERROR, text, error=error)
            placement = {}
        with self._pool.lock:
            self._planning = False
            now = self._pool.clock()
            outcome = self._scheduler.apply_placement(placement, reason, now)
            self._pool.wake_all()
        outcome.report()
