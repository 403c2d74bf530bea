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
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, EngineError, FrameError
from yolox_trt.core.faults import DeviceBusyError
from yolox_trt.core.frame import Frame
from yolox_trt.core.memory import return_freed_memory
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.detector import Detector, StageTimes
from yolox_trt.executor.deliveries import Delivery
from yolox_trt.executor.device_state import Batch, DeviceState
from yolox_trt.executor.ledger import NOTHING, Drop, Outcome, log_events
from yolox_trt.executor.outcomes import DropReason, log, malformed, worth_logging
from yolox_trt.executor.snapshot import DeviceStatus
from yolox_trt.executor.stream import Stream

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
        refused: batches that a detector did not take, or gave back, for detect() to find out why;
            it needs the detector for itself.
        deliveries: callbacks that are due, in their order. They come before everything else.
        callback: the callback that runs (its stream and name), and since when.
        started: whether it has a thread, or is to have one, that has not decided to end.
        retired: whether it is to end: another worker has taken over its device.
        abandoned: whether it was given up, since it hangs.
        restart_watchdog_at: when a restart that is under way counts as hung, in seconds.
    """

    def __init__(self, pool: WorkerPool, state: DeviceState) -> None:
        self.state = state
        self.detectors: dict[str, Detector] = {}
        self.calls: deque[Batch] = deque()
        self.in_hand: Batch | None = None
        self.refused: deque[Batch] = deque()
        self.deliveries: deque[Delivery | Drop] = deque()
        self.callback: tuple[Stream, str, float] | None = None
        self.started = False
        self.retired = False
        self.abandoned = False
        self.restart_watchdog_at = math.nan
        self._delivering: Delivery | Drop | None = None
        self._events: list[tuple[int, str]] = []
        self._pool = pool
        self._scheduler = pool.scheduler
        self._lock = pool.lock
        self._now = pool.clock
        self._nvtx = pool.nvtx
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread (lock held).

        Raises:
            RuntimeError: there can be no further thread. `started` is set all the same.
        """
        self.started = True
        self.state.waiting = False
        name = f"executor-{self.state.name}"
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Whether it is this worker's thread that asks: one of its callbacks."""
        return self._thread is threading.current_thread()

    @property
    def busy(self) -> bool:
        """Whether it is in a call or a restart (lock held), from which it may not come back."""
        if self.retired or self.callback is not None or self.deliveries:
            return False  # it looks before it goes on
        return self.state.running is not None or not math.isnan(self.restart_watchdog_at)

    def join(self, until: float) -> None:
        """Wait for the thread to end, until a time of time.monotonic()."""
        if self.alive and not self.is_current:
            assert self._thread is not None
            self._thread.join(max(0.0, until - time.monotonic()))

    def take(self, outcome: Outcome) -> None:
        """Have this worker's thread report what has happened (lock held)."""
        self.deliveries.extend(drop for drop in outcome.drops if drop.stream.on_drop is not None)
        self._events.extend(outcome.events)

    def close_detectors(self) -> None:
        """Close the detectors."""
        detectors, self.detectors = self.detectors, {}
        close_all(self.state.device, detectors)

    def _work(self) -> None:
        step: Callable[[], None] | None
        while True:
            try:
                step = None  # a worker that waits keeps no frame
                with self._lock:
                    self._end_delivery()
                    step = self._next_step()
                    events = self._events
                    if events:
                        self._events = []
                if events:
                    log_events(events)
                if step is None:
                    return
                step()
            except BaseException as error:
                self._recover(error)
                if not self.started:  # it had decided to end
                    return

    def _next_step(self) -> Callable[[], None] | None:
        """Wait (lock held) for something to do; None ends the thread."""
        state, scheduler, pool = self.state, self._scheduler, self._pool
        while True:
            if self.abandoned:
                return self._come_back
            if self.deliveries and (due := self._begin_delivery(self._now())) is not None:
                return due.call_back
            if self.retired:
                self._end()
                return None
            if self.refused:
                return self._collect if self.calls else self._run_refused
            if self.in_hand is not None:
                return self._start_call
            now = self._now()
            wake_at: float | None = None
            if state.status is DeviceStatus.IN_SERVICE:
                choice: Batch | float | None = None
                if not pool.stopping:
                    choice, outcome = scheduler.next_batch_of(state, now)
                    if outcome is not NOTHING:
                        self.take(outcome)
                if isinstance(choice, Batch):
                    self.in_hand = choice
                    if self.deliveries:
                        continue
                    return self._start_call
                if self.deliveries:
                    continue
                if self.calls:  # a result never waits for a frame
                    return self._collect
                wake_at = choice
            if pool.stopping:
                if self.calls:
                    # What was lost with the device may still run: it is not over before it is.
                    self.restart_watchdog_at = now + scheduler.options.restart_watchdog
                    return self._discard_lost
                if pool.closed and self.detectors:
                    return self.close_detectors
                self._end()
                return None
            if state.status is not DeviceStatus.IN_SERVICE:
                if state.status is DeviceStatus.STARTING or now >= state.retry_at:
                    if state.status is DeviceStatus.OUT_OF_SERVICE:
                        state.status = DeviceStatus.RESTARTING
                    self.restart_watchdog_at = now + scheduler.options.restart_watchdog
                    return self._restart
                wake_at = None if math.isnan(state.retry_at) else state.retry_at
            if self._events:
                return self._look_again
            state.waiting = True
            state.wakeup.wait(None if wake_at is None else max(0.0, wake_at - now))
            state.waiting = False

    def _look_again(self) -> None:
        """Do nothing: what has happened is logged."""

    def _end(self) -> None:
        """Note (lock held) that the thread ends: it does not look again."""
        self.started = False
        self._pool.note_end(self)

    def _recover(self, error: BaseException) -> None:
        """Go on after an error of the executor's own code, or one that is to end the thread.

        It costs the device a restart; without its thread it would stand still for ever.
        """
        try:
            log(_LOGGER, logging.ERROR, "the worker of %s raised", self.state.name, error=error)
            with self._lock:
                self.restart_watchdog_at = math.nan
                given_up = self.state.status in (DeviceStatus.LOST, DeviceStatus.BROKEN)
                if not (self.retired or self.abandoned or given_up):
                    self.lose(error)
        except BaseException:
            time.sleep(0.1)  # what fails always must not keep a core busy

    # Deliveries ------------------------------------------------------------------------------

    def _begin_delivery(self, now: float) -> Delivery | Drop | None:
        """Take the next callback that is due (lock held); None if there is none left."""
        while self.deliveries:
            delivery = self.deliveries.popleft()
            stream, name = delivery.stream, "on_drop"
            if isinstance(delivery, Delivery):
                if delivery.pending.failure is None:
                    name, due = "on_result", stream.undelivered is delivery.pending
                    stream.undelivered = None
                else:
                    due = stream.on_drop is not None
                if not due:  # such a result was dropped with its stream
                    self._release(stream, now)
                    continue
            self._delivering = delivery
            # The supervisor watches it until this worker holds the lock again: else it might find
            # that a callback which has just returned has used up the time of the next call.
            self.callback = (stream, name, now)
            return delivery
        return None

    def _end_delivery(self) -> None:
        """Let the stream go on whose callback has returned (lock held).

        The rest is the successor's where one has taken over: it was given what was due.
        """
        self.callback = None
        delivery, self._delivering = self._delivering, None
        if delivery is None:
            return
        stream, now = delivery.stream, self._now()
        if self.retired:
            stream.callback_blocked_since = math.nan
        elif not self.abandoned and (running := self.state.running) is not None:
            running.rearm(now)  # it could not be collected meanwhile
        if isinstance(delivery, Delivery):
            self._release(stream, now)

    def _release(self, stream: Stream, now: float) -> None:
        for state in self._scheduler.release((stream,), now):
            state.wakeup.notify()

    # Calls -----------------------------------------------------------------------------------

    def _start_call(self) -> None:
        """Give the batch in hand to its detector, or run it if calls cannot overlap."""
        batch, self.in_hand = self.in_hand, None
        assert batch is not None
        if batch.model.calls < 2:
            self._run(batch)
            return
        detector = self.detectors[batch.model.name]
        frames = [pending.frame for pending in batch.frames]
        options = [pending.options for pending in batch.frames]
        try:
            with self._mark(batch) if self._nvtx else _UNMARKED:
                batch.ticket = detector.enqueue(frames, options)
        except (FrameError, ConfigurationError, DeviceBusyError, MemoryError):
            self.refused.append(batch)  # detect() finds out which frame it is, or how many fit
        except Exception as error:
            self._fail(batch, error)
        else:
            self.calls.append(batch)

    def _collect(self) -> None:
        """Wait for the oldest call."""
        self._run(self.calls.popleft())

    def _run_refused(self) -> None:
        self._run(self.refused.popleft())

    def _run(self, batch: Batch) -> None:
        """Collect a batch, or detect in it if no detector has got it; deliver what came of it."""
        detector = self.detectors[batch.model.name]
        stages: StageTimes | None = None
        try:
            with self._mark(batch) if self._nvtx else _UNMARKED:
                results: Sequence[Detections | None]
                if batch.ticket is None:
                    results = self._detect(detector, batch)
                    stages = detector.stage_times
                else:
                    ticket, batch.ticket = batch.ticket, None
                    results = _checked(detector.collect(ticket), len(batch.frames))
                    if batch.model.at_once > 1:
                        stages = detector.stage_times
        except (FrameError, ConfigurationError):
            self.refused.append(batch)  # of collect(): a frame is to blame, never the device
            return
        except Exception as error:
            self._fail(batch, error)
            return
        batch.model.implausible = detector.plausibility.found
        with self._lock:
            now = self._now()
            if stages is None:  # calls take turns: what a detector measures would belong to two
                stages = StageTimes(inference=max(0.0, now - batch.began))
            outcome = self._scheduler.finish(batch, now, stages)
            if outcome is None:  # given up before
                return
            for stream, pending, found in zip(batch.streams, batch.frames, results, strict=True):
                self.deliveries.append(Delivery(stream, pending, batch, found))
            if outcome is not NOTHING:
                self._events.extend(outcome.events)  # its drops are deliveries
            due = self._begin_delivery(now)
        if due is not None:
            due.call_back()

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
                    text = malformed(frames[start].stream_id, error, number)
                    log(_LOGGER, logging.WARNING, "%s", text)
            except MemoryError:
                if size == 1:
                    raise
                step = size // 2
                with self._lock:
                    outcome = self._scheduler.shrink_batch(batch, step, self._now())
                outcome.report()
        return results

    def _fail(self, batch: Batch, error: Exception) -> None:
        with self._lock:
            if batch not in self.state.under_way:  # given up before: it has been counted as hung
                self.state.late_results += 1
                return
            self.lose(error)

    def lose(self, error: BaseException) -> None:
        """Take the device out of service (lock held); what was not collected is lost with it."""
        self.in_hand = None
        self.refused.clear()
        self.take(self._scheduler.device_failed(self.state.device, self._now(), error))
        self._pool.wake_all()

    def _mark(self, batch: Batch) -> contextlib.AbstractContextManager[Any]:
        """Return an NVTX range; only where calls are marked."""
        assert self._nvtx is not None
        names = " + ".join(stream.config.id for stream in batch.streams)
        return self._nvtx.annotate(f"{self.state.name} {names}")  # type: ignore[no-any-return]

    # Restarts --------------------------------------------------------------------------------

    def _restart(self) -> None:
        """Warm up detectors (first start), or rebuild or probe them (after a failure)."""
        device, state = self.state.device, self.state
        first, failed = state.status is DeviceStatus.STARTING, state.failed
        times: dict[str, float] = {}
        fault: Exception | None = None
        self._discard_calls()
        try:
            for name, model in list(state.models.items()):
                # What has worked since it was made is kept.
                if self._pool.factory is not None and (failed or name not in self.detectors):
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
            if self.abandoned:
                state.late_results += 1
            elif fault is None:
                self.take(self._scheduler.device_started(device, self._now(), times))
            else:
                self.take(self._scheduler.device_failed(device, self._now(), fault))
            self._pool.wake_all()

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

    def _discard_lost(self) -> None:
        """As above, when the pool stops."""
        self._discard_calls()
        with self._lock:
            self.restart_watchdog_at = math.nan

    def _come_back(self) -> None:
        """After a hung call has returned: serve the device again if nobody else does."""
        self._discard_calls()
        with self._lock:
            self.in_hand = None
            self.refused.clear()
            self.abandoned = False
            if self._pool.take_back(self):
                self.state.status = DeviceStatus.OUT_OF_SERVICE
                self.state.retry_at = self._now()
            else:
                self.retired = True
        if self.retired:
            self.close_detectors()


def close_all(device: Device, detectors: Mapping[str, Detector]) -> None:
    """Close detectors of a device; what one raises is logged."""
    for detector in detectors.values():
        try:
            detector.close()
        except Exception as error:
            text = "close() of a detector on %s raised"
            log(_LOGGER, logging.ERROR, text, device, error=error)


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
