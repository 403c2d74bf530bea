# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""InferenceExecutor: detectors, streams and one worker thread for each Device."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from yolox_trt.core.contention import Contention
from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, EngineError, FrameError
from yolox_trt.core.faults import DeviceBusyError
from yolox_trt.core.frame import Frame
from yolox_trt.core.optional import require
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.detector import (
    Detector,
    StageTimes,
)
from yolox_trt.executor.clock import Clock, MonotonicClock
from yolox_trt.executor.device_state import Batch, ModelServer
from yolox_trt.executor.outcomes import DropReason, SubmitOutcome
from yolox_trt.executor.placement import PlacementPolicy, PlacementProblem, create_policy
from yolox_trt.executor.scheduler import ASSUMED_TIME, Scheduler
from yolox_trt.executor.scheduler_options import SchedulerOptions
from yolox_trt.executor.snapshot import DeviceStatus, ExecutorSnapshot
from yolox_trt.executor.stream import DropCallback, ResultCallback, Stream
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.executor.stream_result import ResultTiming, StreamResult
from yolox_trt.executor.timeline import Timeline

#: Builds a Detector for a model on a Device, when a failed one must be replaced.
DetectorFactory = Callable[[Device, str], Detector]

#: Hung threads that a device may leave behind before it is given up until one returns.
MAX_HUNG_THREADS = 4

_LOGGER = logging.getLogger(__name__)
_OUT_OF_MEMORY = (
    "out of memory",
    "outofmemory",
    "cudaerrormemoryallocation",
    "failed to allocate memory",  # ONNX Runtime's arena, and below where it has a limit
    "is smaller than requested bytes",
    "bad_alloc",
)


#: Errors after which every further CUDA call of the process fails (CUDA Runtime API, "Error
#: handling": the process must be terminated and relaunched), by name and by text.
_STICKY = (
    "cudaerrorillegaladdress",
    "illegal memory access",
    "cudaerrorlaunchfailure",
    "unspecified launch failure",
    "cudaerroreccuncorrectable",
    "uncorrectable ecc error",
    "cudaerrorillegalinstruction",
    "illegal instruction was encountered",
    "cudaerrormisalignedaddress",
    "misaligned address",
    "cudaerrorinvalidpc",
    "invalid program counter",
    "cudaerrorinvalidaddressspace",
    "cudaerrorhardwarestackerror",
    "hardware stack error",
    "cudaerrorassert",
    "device-side assert triggered",
)


class _Call(NamedTuple):
    """A call under way inside a detector."""

    batch: Batch
    detector: Detector
    ticket: Any


class _Worker:
    """One thread that owns a device's detectors."""

    def __init__(self, device: Device, lock: threading.Lock) -> None:
        self.device = device
        self.condition = threading.Condition(lock)
        self.detectors: dict[str, Detector] = {}
        #: Calls that a detector was given and that are to be collected, oldest first.
        self.calls: deque[_Call] = deque()
        #: A batch that the scheduler gave out and no detector has got yet, while callbacks run.
        self.in_hand: Batch | None = None
        #: Whether it waits on its condition, and takes what is there as soon as it is woken.
        self.waiting = False
        #: The callback that runs, its name, and since when.
        self.callback: tuple[Stream, str, float] | None = None
        #: Whether another worker has taken over because a callback does not return.
        self.retired = False
        self.blocked: list[Stream] = []
        self.abandoned = False
        self.restart_watchdog_at = math.nan
        self.thread: threading.Thread | None = None


