# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""WorkerPool: the workers of all devices, and what they share with executor and supervisor."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType

from yolox_trt.core.device import Device
from yolox_trt.core.errors import EngineError
from yolox_trt.core.faults import HungError
from yolox_trt.detectors.detector import Detector
from yolox_trt.executor.ledger import Outcome
from yolox_trt.executor.scheduler import Scheduler
from yolox_trt.executor.snapshot import DeviceStatus
from yolox_trt.executor.worker import Worker, close_all

#: Builds a Detector for a model on a Device, when a failed one must be replaced.
DetectorFactory = Callable[[Device, str], Detector]

#: Hung threads that a device may leave behind before it is given up until one returns.
MAX_HUNG_THREADS = 4

#: Seconds that workers get when time is over, to end what need not wait for anything.
_GRACE = 0.1


class WorkerPool:
    """One worker for each device. But for `join` and `close`, its methods need `lock` held.

    Args:
        scheduler: gives out the work.
        clock: returns the time in seconds.
        detectors: (Device, model) -> Detector.
        factory: makes a new Detector for a device that failed, None for nothing.
        nvtx: the package nvtx if calls are marked for Nsight Systems.

    Attributes:
        lock: guards the scheduler and the pool.
        attention: wakes the supervisor.
        ended: tells that a worker has ended, or that another run has begun.
        run: number of the present run, or of the last one.
        stopping: whether the workers end.
        closed: whether the detectors are closed for good.
        workers: of each device the one that serves it.
        retired: those that callbacks have kept until another one took over.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        clock: Callable[[], float],
        detectors: Mapping[tuple[Device, str], Detector],
        factory: DetectorFactory | None,
        nvtx: ModuleType | None,
    ) -> None:
        self.scheduler = scheduler
        self.clock = clock
        self.factory = factory
        self.nvtx = nvtx
        self.lock = threading.Lock()
        self.attention = threading.Condition(self.lock)
        self.ended = threading.Condition(self.lock)
        self.run = 0
        self.stopping = False
        self.closed = False
        self.workers: dict[Device, Worker] = {}
        self.retired: set[Worker] = set()
        self._hung: dict[Device, set[Worker]] = {}
        for device, state in scheduler.devices.items():
            state.wakeup = threading.Condition(self.lock)
            self.workers[device] = worker = Worker(self, state)
            worker.detectors = {m: d for (where, m), d in detectors.items() if where == device}
            self._hung[device] = set()

    def start(self) -> None:
        """Start the workers of the devices that are to start; those that have not ended go on."""
        self.stopping = False
        self.run += 1
        going_on = {device for device, worker in self.workers.items() if worker.started}
        self.scheduler.start(going_on)
        for device, worker in self.workers.items():
            if device not in going_on and worker.state.status is DeviceStatus.STARTING:
                self._start(worker)
        self.ended.notify_all()
        self.wake_all()

    def _start(self, worker: Worker) -> None:
        """Start a worker's thread, or leave it to `revive` if there can be no further one now."""
        with contextlib.suppress(RuntimeError):
            worker.start()

    def join(self, run: int, end: float) -> bool:
        """Wait for the workers to end, once `stopping` is set; leave behind those that hang.

        Where a callback asks, its own thread is not waited for.

        Args:
            run: the `run` that was stopped; one that has begun since is left alone.
            end: until when, in seconds of time.monotonic().

        Returns:
            Whether all have ended.
        """
        outcomes: list[Outcome] = []
        late = False
        with self.lock:
            workers = {*self.workers.values(), *self.retired}
            if self.run == run:
                for worker in [w for w in workers if w.is_current and w.callback is not None]:
                    if not worker.retired:
                        self.take_over(worker, self.clock())
            while self.run == run and (left := self._left(late)):
                workers.update(left)
                remaining = end - time.monotonic()
                if remaining > 0.0:
                    self.ended.wait(remaining)
                    continue
                now = self.clock()
                taken_over = self._take_over_kept(left, now)
                outcomes += taken_over
                if taken_over or not late:
                    # Those who have just taken over deliver and collect what is left: until none
                    # is kept by a callback, nobody is found to hang in a call.
                    late = True
                    end = time.monotonic() + _GRACE
                    continue
                for worker in left:
                    if worker.busy:
                        what = "a restart" if worker.state.running is None else "a call"
                        error = HungError(f"{what} did not end in time when the executor stopped")
                        outcomes += self.leave(worker, error, now)
                break
            hung = [worker for each in self._hung.values() for worker in each]
            known = (*self.workers.values(), *self.retired, *hung)
            all_ended = self.run == run and not any(worker.started for worker in known)
        for outcome in outcomes:
            outcome.report()
        end = max(end, time.monotonic() + _GRACE)
        for worker in workers:
            if not worker.started:  # what is left of its thread
                worker.join(end)
        return all_ended

    def _left(self, late: bool) -> list[Worker]:
        """Return the workers that have not ended; if it is late, not those kept by a callback."""
        workers = (*self.workers.values(), *(() if late else self.retired))
        return [w for w in workers if w.started and not w.abandoned and not w.is_current]

    def _take_over_kept(self, workers: Iterable[Worker], now: float) -> list[Outcome]:
        """Let other threads go on for all that are kept by a callback."""
        return [
            self.scheduler.callback_hangs(*worker.callback, now)
            for worker in workers
            if worker.callback is not None and not worker.retired and self.take_over(worker, now)
        ]

    def close(self) -> None:
        """Close the detectors. Workers that have not ended close their own when they do."""
        with self.lock:
            self.closed = True
            detectors = {}
            for device, worker in self.workers.items():
                if not worker.started:
                    detectors[device], worker.detectors = worker.detectors, {}
        for device, each in detectors.items():
            close_all(device, each)

    def wake_all(self) -> None:
        """Let all workers, and the supervisor, look at what has changed."""
        self.attention.notify_all()
        for state in self.scheduler.devices.values():
            state.wakeup.notify_all()

    def add_detectors(self, model: str, detectors: Mapping[Device, Detector]) -> None:
        """Give workers the detectors of a further model."""
        for device, detector in detectors.items():
            self.workers[device].detectors[model] = detector

    def take_over(self, worker: Worker, now: float) -> bool:
        """Let another thread go on with a device whose worker is kept by a callback.

        Returns:
            Whether there is another one: none can be started when Python ends.
        """
        successor = Worker(self, worker.state)
        try:
            successor.start()
        except RuntimeError:
            return False
        successor.detectors, worker.detectors = worker.detectors, {}
        successor.calls, worker.calls = worker.calls, successor.calls
        successor.refused, worker.refused = worker.refused, successor.refused
        successor.deliveries, worker.deliveries = worker.deliveries, successor.deliveries
        successor.in_hand, worker.in_hand = worker.in_hand, None
        self.workers[worker.state.device] = successor
        worker.retired = True
        self.retired.add(worker)
        if worker.state.running is not None:
            worker.state.running.rearm(now)
        return True

    def leave(self, worker: Worker, error: HungError, now: float) -> list[Outcome]:
        """Leave a worker behind that hangs; another one restarts its device, where possible.

        That one begins at once, or with the next start where the pool is stopping.
        """
        device = worker.state.device
        outcomes = [self.scheduler.device_failed(device, now, error)]
        worker.abandoned = True
        worker.restart_watchdog_at = math.nan
        hung = self._hung[device]
        hung.add(worker)
        if self.factory is None or len(hung) >= MAX_HUNG_THREADS:
            outcomes.append(self.scheduler.device_lost(device, now))
        else:
            self.workers[device] = successor = Worker(self, worker.state)
            if not self.stopping:
                self._start(successor)
        self.wake_all()
        return outcomes

    def take_back(self, worker: Worker) -> bool:
        """Take back a worker whose hung call has returned; False if its device has another one."""
        self._hung[worker.state.device].discard(worker)
        if worker.state.status is not DeviceStatus.LOST or self.closed:
            return False
        self.workers[worker.state.device] = worker
        return True

    def revive(self, worker: Worker, now: float) -> None:
        """Give a worker a thread again that has none: none could be started, or it has died."""
        state = worker.state
        tried = state.status is DeviceStatus.OUT_OF_SERVICE and now < state.retry_at
        if tried or state.status is DeviceStatus.BROKEN:
            return
        error = EngineError(
            f"the thread of {state.name} could not be started, or has died",
            expected="as many threads as there are devices",
            fix="raise the limit of threads of the process or its container",
        )
        worker.abandoned = False
        self._hung[state.device].discard(worker)
        worker.lose(error)
        self._start(worker)

    def note_end(self, worker: Worker) -> None:
        """Note that a worker's thread ends."""
        self.retired.discard(worker)
        self.ended.notify_all()
