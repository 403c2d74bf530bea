# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""InferenceExecutor: detectors, streams and one worker thread for each Device."""

from __future__ import annotations

import atexit
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from yolox_trt.core.contention import Contention
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.frame import Frame
from yolox_trt.core.optional import require
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.device_memory import in_order
from yolox_trt.executor.device_state import LoadedModel
from yolox_trt.executor.ledger import NOTHING
from yolox_trt.executor.outcomes import SubmitOutcome, log
from yolox_trt.executor.placement import PlacementPolicy, create_policy
from yolox_trt.executor.scheduler import Scheduler
from yolox_trt.executor.scheduler_options import SchedulerOptions
from yolox_trt.executor.snapshot import DeviceStatus, ExecutorSnapshot, StreamSnapshot
from yolox_trt.executor.stream import DropCallback, ResultCallback
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.executor.supervisor import Supervisor
from yolox_trt.executor.timeline import Timeline
from yolox_trt.executor.worker import time_of_one_frame
from yolox_trt.executor.worker_pool import DetectorFactory, WorkerPool

#: Seconds for one frame that are assumed before a detector has been timed.
ASSUMED_TIME = 0.010

_LOGGER = logging.getLogger(__name__)

#: Those that run. They are stopped when Python ends: a thread that is in ONNX Runtime then would
#: make the process abort. They are held until then, for their threads run whoever else holds them.
_RUNNING: set[InferenceExecutor] = set()


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
        clock: returns the time in seconds; Frame.received_ns must be of the same clock.
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
        clock: Callable[[], float] = time.monotonic,
        timeline_capacity: int = 50_000,
        profile: bool = False,
    ) -> None:
        by_key = _by_key(detectors)
        self._max_batch, self._overlap = max_batch, overlap
        models: dict[Device, dict[str, LoadedModel]] = {}
        for (device, model), detector in by_key.items():
            known = (times or {}).get((device, model))
            loaded = self._loaded(model, detector, ASSUMED_TIME if known is None else known)
            loaded.measured = known is not None
            models.setdefault(device, {})[model] = loaded
        self.clock = clock
        self.timeline = Timeline(max(1, timeline_capacity))
        self._scheduler = Scheduler(
            models,
            create_policy(policy),
            options,
            timeline=self.timeline if timeline_capacity else None,
            gpu_share=gpu_share,
            contention=contention,
        )
        nvtx = require("nvtx", purpose="profiling") if profile else None
        self._pool = WorkerPool(self._scheduler, self.clock, by_key, factory, nvtx)
        self._lock = self._pool.lock
        self._supervisor: Supervisor | None = None
        self._closed = False

    # Models ----------------------------------------------------------------------------------

    def add_model(self, model: str, detectors: Mapping[Device, Detector]) -> None:
        """Add a further model, or the same one at another size; at any time, also while running.

        A device runs one model after the other: frames of streams with different models never
        share a call. Each detector is warmed up and timed here, in the caller's thread, beside
        what the device works on; its first call in service corrects the time. The executor owns
        the detectors from then on.

        Args:
            model: its name, for StreamConfig.model.
            detectors: the devices that may serve it.

        Raises:
            ConfigurationError: a device that the executor has not, one that has such a model, or
                the executor was closed. No device has the model then.
            EngineError: a detector does not run.
        """
        loaded = {}
        for device, detector in detectors.items():
            detector.warmup()
            loaded[device] = self._loaded(model, detector, time_of_one_frame(detector))
            loaded[device].measured = False
        with self._lock:
            self._refuse_closed()
            outcome = self._scheduler.add_model(model, loaded, self.clock())
            self._pool.add_detectors(model, detectors)
            self._pool.wake_all()
        outcome.report()

    def _loaded(self, model: str, detector: Detector, seconds: float) -> LoadedModel:
        limit = min(detector.max_batch, self._max_batch or detector.max_batch)
        return LoadedModel(
            model,
            seconds,
            max_batch=1 if detector.device.kind == "dla" else max(1, limit),
            calls=detector.max_calls if self._overlap else 1,
            at_once=detector.at_once if self._overlap else 1,
            num_classes=detector.spec.num_classes,
        )

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
        with self._lock:
            outcome = self._scheduler.add_stream(config, on_result, on_drop, self.clock())
            self._pool.attention.notify_all()
        outcome.report()

    def remove_stream(self, stream_id: str) -> StreamSnapshot:
        """Remove a stream; waiting frames are dropped, a running one's result is discarded.

        A result whose on_result has not begun is dropped as well.

        Returns:
            Its last counters; a frame that is still in flight will be dropped (stopped).

        Raises:
            ConfigurationError: no stream has the id.
        """
        with self._lock:
            stream, now = self._scheduler.stream(stream_id), self.clock()
            outcome = self._scheduler.remove_stream(stream_id, now)
            last = stream.snapshot(now)
            self._pool.attention.notify_all()
        outcome.report()
        return last

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
            outcome = self._scheduler.update_stream(stream_id, changes, self.clock())
            config = self._scheduler.stream(stream_id).config
            self._pool.wake_all()
        outcome.report()
        return config

    def stream_config(self, stream_id: str) -> StreamConfig:
        """Return a stream's configuration.

        Raises:
            ConfigurationError: no stream has the id.
        """
        with self._lock:
            return self._scheduler.stream(stream_id).config

    def submit(self, frame: Frame, age: float = 0.0, model: str = "") -> SubmitOutcome:
        """Offer a frame to the stream that its `stream_id` names; never blocks on inference.

        Args:
            frame: the frame; its buffer must stay unchanged until on_result or on_drop is
                called. `received_ns` is the time of arrival (0 = now). An array on a GPU is read
                behind the work on this thread's current CUDA stream.
            age: how old it was when it arrived, in seconds, as far as its source tells.
                `stale_after` counts from then.
            model: the model that it is for, where a stream's frames differ (one of another shape
                is served by the same network at another size); the stream's own where no device
                has it, or "". Times and placement are reckoned with the stream's own.

        Returns:
            What became of it. A refused frame is counted, and no callback follows.
        """
        if frame.ready is False:  # here, where the current stream is that of whoever writes it
            frame = in_order(frame)
        now = self.clock()
        received = frame.received_ns * 1e-9 if frame.received_ns else now
        with self._lock:
            answer, asked, outcome = self._scheduler.submit(frame, received, now, age, model)
            for state in asked:
                state.wakeup.notify()
        if outcome is not NOTHING:
            outcome.report()
        return answer

    # Life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers; each warms up its detectors, then takes frames.

        It returns at once; frames are accepted and wait until a device is in service. Starting a
        running executor does nothing.

        Raises:
            ConfigurationError: the executor was closed.
        """
        with self._lock:
            self._refuse_closed()
            if self._supervisor is None:
                self._supervisor = Supervisor(self._pool)  # its thread waits for the lock
                self._pool.start()
                _RUNNING.add(self)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ConfigurationError(
                "an executor that was closed", expected="a new one", fix="create it again"
            )

    def wait_started(self, timeout: float | None = None) -> bool:
        """Wait until no device is warming up any more.

        Args:
            timeout: seconds to wait, None for as long as it takes.

        Returns:
            False if the timeout has ended, or the executor was stopped.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                statuses = [s.status for s in self._scheduler.devices.values()]
                stopped = self._pool.stopping or self._closed
            if stopped:
                return False
            if DeviceStatus.STARTING not in statuses:
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(0.005)

    def stop(self, timeout: float = 2.0) -> bool:
        """Stop the workers; waiting frames are dropped (stopped), running ones are finished.

        The detectors stay: `start` begins again. It is called when Python ends, too. Any thread
        may call it, a callback as well, whose own thread it does not wait for.

        Args:
            timeout: seconds to wait for running calls.

        Returns:
            Whether every worker has ended. One that hangs is left behind (a daemon thread), and so
            is one that a callback keeps; False also if another thread has started it again.
        """
        end = time.monotonic() + timeout
        outcome = NOTHING
        with self._lock:
            _RUNNING.discard(self)
            run = self._pool.run
            supervisor, self._supervisor = self._supervisor, None
            if supervisor is not None:
                supervisor.stop()
                self._pool.stopping = True
                self._scheduler.accepting = False
                outcome = self._scheduler.drop_waiting(self.clock())
                self._pool.wake_all()
        outcome.report()
        if supervisor is not None:
            supervisor.join(timeout)
        return self._pool.join(run, end)

    def close(self, timeout: float = 2.0) -> bool:
        """Stop, and close the detectors; those of a worker that is left behind when it has ended.

        Returns:
            What `stop` returns.
        """
        with self._lock:
            self._closed = True  # nobody starts it again from now on
        ended = self.stop(timeout)
        self._pool.close()
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
            return self._scheduler.snapshot(self.clock())

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices, sorted."""
        return tuple(self._scheduler.devices)

    @property
    def options(self) -> SchedulerOptions:
        """Times of watchdog, back-off, batching."""
        return self._scheduler.options


@atexit.register
def _stop_all() -> None:
    for executor in list(_RUNNING):
        try:
            executor.stop()
        except Exception as error:  # the others have to be stopped, too
            log(_LOGGER, logging.ERROR, "stopping an executor raised", error=error)


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
            fix="create one with detectors.factory.create_detector",
        )
    return by_key
