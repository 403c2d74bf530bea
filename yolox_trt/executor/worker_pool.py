# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""WorkerPool: the workers of all devices, and what they share with executor and supervisor."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from types import ModuleType

from yolox_trt.core.device import Device
from yolox_trt.core.faults import HungError
from yolox_trt.detectors.detector import Detector
from yolox_trt.executor.ledger import Outcome
from yolox_trt.executor.scheduler import Scheduler
from yolox_trt.executor.snapshot import DeviceStatus
from yolox_trt.executor.worker import Worker

#: Builds a Detector for a model on a Device, when a failed one must be replaced.
DetectorFactory = Callable[[Device, str], Detector]

#: Hung threads that a device may leave behind before it is given up until one returns.
MAX_HUNG_THREADS = 4


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
        stopping: whether the workers end.
        closed: whether the detectors are closed for good.
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
        self.stopping = False
        self.closed = False
        self.workers: dict[Device, Worker] = {}
        self._hung: dict[Device, list[Worker]] = {}
        self._retired: list[Worker] = []
        for device, state in scheduler.devices.items():
            state.wakeup = threading.Condition(self.lock)
            self.workers[device] = worker = Worker(self, state)
            worker.detectors = {m: d for (where, m), d in detectors.items() if where == device}
            self._hung[device] = []

    def start(self) -> None:
        """Start the workers of the devices that are to start."""
        self.stopping = False
        for worker in self.workers.values():
            if worker.state.status is DeviceStatus.STARTING:
                worker.start()

    def join(self, end: float) -> bool:
        """Wait for the workers to end, once `stopping` is set; leave behind those that hang.

        Args:
            end: until when, in seconds of time.monotonic().

        Returns:
            Whether all have ended.
        """
        workers = list(self.workers.values())
        for worker in workers:
            worker.join(end)
        with self.lock:
            now = self.clock()
            kept = [w for w in workers if w.alive and w.callback is not None]
            outcomes = [self.take_over(worker, now) for worker in kept]
            workers = list(self.workers.values())
            retired = self._retired = [w for w in self._retired if w.alive]
        # Those who have just taken over collect what is under way.
        end = max(end, time.monotonic() + 0.1)
        for worker in [*workers, *retired]:
            worker.join(end)
        stuck = [worker for worker in workers if worker.alive]
        with self.lock:
            now = self.clock()
            for worker in stuck:
                device = worker.state.device
                if worker.state.running is not None:
                    error = HungError("a call did not end in time when the executor stopped")
                    outcomes.append(self.scheduler.device_failed(device, now, error))
                self._leave(worker)
                outcomes.append(self.scheduler.device_lost(device, now))
        for outcome in outcomes:
            outcome.report()
        return not stuck and not any(worker.alive for worker in retired)

    def close(self) -> None:
        """Close the detectors, but not those that still hang."""
        self.closed = True
        for worker in self.workers.values():
            if not worker.alive:
                worker.close_detectors()

    def wake_all(self) -> None:
        """Let all workers, and the supervisor, look at what has changed."""
        self.attention.notify_all()
        for state in self.scheduler.devices.values():
            state.wakeup.notify_all()

    def add_detectors(self, model: str, detectors: Mapping[Device, Detector]) -> None:
        """Give workers the detectors of a further model."""
        for device, detector in detectors.items():
            self.workers[device].detectors[model] = detector

    def take_over(self, worker: Worker, now: float) -> Outcome:
        """Let another thread go on with a device whose worker is kept by a callback."""
        assert worker.callback is not None
        stream, name, since = worker.callback
        worker.blocked.append(stream)
        successor = self.workers[worker.state.device] = Worker(self, worker.state)
        successor.detectors, worker.detectors = worker.detectors, {}
        successor.calls, worker.calls = worker.calls, successor.calls
        if worker.in_hand in worker.state.under_way:  # not lost meanwhile
            successor.in_hand = worker.in_hand
        worker.in_hand = None
        worker.retired = True
        self._retired.append(worker)
        if worker.state.running is not None:
            worker.state.running.rearm(now)
        successor.start()
        return self.scheduler.callback_hangs(stream, name, since, now)

    def give_up(self, worker: Worker, error: HungError, now: float) -> list[Outcome]:
        """Leave a worker behind that hangs; another one restarts its device, where possible."""
        device = worker.state.device
        outcomes = [self.scheduler.device_failed(device, now, error)]
        self._leave(worker)
        if self.factory is None or len(self._hung[device]) >= MAX_HUNG_THREADS:
            outcomes.append(self.scheduler.device_lost(device, now))
        else:
            self.workers[device] = Worker(self, worker.state)
            self.workers[device].start()
        self.wake_all()
        return outcomes

    def _leave(self, worker: Worker) -> None:
        worker.abandoned = True
        worker.restart_watchdog_at = math.nan
        self._hung[worker.state.device].append(worker)

    def take_back(self, worker: Worker) -> bool:
        """Take back a worker whose hung call has returned; False if its device has another one."""
        hung = self._hung[worker.state.device]
        if worker in hung:
            hung.remove(worker)
        if worker.state.status is not DeviceStatus.LOST or self.closed:
            return False
        self.workers[worker.state.device] = worker
        return True
