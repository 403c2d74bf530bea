# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DeviceState: what the scheduler knows of one device and its detectors."""

from __future__ import annotations

import math
from collections import deque

from yolox_trt.core.device import Device
from yolox_trt.executor.snapshot import DeviceSnapshot, DeviceStatus
from yolox_trt.executor.stream import PendingFrame, Stream

#: Weight of the newest measurement in the moving average of service times.
TIME_SMOOTHING = 0.1
#: Seconds over which a device's load is reported.
LOAD_WINDOW = 5.0


class ModelServer:
    """One model on one device.

    Attributes:
        name: the model's name.
        max_batch: most frames of one call, by the detector.
        batch_limit: most frames of one call at present (halved by out-of-memory errors).
        limited_at: when batch_limit was last reduced, in seconds.
        time: seconds for one frame; a moving average of call time / frames.
        alone: the same, freed of known contention: as if no other device had worked beside.
        measured: whether `time` was measured or given, rather than assumed.
        calls: calls that may be under way at a time (Detector.max_calls).
    """

    __slots__ = (
        "alone",
        "batch_limit",
        "calls",
        "limited_at",
        "max_batch",
        "measured",
        "name",
        "time",
    )

    def __init__(
        self, name: str, max_batch: int, time: float, measured: bool, calls: int = 1
    ) -> None:
        self.name = name
        self.calls = calls
        self.max_batch = max_batch
        self.batch_limit = max_batch
        self.limited_at = -math.inf
        self.time = time
        self.alone = time
        self.measured = measured

    def record(self, seconds: float, frames: int, alone: float | None = None) -> None:
        """Take in the duration of one call.

        Args:
            seconds: the duration.
            frames: frames of the call.
            alone: the duration freed of contention; None if that is the same.
        """
        value = seconds / frames
        value_alone = value if alone is None else alone / frames
        if self.measured:
            self.time += TIME_SMOOTHING * (value - self.time)
            self.alone += TIME_SMOOTHING * (value_alone - self.alone)
        else:
            self.time, self.alone = value, value_alone
            self.measured = True


class Batch:
    """Frames of one detect() call, one of each stream.

    Attributes:
        device: where it runs.
        server: the model that runs.
        streams: the streams, in the order of `frames`.
        frames: the frames.
        started: when it was given to the detector, in seconds of the executor's clock.
        began: when the device could begin it: `started`, or the end of the call before it; infinite
            until then, as are the two that follow.
        expected_end: began + expected duration.
        watchdog_at: when the call counts as hung.
        done: seconds of its work done until `since`, as if the device had worked alone.
        since: when `done` was reckoned last.
        slowdown: factor of the devices that have worked beside it since then.
    """

    __slots__ = (
        "began",
        "device",
        "done",
        "expected_end",
        "frames",
        "server",
        "since",
        "slowdown",
        "started",
        "streams",
        "watchdog",
        "watchdog_at",
    )

    def __init__(
        self,
        device: Device,
        server: ModelServer,
        streams: list[Stream],
        frames: list[PendingFrame],
        started: float,
        watchdog: float,
    ) -> None:
        self.device = device
        self.server = server
        self.streams = streams
        self.frames = frames
        self.started = started
        self.watchdog = watchdog
        self.began = self.expected_end = self.watchdog_at = math.inf
        self.done = 0.0
        self.since = started
        self.slowdown = 1.0

    def begin(self, now: float) -> None:
        """Note that no call before it is under way any more."""
        self.began = self.since = now
        self.expected_end = now + self.server.time * len(self.frames)
        self.watchdog_at = now + self.watchdog

    def settle(self, now: float) -> None:
        """Reckon `done` up to now."""
        self.done += (now - self.since) / self.slowdown
        self.since = now


class DeviceState:
    """State of one device. Not thread safe: the Scheduler's owner holds a lock."""

    def __init__(self, device: Device, servers: dict[str, ModelServer]) -> None:
        self.device = device
        self.servers = servers
        self.status = DeviceStatus.STARTING
        #: Calls that its detector was given and that have not ended, the one that runs first.
        self.under_way: deque[Batch] = deque()
        self.placed: list[Stream] = []
        self.frames = 0
        self.batches = 0
        self.errors = 0
        self.hangs = 0
        self.out_of_memory = 0
        self.restarts = 0
        self.late_results = 0
        self.last_error = ""
        self.retry_at = math.nan
        self.backoff = 0.0
        self.in_service_since = math.nan
        self._busy_spans: deque[tuple[float, float]] = deque(maxlen=2048)

    @property
    def running(self) -> Batch | None:
        """The call that it works on."""
        return self.under_way[0] if self.under_way else None

    @property
    def has_room(self) -> bool:
        """Whether it may be given a call now."""
        under_way = self.under_way
        return not under_way or len(under_way) < under_way[0].server.calls

    def take(self, batch: Batch, now: float) -> None:
        """Add a call."""
        self.under_way.append(batch)
        if len(self.under_way) == 1:
            batch.begin(now)

    def end(self, batch: Batch, now: float) -> None:
        """Remove the call that runs; the next one begins."""
        self.under_way.remove(batch)
        self.record_busy(min(batch.began, now), now)
        if self.under_way and self.under_way[0].began == math.inf:
            self.under_way[0].begin(now)

    def record_busy(self, start: float, end: float) -> None:
        """Note that the device worked from `start` to `end`, in seconds."""
        self._busy_spans.append((start, end))

    def load(self, now: float) -> float:
        """Share of the last LOAD_WINDOW seconds that the device was busy, 0 to 1."""
        begin = now - LOAD_WINDOW
        busy = 0.0
        for start, end in reversed(self._busy_spans):
            if end <= begin:
                break
            busy += end - max(start, begin)
        if self.running is not None:
            busy += now - max(self.running.began, begin)
        return min(1.0, busy / LOAD_WINDOW)

    def snapshot(self, now: float, streams: tuple[str, ...]) -> DeviceSnapshot:
        """Return counters and state."""
        return DeviceSnapshot(
            device=self.device,
            status=self.status,
            models={name: server.time for name, server in self.servers.items()},
            batch_limits={name: server.batch_limit for name, server in self.servers.items()},
            streams=streams,
            load=self.load(now),
            frames=self.frames,
            batches=self.batches,
            errors=self.errors,
            hangs=self.hangs,
            out_of_memory=self.out_of_memory,
            restarts=self.restarts,
            late_results=self.late_results,
            last_error=self.last_error,
            retry_in=math.nan if math.isnan(self.retry_at) else max(0.0, self.retry_at - now),
        )
