# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Supervisor: finds what hangs, and has streams placed anew when demands have changed."""

from __future__ import annotations

import logging
import math
import threading
import time

from yolox_trt.core.faults import HungError
from yolox_trt.executor.ledger import Outcome
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
    """A thread that watches a pool's workers, from its creation until the pool stops."""

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
        self._planner: threading.Thread | None = None
        self._planning = False
        self._thread = threading.Thread(
            target=self._supervise, name="executor-supervisor", daemon=True
        )
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the thread, and for a placement that is being made, to end."""
        end = time.monotonic() + timeout
        self._thread.join(timeout)
        if self._planner is not None:
            self._planner.join(max(0.0, end - time.monotonic()))

    def _supervise(self) -> None:
        pool = self._pool
        while True:
            with pool.lock:
                if not pool.stopping and (self._planning or not self._scheduler.placements.needed):
                    pool.attention.wait(self._period)
                if pool.stopping:
                    return
                now = self._look()
                outcomes = [o for w in list(pool.workers.values()) for o in self._check(w, now)]
                for state in self._scheduler.devices.values():
                    state.forgive(now)
                problem, reason = self._problem(now)
                if problem is not None:
                    self._scheduler.placements.note_planned(now)
                    self._planning = True
            for outcome in outcomes:
                outcome.report()
                self._looked = self._clocks()  # a callback may have kept it
            if problem is not None:
                # On a thread of its own: a placement may take long, and watchdogs may not wait.
                planner = threading.Thread(
                    target=self._plan, args=(problem, reason), name="executor-planner", daemon=True
                )
                planner.start()
                self._planner = planner  # join() may come at any time, and joins only what runs

    def _look(self) -> float:
        """Note (lock held) whether the process stood still since the last look; return the time."""
        now, before = self._clocks(), self._looked
        # By both clocks, for that of a test jumps.
        late = min(now[0] - before[0], now[1] - before[1]) - self._period
        if late > STANDSTILL:
            self._resumed = now[0]
            _LOGGER.warning("the process stood still for %.1f s: watchdogs begin anew", late)
        self._looked = now
        return now[0]

    def _clocks(self) -> tuple[float, float]:
        return self._pool.clock(), time.monotonic()

    def _check(self, worker: Worker, now: float) -> list[Outcome]:
        """Look whether a worker's callback, call or restart hangs."""
        options, batch = self._scheduler.options, worker.state.running
        if worker.callback is not None:
            # What is under way waits for the callback: it does not hang itself.
            limit = options.callback_limit
            if limit and now - max(worker.callback[2], self._resumed) > limit:
                return [self._pool.take_over(worker, now)]
            return []
        if batch is not None and now > max(batch.watchdog_at, self._resumed + batch.watchdog):
            error = HungError(
                f"detect() of {batch.model.name} has not returned for {now - batch.began:.2f} s "
                f"(expected {batch.expected_end - batch.began:.3f} s)"
            )
        elif now > worker.restart_watchdog_at and now > self._resumed + options.restart_watchdog:
            error = HungError(f"restart has not returned for {options.restart_watchdog:g} s")
        else:
            return []
        return self._pool.give_up(worker, error, now)

    def _problem(self, now: float) -> tuple[PlacementProblem | None, str]:
        """Return what a policy is to be asked now, None for nothing, and why."""
        placements = self._scheduler.placements
        if self._planning:
            return None, ""
        if placements.needed:
            statuses = [state.status for state in self._scheduler.devices.values()]
            if DeviceStatus.STARTING in statuses:
                self._pool.attention.wait(self._period)  # the last one to start replans for all
                return None, ""
            return placements.problem(now), "streams or devices changed"
        if self._scheduler.policy.replans and now >= self._next_look:
            self._next_look = now + DRIFT_PERIOD
            if placements.drifted(now):
                return placements.problem(now, drifted=True), "rates or times changed"
        return None, ""

    def _plan(self, problem: PlacementProblem, reason: str) -> None:
        """Ask the policy, and move the streams."""
        try:
            placement = self._scheduler.policy.place(problem)
        except Exception:
            _LOGGER.exception("placement failed; streams stay where they are")
            placement = {}
        with self._pool.lock:
            self._planning = False
            now = self._pool.clock()
            outcome = self._scheduler.apply_placement(placement, reason, now)
            self._pool.wake_all()
        outcome.report()
