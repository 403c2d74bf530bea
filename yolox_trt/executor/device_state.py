# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DeviceState: what the scheduler knows of one device, its models and the calls it works on."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.detectors.detector import StageTimes, Ticket
from yolox_trt.executor.scheduler_options import SchedulerOptions
from yolox_trt.executor.snapshot import DeviceSnapshot, DeviceStatus, snapshot_of
from yolox_trt.executor.stream import PendingFrame, Stream

#: Of a call whose stages nobody has measured.
NO_STAGES = StageTimes()
#: Weight of the newest measurement in the moving average of a model's time.
TIME_SMOOTHING = 0.1
#: Seconds over which a device's load is reported.
LOAD_WINDOW = 5.0
#: Seconds without a call after which a device that was slow is tried again.
SLOW_RETRY = 60.0


@dataclass(slots=True, eq=False)
class LoadedModel:
    """One model on one device: the time that it takes, and the size of its calls.

    Attributes:
        name: the model's name.
        time: seconds for one frame; a moving average of call time / frames.
        measured: whether `time` was measured or given; otherwise it is assumed.
        warm_up: `time` when it was first measured or given. The device is judged by it, not by the
            average: that would follow a device which slows down little by little.
        slow: whether it takes SchedulerOptions.slow_factor times as long.
        slow_count: how often it became so.
        max_batch: most frames of one call, by the detector.
        calls: how many calls may be under way at a time (Detector.max_calls).
        at_once: how many of them are worked on at the same time (Detector.at_once).
        num_classes: classes of its network, 0 where that does not matter (simulation).
        alone: `time` as if no other device had worked at the same time (core.contention).
        batch_limit: most frames of one call at present; halved when memory is short.
        limited_at: when batch_limit last changed, in seconds.
        implausible: what its Detector found implausible in its results (Plausibility.found).
    """

    name: str
    time: float
    measured: bool = True
    max_batch: int = 1
    calls: int = 1
    at_once: int = 1
    num_classes: int = 0
    alone: float = field(init=False)
    warm_up: float = field(init=False)
    slow: bool = False
    slow_count: int = 0
    batch_limit: int = field(init=False)
    limited_at: float = -math.inf
    implausible: str = ""

    def __post_init__(self) -> None:
        self.alone = self.warm_up = self.time
        self.batch_limit = self.max_batch

    def refuses(self, stream: Stream) -> ConfigurationError | None:
        """Return why its network cannot work by the options of a stream, None if it can."""
        options = stream.config.options
        if self.num_classes and options.class_thresholds:
            try:
                options.threshold_array(self.num_classes)
            except ConfigurationError as error:
                return error
        return None

    def record(self, seconds: float, alone: float, frames: int) -> None:
        """Take in the duration of one call.

        Args:
            seconds: the duration.
            alone: the duration as if no other device had worked at the same time.
            frames: frames of the call.
        """
        if not self.measured:
            self.measured = True
            self.time, self.warm_up, self.alone = seconds / frames, seconds / frames, alone / frames
            return
        self.time += TIME_SMOOTHING * (seconds / frames - self.time)
        self.alone += TIME_SMOOTHING * (alone / frames - self.alone)

    def forget_slowness(self) -> None:
        """Expect the time of the warm-up again; the next calls tell."""
        if self.slow:
            self.time = self.alone = self.warm_up
            self.slow = False


@dataclass(slots=True, eq=False)
class Batch:
    """Frames of one call of a detector, one of each stream.

    Attributes:
        state: the device where it runs.
        model: the model that runs.
        streams: the streams, in the order of `frames`.
        frames: the frames.
        watchdog: seconds after its beginning when the call counts as hung.
        ticket: what the detector gave for the call, until it is collected.
        stages: the stages of the call, once it has ended.
        taken: when the device was given it, in seconds.
        began: when the device began the call, in seconds: when the detector got it, or at the end
            of the call before. Infinite until then, like `expected_end` and `watchdog_at`.
        expected_end: when it should end.
        ended: when it has ended.
        watchdog_at: when it counts as hung.
        done: seconds of the work that was done at the time `since`, as if alone.
        since: the time up to which `done` counts.
        slowdown: factor of the devices that have worked at the same time since `since`.
    """

    state: DeviceState
    model: LoadedModel
    streams: list[Stream]
    frames: list[PendingFrame]
    watchdog: float
    ticket: Ticket | None = None
    stages: StageTimes = NO_STAGES
    taken: float = math.inf
    began: float = math.inf
    expected_end: float = math.inf
    ended: float = math.inf
    watchdog_at: float = math.inf
    done: float = 0.0
    since: float = math.inf
    slowdown: float = 1.0

    @property
    def started(self) -> float:
        """When the device began to work on it, beside the calls before it where it can."""
        return self.taken if self.model.at_once > 1 else self.began

    def begin(self, now: float) -> None:
        """Note that the device begins the call."""
        self.began = self.since = now
        self.expected_end = now + self.model.time * len(self.frames)
        self.watchdog_at = now + self.watchdog

    def advance(self, now: float) -> None:
        """Bring `done` up to now."""
        self.done += (now - self.since) / self.slowdown
        self.since = now

    def rearm(self, now: float) -> None:
        """Start its watchdog anew: the call could not end, for its worker was kept by callbacks."""
        self.watchdog_at = max(self.watchdog_at, now + self.watchdog)


