# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Worker: one device's thread. It runs calls, delivers results, and restarts a failed device."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import ConfigurationError, EngineError, FrameError
from yolox_trt.core.faults import DeviceBusyError
from yolox_trt.core.frame import Frame
from yolox_trt.core.memory import return_freed_memory
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.detector import Detector, StageTimes
from yolox_trt.executor.device_state import Batch, DeviceState
from yolox_trt.executor.ledger import NOTHING, Outcome
from yolox_trt.executor.outcomes import DropReason, malformed, worth_logging
from yolox_trt.executor.snapshot import DeviceStatus
from yolox_trt.executor.stream import Stream
from yolox_trt.executor.stream_result import ResultTiming, StreamResult

if TYPE_CHECKING:
    from yolox_trt.executor.worker_pool import WorkerPool

_LOGGER = logging.getLogger(__name__)
_UNMARKED = contextlib.nullcontext()
_all = np.logical_and.reduce


class Worker:
    """One thread that owns a device's detectors.

    Attributes:
        detectors: by model.
        calls: what the detectors were given and what is to be collected, oldest first.
        in_hand: a batch that the scheduler gave out and no detector has got yet.
        callback: the callback that runs (its stream and name), and since when.
        retired: whether it is to end: another worker has taken over its device.
        blocked: the streams whose callbacks kept this worker until then.
        abandoned: whether the watchdog has given it up.
        restart_watchdog_at: when a restart that is under way counts as hung, in seconds.
    """

    def __init__(self, pool: WorkerPool, state: DeviceState) -> None:
        self.state = state
        self.detectors: dict[str, Detector] = {}
        self.calls: deque[Batch] = deque()
        self.in_hand: Batch | None = None
        self.callback: tuple[Stream, str, float] | None = None
        self.retired = False
        self.blocked: list[Stream] = []
        self.abandoned = False
        self.restart_watchdog_at = math.nan
        self._pool = pool
        self._scheduler = pool.scheduler
        self._lock = pool.lock
        self._now = pool.clock
        self._nvtx = pool.nvtx
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self.state.waiting = False
        name = f"executor-{self.state.name}"
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def join(self, until: float) -> None:
        """Wait for the thread to end, until a time of time.monotonic()."""
        if self._thread is not None:
            self._thread.join(max(0.0, until - time.monotonic()))

    def close_detectors(self) -> None:
        """Close the detectors."""
        detectors, self.detectors = self.detectors, {}
        for detector in detectors.values():
            try:
                detector.close()
            except Exception:
                _LOGGER.exception("close() of a detector on %s raised", self.state.device)

    def _work(self) -> None:
        finished: Batch | None = None
        step: Callable[[], Batch | None] | None
        outcome: Outcome | None
        while True:
            step = outcome = None  # a worker that waits keeps no frame
            with self._lock:
                if finished is not None:
                    self._release(finished)
                    finished = None
                step, outcome = self._next_step()
            if outcome is not NOTHING:
                outcome.report(self._watch)
                with self._lock:
                    self.callback = None
                    if self.retired:
                        continue  # its batch and its calls are its successor's
                    if self.state.running is not None:
                        self.state.running.rearm(self._now())
            if step is None:
                return
            finished = step()

    def _next_step(self) -> tuple[Callable[[], Batch | None] | None, Outcome]:
        """Wait (lock held) for something to do.

        Returns:
            What to do, None to end the thread; and what is to be reported before.
        """
        state, scheduler = self.state, self._scheduler
        self.callback = None
        while True:
            if self.retired:
                for stream in self.blocked:
                    stream.callback_blocked_since = math.nan
                return None, NOTHING
            if self.abandoned:
                return self._come_back, NOTHING
            if self.in_hand is not None:
                return self._start_call, NOTHING
            now = self._now()
            wake_at: float | None = None
            outcome = NOTHING
            if state.status is DeviceStatus.IN_SERVICE:
                choice: Batch | float | None = None
                if not self._pool.stopping:
                    choice, outcome = scheduler.next_batch_of(state, now)
                if isinstance(choice, Batch):
                    self.in_hand = choice
                    return self._start_call, outcome
                if self.calls:  # a result never waits for a frame
                    return self._collect, outcome
                wake_at = choice
            if self._pool.stopping:
                # What was lost with the device may still run: the thread is not over before it is.
                return (self._discard_calls if self.calls else None), outcome
            if state.status is not DeviceStatus.IN_SERVICE:
                if state.status is DeviceStatus.STARTING or now >= state.retry_at:
                    if state.status is DeviceStatus.OUT_OF_SERVICE:
                        state.status = DeviceStatus.RESTARTING
                    self.restart_watchdog_at = now + scheduler.options.restart_watchdog
                    return self._restart, outcome
                wake_at = None if math.isnan(state.retry_at) else state.retry_at
            if outcome is not NOTHING:
                return self._look_again, outcome
            state.waiting = True
            state.wakeup.wait(None if wake_at is None else max(0.0, wake_at - now))
            state.waiting = False

    def _look_again(self) -> None:
        """Do nothing: what has happened is reported."""

    def _release(self, batch: Batch) -> None:
        """Let the streams of a delivered batch go on (lock held)."""
        for state in self._scheduler.release(batch, self._now()):
            state.wakeup.notify()

    # Calls -----------------------------------------------------------------------------------

    def _start_call(self) -> Batch | None:
        """Give the batch in hand to its detector, or run it if calls cannot overlap.

        Returns:
            The batch if its results are delivered already.
        """
        batch, self.in_hand = self.in_hand, None
        assert batch is not None
        if batch.model.calls < 2:
            return self._run(batch)
        detector = self.detectors[batch.model.name]
        frames = [pending.frame for pending in batch.frames]
        options = [pending.options for pending in batch.frames]
        try:
            with self._mark(batch) if self._nvtx else _UNMARKED:
                batch.ticket = detector.enqueue(frames, options)
        except (FrameError, ConfigurationError, DeviceBusyError, MemoryError):
            pass
        except Exception as error:
            self._fail(batch, error)
            return None
        else:
            self.calls.append(batch)
            return None
        # detect() finds out which frame it is, or how many fit; it needs the detector for itself.
        while self.calls:
            self.in_hand = batch
            before = self._collect()
            with self._lock:
                self.in_hand = self.callback = None
                if before is not None:
                    self._release(before)
                # Else the device has failed, and this batch is lost with it.
                if before is None or self.retired:
                    return None
        return self._run(batch)

    def _collect(self) -> Batch | None:
        """Wait for the oldest call and deliver its results; None if it was lost."""
        return self._run(self.calls.popleft())

    def _run(self, batch: Batch) -> Batch | None:
        """Collect a batch, or detect in it if no detector has got it, and deliver its results.

        Returns:
            None if it was given up or its device failed.
        """
        detector = self.detectors[batch.model.name]
        stages: StageTimes | None = None
        try:
            with self._mark(batch) if self._nvtx else _UNMARKED:
                results: Sequence[Detections | None]
                if batch.ticket is None:
                    results = self._detect(detector, batch)
                    stages = detector.stage_times
                else:
                    results = _checked(detector.collect(batch.ticket), len(batch.frames))
                    if batch.model.at_once > 1:
                        stages = detector.stage_times
        except Exception as error:
            self._fail(batch, error)
            return None
        batch.model.implausible = detector.plausibility.found
        return self._deliver(batch, results, stages)

    def _detect(self, detector: Detector, batch: Batch) -> Sequence[Detections | None]:
        """Detect in all frames of a batch, in smaller pieces where that is needed."""
        frames = [pending.frame for pending in batch.frames]
        options = [pending.options for pending in batch.frames]
        count = len(frames)
        results: list[Detections | None] = []
        step = count
        while (start := len(results)) < count:
            part = slice(start, min(start + step, count))
            size = part.stop - start
            try:
                results += _checked(detector.detect(frames[part], options[part]), size)
            except (FrameError, ConfigurationError) as error:
                if size > 1:
                    step = 1  # find out which one it is
                    continue
                results.append(None)
                batch.frames[start].failure = DropReason.MALFORMED
                number = batch.streams[start].dropped[DropReason.MALFORMED] + 1
                if worth_logging(number):
                    _LOGGER.warning("%s", malformed(frames[start].stream_id, error, number))
            except MemoryError:
                if size == 1:
                    raise
                step = size // 2
                with self._lock:
                    outcome = self._scheduler.shrink_batch(batch, step, self._now())
                outcome.report()
        return results

    def _deliver(
        self, batch: Batch, results: Sequence[Detections | None], stages: StageTimes | None
    ) -> Batch | None:
        """Count a batch as finished and call back; None if it was given up meanwhile."""
        with self._lock:
            now = self._now()
            if stages is None:  # calls take turns: what a detector measures would belong to two
                stages = StageTimes(inference=max(0.0, now - batch.began))
            outcome = self._scheduler.finish(batch, now, stages)
        if outcome is None:
            return None
        if outcome is not NOTHING:
            outcome.report(self._watch)
        for stream, pending, detections in zip(batch.streams, batch.frames, results, strict=True):
            if pending.failure is not None:
                continue
            if stream.removed:  # since it was counted
                with self._lock:
                    outcome = self._scheduler.discard(stream, pending.frame, self._now())
                outcome.report(self._watch)
                continue
            assert detections is not None
            frame = pending.frame
            if frame.reduction != 1:
                detections = detections.enlarged(frame.reduction, *frame.source_size)
            timing = ResultTiming(
                pending.received, pending.submitted, batch.started, now, stages, len(results)
            )
            result = StreamResult(
                frame,
                detections,
                self.state.device,
                batch.model.name,
                timing,
                now > pending.deadline,
            )
            self.callback = (stream, "on_result", self._now())
            stream.call_back("on_result", stream.on_result, result)
        return batch

    def _fail(self, batch: Batch, error: Exception) -> None:
        with self._lock:
            if batch not in self.state.under_way:  # given up before: it has been counted as hung
                self.state.late_results += 1
                return
            outcome = self._scheduler.device_failed(self.state.device, self._now(), error)
            self._pool.wake_all()
        outcome.report(self._watch)

    def _watch(self, stream: Stream, name: str) -> None:
        """Let the supervisor watch a callback.

        It does so until this worker holds the lock again: otherwise it might find that a callback
        which has just returned has used up the watchdog time of the next call.
        """
        self.callback = (stream, name, self._now())

    def _mark(self, batch: Batch) -> contextlib.AbstractContextManager[Any]:
        """Return an NVTX range; only where calls are marked."""
        assert self._nvtx is not None
        names = " + ".join(stream.config.id for stream in batch.streams)
        return self._nvtx.annotate(f"{self.state.name} {names}")  # type: ignore[no-any-return]

    # Restarts --------------------------------------------------------------------------------

    def _restart(self) -> None:
        """Warm up detectors (first start), or rebuild or probe them (after a failure)."""
        device, state = self.state.device, self.state
        first = state.status is DeviceStatus.STARTING
        times: dict[str, float] = {}
        fault: Exception | None = None
        self._discard_calls()
        try:
            for name, model in list(state.models.items()):
                if not first and self._pool.factory is not None:
                    old = self.detectors.pop(name, None)
                    if old is not None:
                        with contextlib.suppress(Exception):
                            old.close()
                    del old  # with its buffers, before its successor makes new ones
                    self.detectors[name] = self._pool.factory(device, name)
                if name not in self.detectors:
                    raise EngineError(
                        f"no detector for {name} on {device}",
                        expected="a detector factory",
                        fix="give the executor `factory`",
                    )
                detector = self.detectors[name]
                model.calls = min(model.calls, detector.max_calls)
                detector.warmup()
                if not model.measured:
                    times[name] = time_of_one_frame(detector)
        except Exception as error:
            fault = error
        if not first:
            return_freed_memory()
        with self._lock:
            self.restart_watchdog_at = math.nan
            outcome = NOTHING
            if self.abandoned:
                state.late_results += 1
            elif fault is None:
                outcome = self._scheduler.device_started(device, self._now(), times)
            else:
                outcome = self._scheduler.device_failed(device, self._now(), fault)
            self._pool.wake_all()
        outcome.report(self._watch)

    def _discard_calls(self) -> None:
        """Wait for the calls that were lost with their device, so that the detector is at rest."""
        while self.calls:
            batch = self.calls.popleft()
            with contextlib.suppress(Exception):
                detector = self.detectors[batch.model.name]
                assert batch.ticket is not None
                detector.collect(batch.ticket)
                with self._lock:
                    self.state.late_results += 1

    def _come_back(self) -> None:
        """After a hung call has returned: serve the device again if nobody else does."""
        self._discard_calls()
        with self._lock:
            if self._pool.take_back(self):
                self.abandoned = False
                self.state.status = DeviceStatus.OUT_OF_SERVICE
                self.state.retry_at = self._now()
            else:
                self.retired = True
        if self.retired:
            self.close_detectors()


def time_of_one_frame(detector: Detector) -> float:
    """Return the seconds of a call with one grey frame of the network's size: the better of two."""
    spec = detector.spec
    frame = Frame.from_array(np.full((spec.input_height, spec.input_width, 3), 114, np.uint8))
    best = math.inf
    for _ in range(2):
        begin = time.perf_counter()
        detector.detect([frame], [PostprocessOptions()])
        best = min(best, time.perf_counter() - begin)
    return best


def _checked(results: list[Detections], count: int) -> list[Detections]:
    """Return the results; raise an EngineError for another number, or for NaN or infinity."""
    if len(results) != count:
        raise EngineError(
            f"results of {len(results)} frames from a detector that was given {count}",
            expected="one for each frame, in their order",
            fix="correct the detector",
        )
    for found in results:
        # As ufunc.reduce: an array's own all() is Python inside.
        if found.scores.size and not (
            _all(np.isfinite(found.scores)) and _all(np.isfinite(found.boxes), None)
        ):
            raise EngineError(
                "detections with NaN or infinity",
                expected="finite boxes and scores",
                fix="check the engine's precision and calibration",
            )
    return results