class InferenceExecutor:
    """Shares the devices' detectors among many streams.

    Frames enter by `submit` on any thread and leave by the stream's `on_result`, on the worker
    thread of the device that made them. Results of one stream come in the order of its frames,
    whatever device they ran on. Each accepted frame ends in exactly one call of on_result or
    on_drop (if given). An exception in a callback is counted and logged.

    A detector that raises (anything but FrameError), gives NaN, or does not return within the
    watchdog time takes its device out of service: the running frames are lost (counted as
    failed), its streams move to devices that may serve them, and it is retried with back-off
    until it returns. A hung call cannot be ended; its thread is left behind and its results are
    discarded, while `factory` makes a new detector. A FrameError costs only its frame. Out of
    memory first halves the batch.

    Args:
        detectors: (Device, model) -> Detector, or a sequence of Detectors that all run the model
            "default". The executor owns them: `close` closes them.
        policy: "static", "balanced", "dynamic", or a PlacementPolicy.
        options: times of watchdog, back-off, batching.
        factory: makes a new Detector for a device that failed; without it the old one is probed
            by its warmup().
        times: (Device, model) -> seconds for one frame; measured at start() where not given.
        max_batch: most frames of one call; 0 = each detector's own max_batch. Always 1 on a DLA.
        gpu_share: DLA device -> seconds of the GPU for each of its frames, for the balanced
            policy; missing means 0.
        contention: how the devices slow one another down; None where it is not known. Then it is
            in the measured times of the present placement, and no policy foresees what another
            placement does to it.
        overlap: whether a device is given its next call while it works on the last one, where its
            detector can do that (its `max_calls`).
        clock: where time comes from; Frame.received_ns must be of the same clock.
        timeline_capacity: entries of the timeline; 0 = record nothing.
        profile: whether detect() calls are marked as NVTX ranges (needs the package nvtx).

    Raises:
        ConfigurationError: no detector at all, or two for one device and model.
    """

    def __init__(
        self,
        detectors: Mapping[tuple[Device, str], Detector] | Sequence[Detector],
        *,
        policy: str | PlacementPolicy = "balanced",
        options: SchedulerOptions | None = None,
        factory: DetectorFactory | None = None,
        times: Mapping[tuple[Device, str], float] | None = None,
        max_batch: int = 0,
        gpu_share: Mapping[Device, float] | None = None,
        contention: Contention | None = None,
        overlap: bool = True,
        clock: Clock | None = None,
        timeline_capacity: int = 50_000,
        profile: bool = False,
    ) -> None:
        by_key = _by_key(detectors)
        servers: dict[Device, dict[str, ModelServer]] = {}
        self._num_classes: dict[str, int] = {}
        for (device, model), detector in by_key.items():
            self._num_classes[model] = detector.spec.num_classes
            known = (times or {}).get((device, model))
            limit = min(detector.max_batch, max_batch or detector.max_batch)
            servers.setdefault(device, {})[model] = ModelServer(
                model,
                1 if device.kind == "dla" else max(1, limit),
                ASSUMED_TIME if known is None else known,
                known is not None,
                detector.max_calls if overlap else 1,
            )
        self.clock = clock or MonotonicClock()
        self.timeline = Timeline(max(1, timeline_capacity))
        self._scheduler = Scheduler(
            servers,
            create_policy(policy),
            options,
            timeline=self.timeline if timeline_capacity else None,
            gpu_share=gpu_share,
            contention=contention,
        )
        self._factory = factory
        self._nvtx = require("nvtx", purpose="profiling") if profile else None
        self._lock = threading.Lock()
        self._workers: dict[Device, _Worker] = {}
        self._hung: dict[Device, list[_Worker]] = {device: [] for device in servers}
        self._retired: list[_Worker] = []
        for device in servers:
            worker = _Worker(device, self._lock)
            worker.detectors = {m: d for (where, m), d in by_key.items() if where == device}
            self._workers[device] = worker
        self._stopping = threading.Event()
        self._attention = threading.Condition(self._lock)
        self._closed = False
        self._supervisor: threading.Thread | None = None
        self._planner: threading.Thread | None = None
        self._planning = False

    # Streams and frames ----------------------------------------------------------------------

    def add_stream(
        self,
        config: StreamConfig,
        on_result: ResultCallback,
        on_drop: DropCallback | None = None,
    ) -> None:
        """Add a stream; at any time, also while running.

        Args:
            config: the stream's configuration.
            on_result: called with each StreamResult, on the worker thread of its device. The
                device waits for it: hand long work to a thread of your own. After
                SchedulerOptions.callback_limit the device goes on without this stream, which
                gets its next frame served when the call returns.
            on_drop: called with each accepted frame that will give no result, and the reason, on
                whatever thread drops it. It must not block.

        Raises:
            ConfigurationError: the id is taken, no device has its model, or its options name a
                class that the model does not have.
        """
        self._check_options(config)
        with self._lock:
            self._scheduler.add_stream(config, on_result, on_drop, self.clock.now())
            self._attention.notify_all()
            events = self._take_events()
        self._log(events)

    def remove_stream(self, stream_id: str) -> None:
        """Remove a stream; waiting frames are dropped, a running one's result is discarded.

        Raises:
            ConfigurationError: no stream has the id.
        """
        with self._lock:
            self._scheduler.remove_stream(stream_id, self.clock.now())
            self._attention.notify_all()
            drops, events = self._take_drops(), self._take_events()
        self._deliver_drops(drops)
        self._log(events)

    def update_stream(self, stream_id: str, **changes: Any) -> StreamConfig:
        """Change attributes of a stream's StreamConfig while it runs.

        Args:
            stream_id: the stream.
            changes: attributes of StreamConfig, any but `id`.

        Returns:
            The new configuration.

        Raises:
            ConfigurationError: no such stream or attribute, or a bad value; nothing is changed.
        """
        with self._lock:
            wanted = {name: changes[name] for name in ("model", "options") if name in changes}
            if wanted:
                self._check_options(replace(self._scheduler.stream(stream_id).config, **wanted))
            config = self._scheduler.update_stream(stream_id, changes, self.clock.now())
            drops, events = self._take_drops(), self._take_events()
            self._wake_all()
        self._deliver_drops(drops)
        self._log(events)
        return config

    def _check_options(self, config: StreamConfig) -> None:
        """Raise a ConfigurationError for thresholds of classes that the model does not have."""
        if config.model in self._num_classes:
            config.options.threshold_array(self._num_classes[config.model])

    def stream_config(self, stream_id: str) -> StreamConfig:
        """Return a stream's configuration.

        Raises:
            ConfigurationError: no stream has the id.
        """
        with self._lock:
            return self._scheduler.stream(stream_id).config

    def submit(self, frame: Frame) -> SubmitOutcome:
        """Offer a frame to the stream that its `stream_id` names; never blocks on inference.

        Args:
            frame: the frame; its buffer must stay unchanged until on_result or on_drop is
                called. `received_ns` is the time of arrival (0 = now).

        Returns:
            What became of it. A refused frame is counted, and no callback follows.
        """
        now = self.clock.now()
        received = frame.received_ns * 1e-9 if frame.received_ns else now
        with self._lock:
            scheduler = self._scheduler
            outcome = scheduler.submit(frame.stream_id, frame, received, now)
            if outcome.accepted:
                self._wake_idle(scheduler.streams[frame.stream_id], now)
            drops = self._take_drops() if scheduler.drops else None
        if drops:
            self._deliver_drops(drops)
        return outcome

    # Life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers; each warms up its detectors, then takes frames.

        It returns at once; frames are accepted and wait until a device is in service. Starting a
        running executor does nothing.

        Raises:
            ConfigurationError: the executor was closed.
        """
        if self._closed:
            raise ConfigurationError(
                "an executor that was closed", expected="a new one", fix="create it again"
            )
        with self._lock:
            if self._supervisor is not None:
                return
            self._stopping.clear()
            self._scheduler.accepting = True
            for state in self._scheduler.devices.values():
                if state.status not in (DeviceStatus.LOST, DeviceStatus.BROKEN):
                    state.status = DeviceStatus.STARTING
            self._scheduler.refresh_streams()
            for device, worker in self._workers.items():
                if self._scheduler.devices[device].status is DeviceStatus.STARTING:
                    self._start_worker(worker)
            self._supervisor = threading.Thread(
                target=self._supervise, name="executor-supervisor", daemon=True
            )
            self._supervisor.start()

    def wait_started(self, timeout: float | None = None) -> bool:
        """Wait until no device is warming up any more; False if the timeout (seconds) ends."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                statuses = [s.status for s in self._scheduler.devices.values()]
            if DeviceStatus.STARTING not in statuses:
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(0.005)

    def stop(self, timeout: float = 2.0) -> bool:
        """Stop the workers; waiting frames are dropped (stopped), running ones are finished.

        The detectors stay: `start` begins again.

        Args:
            timeout: seconds to wait for running calls.

        Returns:
            Whether every worker has ended. One that hangs is left behind (a daemon thread).
        """
        with self._lock:
            supervisor, self._supervisor = self._supervisor, None
            if supervisor is None:
                return True
            self._stopping.set()
            self._scheduler.accepting = False
            self._scheduler.drop_waiting(self.clock.now())
            drops = self._take_drops()
            self._wake_all()
            workers = list(self._workers.values())
        self._deliver_drops(drops)
        end = time.monotonic() + timeout
        supervisor.join(timeout)
        if self._planner is not None:
            self._planner.join(max(0.0, end - time.monotonic()))
        _join(workers, end)
        with self._lock:
            for worker in workers:
                if _lives(worker) and worker.callback is not None:
                    self._take_over(worker, self.clock.now())
            workers = list(self._workers.values())
            retired = self._retired = [w for w in self._retired if _lives(w)]
        # Those who have just taken over collect what is under way.
        _join([*workers, *retired], max(end, time.monotonic() + 0.1))
        stuck = [worker for worker in workers if _lives(worker)]
        with self._lock:
            for worker in stuck:
                state = self._scheduler.devices[worker.device]
                if state.running is not None:
                    self._scheduler.device_failed(
                        worker.device, self.clock.now(), f"did not stop in {timeout:g} s", hung=True
                    )
                worker.abandoned = True
                self._hung[worker.device].append(worker)
                self._scheduler.device_lost(worker.device)
            drops, events = self._take_drops(), self._take_events()
        self._deliver_drops(drops)
        self._log(events)
        return not stuck and not any(_lives(w) for w in retired)

    def close(self, timeout: float = 2.0) -> bool:
        """Stop, and close the detectors (not those that still hang).

        Returns:
            What `stop` returns.
        """
        ended = self.stop(timeout)
        self._closed = True
        for worker in self._workers.values():
            if worker.thread is None or not worker.thread.is_alive():
                self._close_detectors(worker)
        return ended

    def __enter__(self) -> InferenceExecutor:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()

    # Sight -----------------------------------------------------------------------------------

    def snapshot(self) -> ExecutorSnapshot:
        """Return counters and states, consistent with one another."""
        with self._lock:
            return self._scheduler.snapshot(self.clock.now())

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices, sorted."""
        return tuple(self._scheduler.devices)

    @property
    def options(self) -> SchedulerOptions:
        """Times of watchdog, back-off, batching."""
        return self._scheduler.options

    # Workers ---------------------------------------------------------------------------------

    def _start_worker(self, worker: _Worker) -> None:
        worker.thread = threading.Thread(
            target=self._work, args=(worker,), name=f"executor-{worker.device}", daemon=True
        )
        worker.thread.start()

    def _work(self, worker: _Worker) -> None:
        scheduler = self._scheduler
        finished: Batch | None = None
        while True:
            drops = events = batch = None  # whoever waits keeps no frame
            with self._lock:
                if finished is not None:
                    self._release(finished)
                    finished = None
                action, batch = self._next_action(worker)
                drops = self._take_drops() if scheduler.drops else None
                events = self._take_events() if scheduler.events else None
                if drops:
                    worker.in_hand = batch
            if drops:
                self._deliver_drops(drops, worker)
                with self._lock:
                    worker.in_hand = worker.callback = None
                    if worker.retired:
                        batch = None  # its successor has it
                    elif batch is not None:
                        self._rearm(worker.device, self.clock.now())
            if events:
                self._log(events)
            if worker.retired and action != "end":
                continue  # its calls are its successor's, too
            if batch is not None:
                finished = self._begin(worker, batch)
            elif action == "collect":
                finished = self._collect(worker)
            elif action == "restart":
                self._restart(worker)
            elif action == "end" or (action == "abandoned" and not self._return_to_work(worker)):
                return

    def _next_action(self, worker: _Worker) -> tuple[str, Batch | None]:
        """Wait (lock held) for something to do.

        Returns:
            ("run", batch); or, with None: "collect" the oldest call, "restart" the device,
            "abandoned" (the watchdog gave this worker up while it hung), "deliver" the drops and
            events that have piled up, or "end".
        """
        scheduler = self._scheduler
        state = scheduler.devices[worker.device]
        worker.callback = None
        while True:
            if worker.retired:
                for stream in worker.blocked:
                    stream.callback_blocked_since = math.nan
                return "end", None
            if worker.abandoned:
                return "abandoned", None
            if worker.in_hand is not None:
                batch, worker.in_hand = worker.in_hand, None
                return "run", batch
            in_service = state.status is DeviceStatus.IN_SERVICE
            now = self.clock.now()
            if worker.calls and in_service:
                # A result never waits for a frame: only what is there now is enqueued before.
                choice = None
                if not self._stopping.is_set():
                    choice = scheduler.next_batch(worker.device, now)
                return ("run", choice) if isinstance(choice, Batch) else ("collect", None)
            if self._stopping.is_set():
                return "end", None
            wait: float | None = None
            if in_service:
                choice = scheduler.next_batch(worker.device, now)
                if isinstance(choice, Batch):
                    return "run", choice
                if choice is not None:
                    wait = max(0.0, choice - now)
            elif state.status is DeviceStatus.STARTING or now >= state.retry_at:
                if state.status is DeviceStatus.OUT_OF_SERVICE:
                    scheduler.device_restarting(worker.device)
                worker.restart_watchdog_at = now + scheduler.options.restart_watchdog
                return "restart", None
            elif not math.isnan(state.retry_at):
                wait = max(0.0, state.retry_at - now)
            if scheduler.drops or scheduler.events:
                return "deliver", None
            worker.waiting = True
            worker.condition.wait(wait)
            worker.waiting = False

    def _release(self, batch: Batch) -> None:
        """Let the streams of a delivered batch go on (lock held)."""
        self._scheduler.release(batch)
        if batch.server.calls > 1:
            self._rearm(batch.device, self.clock.now())
        # Of another device, where a stream has moved meanwhile; or of this one's new worker.
        for stream in batch.streams:
            if stream.queue:
                self._wake_idle(stream, self.clock.now())

    def _begin(self, worker: _Worker, batch: Batch) -> Batch | None:
        """Give a batch to its detector, or run it if calls cannot overlap.

        Returns:
            The batch if its results are delivered already.
        """
        detector = worker.detectors[batch.server.name]
        if batch.server.calls < 2:
            return batch if self._run(worker, batch) else None
        frames = [pending.frame for pending in batch.frames]
        options = [stream.config.options for stream in batch.streams]
        try:
            with self._nvtx_range(batch):
                ticket = detector.enqueue(frames, options)
        except Exception as error:
            not_now = isinstance(error, DeviceBusyError) and bool(worker.calls)
            its_own = isinstance(error, FrameError | ConfigurationError)
            if not (its_own or not_now or _is_out_of_memory(error)):
                self._fail(worker, batch, error)
                return None
        else:
            worker.calls.append(_Call(batch, detector, ticket))
            return None
        # detect() finds out which frame it is, or how many fit; it needs the detector for itself.
        while worker.calls:
            worker.in_hand = batch
            before = self._collect(worker)
            with self._lock:
                worker.in_hand = worker.callback = None
                if before is not None:
                    self._release(before)
                # Else the device has failed, and this batch is lost with it.
                if before is None or worker.retired:
                    return None
        return batch if self._run(worker, batch) else None

    def _collect(self, worker: _Worker) -> Batch | None:
        """Wait for the oldest call and deliver its results; None if it was lost."""
        batch, detector, ticket = worker.calls.popleft()
        try:
            with self._nvtx_range(batch):
                found = detector.collect(ticket)
            _check_finite(found)
        except Exception as error:
            self._fail(worker, batch, error)
            return None
        return batch if self._deliver(worker, batch, list(found), None, None) else None

    def _run(self, worker: _Worker, batch: Batch) -> bool:
        """Run a batch and deliver its results; False if it was given up or its device failed."""
        detector = worker.detectors[batch.server.name]
        try:
            with self._nvtx_range(batch):
                results, failures = self._detect(detector, batch)
            stages = detector.stage_times
        except Exception as error:
            self._fail(worker, batch, error)
            return False
        return self._deliver(worker, batch, results, failures, stages)

    def _deliver(
        self,
        worker: _Worker,
        batch: Batch,
        results: Sequence[Detections | None],
        failures: list[DropReason | None] | None,
        stages: StageTimes | None,
    ) -> bool:
        """Count a batch as finished and call back; False if it was given up meanwhile."""
        with self._lock:
            now = self.clock.now()
            if stages is None:  # calls overlap: what a detector measures would belong to two
                stages = StageTimes(inference=max(0.0, now - batch.began))
            alive = self._scheduler.finish(batch, now, failures, stages)
            drops = self._take_drops() if self._scheduler.drops else None
        if drops:
            self._deliver_drops(drops, worker)
        if not alive:
            return False
        for stream, pending, detections in zip(batch.streams, batch.frames, results, strict=True):
            if detections is None or stream.removed:
                continue
            timing = ResultTiming(
                pending.received, pending.submitted, batch.began, now, stages, len(results)
            )
            result = StreamResult(
                pending.frame,
                detections,
                batch.device,
                batch.server.name,
                timing,
                now > pending.deadline,
            )
            self._call_back(worker, stream, "on_result", stream.on_result, result)
        return True

    def _detect(
        self, detector: Detector, batch: Batch
    ) -> tuple[list[Detections | None], list[DropReason | None] | None]:
        """Detect in all frames of a batch, in smaller pieces where that is needed."""
        frames = [pending.frame for pending in batch.frames]
        options = [stream.config.options for stream in batch.streams]
        count = len(frames)
        results: list[Detections | None] = [None] * count
        failures: list[DropReason | None] | None = None
        start, step = 0, count
        while start < count:
            part = slice(start, min(start + step, count))
            try:
                found = detector.detect(frames[part], options[part])
                _check_finite(found)
                results[part] = found
            except (FrameError, ConfigurationError) as error:
                if part.stop - part.start > 1:
                    step = 1  # find out which one it is
                    continue
                failures = failures or [None] * count
                failures[start] = DropReason.MALFORMED
                count_before = batch.streams[start].dropped[DropReason.MALFORMED]
                if count_before & (count_before + 1) == 0:  # 1st, 2nd, 4th, 8th ...
                    _LOGGER.warning(
                        "stream %s: %s (%d so far)",
                        frames[start].stream_id,
                        error,
                        count_before + 1,
                    )
            except Exception as error:
                size = part.stop - part.start
                if size == 1 or not _is_out_of_memory(error):
                    raise
                step = size // 2
                with self._lock:
                    self._scheduler.shrink_batch(batch, step, self.clock.now())
                continue
            start = part.stop
        return results, failures

    def _fail(self, worker: _Worker, batch: Batch, error: Exception) -> None:
        with self._lock:
            state = self._scheduler.devices[worker.device]
            if batch not in state.under_way:  # given up before: it has been counted as hung
                state.late_results += 1
                return
            self._scheduler.device_failed(
                worker.device, self.clock.now(), f"{type(error).__name__}: {error}"
            )
            drops, events = self._take_drops(), self._take_events()
            self._wake_all()
        self._deliver_drops(drops, worker)
        self._log(events)

    def _restart(self, worker: _Worker) -> None:
        """Warm up detectors (first start), or rebuild or probe them (after a failure)."""
        device = worker.device
        state = self._scheduler.devices[device]
        first = state.status is DeviceStatus.STARTING
        times: dict[str, float] = {}
        fault: Exception | None = None
        self._discard_calls(worker)
        try:
            for model, server in state.servers.items():
                if not first and self._factory is not None:
                    old = worker.detectors.pop(model, None)
                    if old is not None:
                        with contextlib.suppress(Exception):
                            old.close()
                    del old  # with its buffers, before its successor makes new ones
                    worker.detectors[model] = self._factory(device, model)
                if model not in worker.detectors:
                    raise EngineError(
                        f"no detector for {model} on {device}",
                        expected="a detector factory",
                        fix="give the executor `factory`",
                    )
                detector = worker.detectors[model]
                detector.warmup()
                if not server.measured:
                    times[model] = _time_of_one_frame(detector)
        except Exception as error:
            fault = error
        if not first:
            _return_freed_memory()
        with self._lock:
            worker.restart_watchdog_at = math.nan
            if worker.abandoned:
                state.late_results += 1
            elif fault is None:
                self._scheduler.device_started(device, self.clock.now(), times)
            else:
                self._scheduler.device_failed(
                    device, self.clock.now(), f"{type(fault).__name__}: {fault}"
                )
                if not first and device.is_cuda and _mentions(fault, _STICKY):
                    self._scheduler.device_broken(device)
            drops, events = self._take_drops(), self._take_events()
            self._wake_all()
        self._deliver_drops(drops, worker)
        self._log(events)

    def _discard_calls(self, worker: _Worker) -> None:
        """Wait for the calls that were lost with their device, so that the detector is at rest."""
        while worker.calls:
            _, detector, ticket = worker.calls.popleft()
            with contextlib.suppress(Exception):
                detector.collect(ticket)
                with self._lock:
                    self._scheduler.devices[worker.device].late_results += 1

    def _return_to_work(self, worker: _Worker) -> bool:
        """After a hung call has returned: take up the device again if nobody else has."""
        self._discard_calls(worker)
        with self._lock:
            if worker in self._hung[worker.device]:
                self._hung[worker.device].remove(worker)
            state = self._scheduler.devices[worker.device]
            if state.status is DeviceStatus.LOST and not self._closed:
                worker.abandoned = False
                self._workers[worker.device] = worker
                state.status = DeviceStatus.OUT_OF_SERVICE
                state.retry_at = self.clock.now()
                return True
        self._close_detectors(worker)
        return False

    # Supervisor ------------------------------------------------------------------------------

    def _supervise(self) -> None:
        """Find hung calls, and place streams anew when demands have changed."""
        scheduler = self._scheduler
        options = scheduler.options
        limits = (options.watchdog, options.callback_limit)
        period = min(0.25, *(limit / 4.0 for limit in limits if limit))
        next_drift_check = self.clock.now() + 1.0
        while True:
            with self._lock:
                if not self._stopping.is_set() and (self._planning or not scheduler.replan_needed):
                    self._attention.wait(period)
                if self._stopping.is_set():
                    return
                now = self.clock.now()
                for device in scheduler.devices:
                    self._check_hung(device, now)
                drops, events = self._take_drops(), self._take_events()
                problem = None
                reason = "streams or devices changed"
                starting = any(
                    s.status is DeviceStatus.STARTING for s in scheduler.devices.values()
                )
                if self._planning:
                    pass
                elif scheduler.replan_needed and starting:
                    self._attention.wait(period)  # the last device to start replans for all
                elif scheduler.replan_needed:
                    problem = scheduler.problem(now)
                elif scheduler.policy.replans and now >= next_drift_check:
                    next_drift_check = now + 1.0
                    if scheduler.drifted(now):
                        problem = scheduler.problem(now, drifted=True)
                        reason = "rates or times changed"
                if problem is not None:
                    scheduler.note_planned(now)
                    self._planning = True
            self._deliver_drops(drops)
            self._log(events)
            if problem is not None:
                self._planner = threading.Thread(
                    target=self._plan, args=(problem, reason), name="executor-planner", daemon=True
                )
                self._planner.start()

    def _plan(self, problem: PlacementProblem, reason: str) -> None:
        """Place the streams anew, on a thread of its own: it may take long, watchdogs may not."""
        policy = self._scheduler.policy
        try:
            placement = policy.place(problem)
        except Exception:
            _LOGGER.exception("placement failed; streams stay where they are")
            placement = {}
        with self._lock:
            self._planning = False
            self._scheduler.apply_placement(
                placement, f"{reason} ({policy.name} placement)", self.clock.now()
            )
            events = self._take_events()
            self._wake_all()
        self._log(events)

    def _check_hung(self, device: Device, now: float) -> None:
        state = self._scheduler.devices[device]
        worker = self._workers[device]
        batch = state.running
        callback = worker.callback
        if callback is not None:
            # Neither a call nor a restart: what is under way is not this worker's fault.
            if now - callback[2] > (self._scheduler.options.callback_limit or math.inf):
                self._take_over(worker, now)
            return
        if batch is not None and now > batch.watchdog_at:
            error = (
                f"detect() of {batch.server.name} has not returned for {now - batch.began:.2f} s "
                f"(expected {batch.expected_end - batch.began:.3f} s)"
            )
        elif now > worker.restart_watchdog_at:
            options = self._scheduler.options
            error = f"restart has not returned for {options.restart_watchdog:g} s"
        else:
            return
        self._scheduler.device_failed(device, now, error, hung=True)
        worker.abandoned = True
        worker.restart_watchdog_at = math.nan
        self._hung[device].append(worker)
        if self._factory is None or len(self._hung[device]) >= MAX_HUNG_THREADS:
            self._scheduler.device_lost(device)
        else:
            replacement = _Worker(device, self._lock)
            self._workers[device] = replacement
            self._start_worker(replacement)
        self._wake_all()

    def _take_over(self, worker: _Worker, now: float) -> None:
        """Let another thread go on with a device whose worker is kept by a callback."""
        assert worker.callback is not None
        stream, name, since = worker.callback
        self._scheduler.callback_hangs(stream, name, since, now)
        worker.blocked.append(stream)
        device = worker.device
        successor = _Worker(device, self._lock)
        successor.detectors, worker.detectors = worker.detectors, {}
        successor.calls, worker.calls = worker.calls, deque()
        if worker.in_hand in self._scheduler.devices[device].under_way:  # not lost meanwhile
            successor.in_hand = worker.in_hand
        worker.in_hand = None
        worker.retired = True
        self._retired.append(worker)
        self._workers[device] = successor
        self._rearm(device, now)
        self._start_worker(successor)

    def _rearm(self, device: Device, now: float) -> None:
        """Let a call's watchdog time begin anew: its worker was kept by callbacks."""
        running = self._scheduler.devices[device].running
        if running is not None:
            running.watchdog_at = max(running.watchdog_at, now + running.watchdog)

    # Small things ----------------------------------------------------------------------------

    def _wake_idle(self, stream: Stream, now: float) -> None:
        """Let idle devices ask for a stream's waiting frame (lock held)."""
        asked, taker = self._scheduler.devices_to_ask(stream, now)
        # One that is kept by a callback may be overtaken, by whoever asks.
        if taker is not None and self._workers[taker.device].waiting:
            asked = [taker]
        for state in asked:
            self._workers[state.device].condition.notify()

    def _wake_all(self) -> None:
        self._attention.notify_all()
        for worker in self._workers.values():
            worker.condition.notify_all()

    def _take_drops(self) -> list[tuple[Stream, Frame, DropReason]]:
        drops, self._scheduler.drops = self._scheduler.drops, []
        return drops

    def _take_events(self) -> list[tuple[int, str]]:
        events, self._scheduler.events = self._scheduler.events, []
        return events

    def _deliver_drops(
        self,
        drops: Sequence[tuple[Stream, Frame, DropReason]],
        worker: _Worker | None = None,
    ) -> None:
        for stream, frame, reason in drops:
            if stream.on_drop is not None:
                self._call_back(worker, stream, "on_drop", stream.on_drop, frame, reason)

    def _call_back(
        self,
        worker: _Worker | None,
        stream: Stream,
        name: str,
        function: Callable[..., object],
        *arguments: object,
    ) -> None:
        """Call on_result or on_drop; the supervisor watches those of a worker.

        It does so until the worker holds the lock again, so that it never finds the next call's
        watchdog time spent by a callback that has just returned.
        """
        if worker is not None:
            worker.callback = (stream, name, self.clock.now())
        try:
            function(*arguments)
        except Exception:
            self._callback_failed(stream, name)

    def _callback_failed(self, stream: Stream, name: str) -> None:
        stream.callback_errors += 1
        if stream.callback_errors & (stream.callback_errors - 1) == 0:  # 1st, 2nd, 4th, 8th ...
            _LOGGER.exception(
                "%s of stream %s raised (%d so far)",
                name,
                stream.config.id,
                stream.callback_errors,
            )

    def _log(self, events: Sequence[tuple[int, str]]) -> None:
        for level, text in events:
            _LOGGER.log(level, "%s", text)

    def _nvtx_range(self, batch: Batch) -> contextlib.AbstractContextManager[Any]:
        if self._nvtx is None:
            return contextlib.nullcontext()
        names = " + ".join(stream.config.id for stream in batch.streams)
        return self._nvtx.annotate(f"{batch.device} {names}")  # type: ignore[no-any-return]

    def _close_detectors(self, worker: _Worker) -> None:
        detectors, worker.detectors = worker.detectors, {}
        for detector in detectors.values():
            try:
                detector.close()
            except Exception:
                _LOGGER.exception("close() of a detector on %s raised", worker.device)