class DeviceState:
    """State of one device. Not thread safe: the Scheduler's owner holds a lock.

    Attributes:
        device: which.
        name: its name.
        models: what it can run, by name.
        under_way: calls that its detector was given and that have not ended, the running one first.
        placed: streams that are placed on it.
        failed: whether it has failed since it was last put in service, or before the first time.
        waiting: whether its worker waits for work, and takes it as soon as it is woken.
        wakeup: what its worker waits on; the WorkerPool replaces it by one of its lock.
    """

    def __init__(self, device: Device, models: dict[str, LoadedModel]) -> None:
        self.device = device
        self.name = str(device)
        self.models = models
        self.status = DeviceStatus.STARTING
        self.failed = False
        self.under_way: deque[Batch] = deque()
        self.placed: list[Stream] = []
        self.waiting = True
        self.wakeup = threading.Condition()
        self.frames = 0
        self.batches = 0
        self.errors = 0
        self.hangs = 0
        self.out_of_memory = 0
        self.restarts = 0
        self.late_results = 0
        self.last_error = ""
        self.retry_at = math.nan
        self._backoff = 0.0
        self._in_service_since = math.nan
        self._busy_spans: deque[tuple[float, float]] = deque(maxlen=2048)

    @property
    def running(self) -> Batch | None:
        """The call that it works on."""
        return self.under_way[0] if self.under_way else None

    @property
    def has_room(self) -> bool:
        """Whether it may be given a call now."""
        under_way = self.under_way
        return not under_way or len(under_way) < under_way[0].model.calls

    def take(self, batch: Batch, now: float) -> None:
        """Add a call."""
        self.under_way.append(batch)
        batch.taken = now
        if len(self.under_way) == 1:
            batch.begin(now)

    def end(self, batch: Batch, now: float) -> None:
        """Remove a call; the next one begins."""
        under_way = self.under_way
        under_way.remove(batch)
        self._busy_spans.append((min(batch.began, now), now))
        if under_way and under_way[0].began == math.inf:
            under_way[0].begin(now)

    def free_at(self, now: float) -> float:
        """Return when all calls under way should have ended, in seconds."""
        if not self.under_way:
            return now
        calls = iter(self.under_way)
        end = next(calls).expected_end
        if end <= now:
            # An overdue call may hang: the longer it has been overdue, the longer it may be.
            end = now + (now - end)
        for call in calls:
            end += call.model.time * len(call.frames)
        return end

    def start(self, now: float) -> None:
        """Put it in service."""
        for model in self.models.values():
            model.forget_slowness()
        self.status = DeviceStatus.IN_SERVICE
        self.failed = False
        self.retry_at = math.nan
        self._in_service_since = now

    def forgive(self, now: float) -> None:
        """Expect the warm-up's times again if it was slow and has not worked for SLOW_RETRY.

        A policy gives a slow device no frame while others suffice: nothing would tell that it is
        fast again.
        """
        if not self.under_way and self._busy_spans and now - self._busy_spans[-1][1] > SLOW_RETRY:
            for model in self.models.values():
                model.forget_slowness()

    def fail(self, now: float, error: str, options: SchedulerOptions) -> list[Batch]:
        """Take it out of service until `retry_at`, and return the calls that are lost with it.

        The time to the next restart doubles with each failure, until the device has worked for
        ten times as long.
        """
        proved = now - self._in_service_since > 10.0 * max(self._backoff, options.backoff)
        self._backoff = (
            min(2.0 * self._backoff, options.backoff_max)
            if self._backoff and not proved
            else options.backoff
        )
        self.errors += 1
        self.failed = True
        self.last_error = error
        self.status = DeviceStatus.OUT_OF_SERVICE
        self.retry_at = now + self._backoff
        self._in_service_since = math.nan
        if self.running is not None:
            self._busy_spans.append((self.running.began, now))
        lost = list(self.under_way)
        self.under_way.clear()
        return lost

    def load(self, now: float) -> float:
        """Share of the last LOAD_WINDOW seconds that the device was busy, 0 to 1.

        With one of several calls at once it is busy, too: that one has all threads then.
        """
        begin = now - LOAD_WINDOW
        busy = 0.0
        for start, end in reversed(self._busy_spans):
            if end <= begin:
                break
            busy += end - max(start, begin)
        if self.running is not None:
            busy += now - max(self.running.began, begin)
        return min(1.0, busy / LOAD_WINDOW)

    def snapshot(self, now: float) -> DeviceSnapshot:
        """Return counters and state."""
        return snapshot_of(
            DeviceSnapshot,
            self,
            models={name: model.time for name, model in self.models.items()},
            warm_up={name: model.warm_up for name, model in self.models.items()},
            slow=tuple(name for name, model in self.models.items() if model.slow),
            implausible={n: model.implausible for n, model in self.models.items()},
            batch_limits={name: model.batch_limit for name, model in self.models.items()},
            streams=tuple(stream.config.id for stream in self.placed),
            load=self.load(now),
            retry_in=math.nan if math.isnan(self.retry_at) else max(0.0, self.retry_at - now),
        )