def _lives(worker: _Worker) -> bool:
    return worker.thread is not None and worker.thread.is_alive()


def _join(workers: Sequence[_Worker], end: float) -> None:
    """Wait for threads to end, until a time of time.monotonic()."""
    for worker in workers:
        if worker.thread is not None:
            worker.thread.join(max(0.0, end - time.monotonic()))


def _by_key(
    detectors: Mapping[tuple[Device, str], Detector] | Sequence[Detector],
) -> dict[tuple[Device, str], Detector]:
    if isinstance(detectors, Mapping):
        by_key = dict(detectors)
    else:
        by_key = {}
        for detector in detectors:
            key = (detector.device, "default")
            if key in by_key:
                raise ConfigurationError(
                    f"two detectors on {detector.device}",
                    expected="one for each device and model",
                    fix="give a mapping (Device, model) -> Detector",
                )
            by_key[key] = detector
    if not by_key:
        raise ConfigurationError(
            "an executor without detectors",
            expected="at least one",
            fix="create one with executor.factory.create_detector",
        )
    return by_key


def _time_of_one_frame(detector: Detector) -> float:
    """Return the seconds of a call with one grey frame of the network's size: the better of two."""
    spec = detector.spec
    frame = Frame.from_array(np.full((spec.input_height, spec.input_width, 3), 114, np.uint8))
    best = math.inf
    for _ in range(2):
        begin = time.perf_counter()
        detector.detect([frame], [PostprocessOptions()])
        best = min(best, time.perf_counter() - begin)
    return best


def _return_freed_memory() -> None:
    """Hand the replaced detectors' memory back to the operating system (glibc).

    Networks leave holes between what lives on. Without this, resident memory grows by about a
    third over the first sixty restarts before it levels off.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _check_finite(results: Sequence[Detections]) -> None:
    for detections in results:
        if len(detections) and not (
            np.isfinite(detections.scores).all() and np.isfinite(detections.boxes).all()
        ):
            raise EngineError(
                "detections with NaN or infinity",
                expected="finite boxes and scores",
                fix="check the engine's precision and calibration",
            )


def _is_out_of_memory(error: BaseException) -> bool:
    return _mentions(error, _OUT_OF_MEMORY, MemoryError)


def _mentions(
    error: BaseException, words: Sequence[str], kind: type[BaseException] | None = None
) -> bool:
    """Tell whether an error, or what it came from, is of a kind or has one of the words in it."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))  # `raise error from error` makes a ring
        text = f"{type(link).__name__} {link}".lower()
        if (kind is not None and isinstance(link, kind)) or any(word in text for word in words):
            return True
        link = link.__cause__ or link.__context__
    return False
