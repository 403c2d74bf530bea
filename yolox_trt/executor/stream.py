# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Stream: one camera's bounded queue, its counters and its place in the round robin."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import numpy as np

from yolox_trt.core.device import Device
from yolox_trt.core.frame import Frame
from yolox_trt.executor.outcomes import DropReason
from yolox_trt.executor.rate_meter import RateMeter
from yolox_trt.executor.snapshot import StreamSnapshot
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.executor.stream_result import StreamResult

#: Called with a result, on the thread of the device that made it.
ResultCallback = Callable[[StreamResult], None]
#: Called with an accepted frame that will give no result, and why.
DropCallback = Callable[[Frame, DropReason], None]

#: Latencies kept for the percentiles.
LATENCY_WINDOW = 1000


class PendingFrame:
    """One accepted frame and its times, in seconds of the executor's clock."""

    __slots__ = ("deadline", "frame", "received", "submitted")

    def __init__(self, frame: Frame, received: float, submitted: float, deadline: float) -> None:
        self.frame = frame
        self.received = received
        self.submitted = submitted
        self.deadline = deadline


class Stream:
    """State of one stream. Not thread safe: the Scheduler's owner holds a lock.

    Attributes:
        queue: waiting frames, oldest first.
        running: the frame that a device works on, None if none.
        busy: whether a frame is being worked on or its result is being delivered. The next
            frame starts only when this is over, on whatever device: so order is kept.
        removed: whether it was removed while a frame was being worked on.
        devices: devices in service that may serve it -> the model that they would run; only the
            device that its configuration names while that is in service.
        served: whether a device that is in service, or about to be, may serve it.
        placed: the device that the policy gave it (dynamic: where its last frame went).
        settled: whether a policy has placed it; moves before that are no moves.
        credits: services left in the present round of the weighted round robin.
        served_order: running number of its last service, for the round robin.
        waiting_since: when it began to wait for the service that it has not had, NaN if not; frames
            that go stale meanwhile do not end that.
        gathering_since: since when its queue holds something, whatever frames come and go: a batch
            gathers from then on. Of no meaning while the queue is empty.
    """

    def __init__(
        self, config: StreamConfig, on_result: ResultCallback, on_drop: DropCallback | None
    ) -> None:
        self.config = config
        self.on_result = on_result
        self.on_drop = on_drop
        self.queue: deque[PendingFrame] = deque()
        self.running: PendingFrame | None = None
        self.busy = False
        self.removed = False
        self.devices: dict[Device, str] = {}
        self.served = False
        self.placed: Device | None = None
        self.settled = False
        self.credits = config.weight
        self.served_order = 0
        self.waiting_since = math.nan
        self.gathering_since = math.nan
        self.received = 0
        self.processed = 0
        self.dropped: dict[DropReason, int] = dict.fromkeys(DropReason, 0)
        self.deadline_missed = 0
        self.moves = 0
        self.last_move = ""
        self.callback_errors = 0
        self.callback_hangs = 0
        #: Since when a callback has not returned that a watchdog has found, NaN if none.
        self.callback_blocked_since = math.nan
        self.arrivals = RateMeter()
        self.results = RateMeter()
        self.latencies: deque[float] = deque(maxlen=LATENCY_WINDOW)
        self._rate_time = -math.inf

    def allow_rate(self, now: float) -> bool:
        """Tell whether `max_rate` lets a frame in now, and count it if so.

        Generic cell rate algorithm (ITU-T I.371) with half a period of tolerance: a camera at
        just `max_rate` loses nothing to jitter, and the long-run rate stays at `max_rate`.
        """
        if not self.config.max_rate:
            return True
        period = 1.0 / self.config.max_rate
        if now < self._rate_time - 0.5 * period:
            return False
        self._rate_time = max(self._rate_time, now) + period
        return True

    def enqueue(self, pending: PendingFrame, *, replaces: bool = False) -> None:
        """Append a frame; the caller has made room, by dropping one if it `replaces` it."""
        if not (self.queue or replaces):
            self.gathering_since = pending.submitted
        if self.waiting_since != self.waiting_since:  # NaN
            self.waiting_since = pending.submitted
        self.queue.append(pending)

    def take(self, now: float) -> PendingFrame:
        """Start the oldest waiting frame."""
        pending = self.queue.popleft()
        self.running = pending
        self.busy = True
        self.waiting_since = now if self.queue else math.nan
        self.gathering_since = now
        return pending

    def rate(self, now: float) -> float:
        """Frames a second to reckon with: measured, or assumed until enough have arrived."""
        measured = self.arrivals.rate(now)
        if math.isnan(measured):
            return self.config.assumed_rate
        if self.config.max_rate:
            return min(measured, self.config.max_rate)
        return measured

    @property
    def in_flight(self) -> int:
        """Frames waiting or being worked on."""
        return len(self.queue) + (self.running is not None)

    def snapshot(self, now: float) -> StreamSnapshot:
        """Return the counters; percentiles are computed here, not on the hot path."""
        p50 = p99 = highest = math.nan
        if self.latencies:
            values = np.fromiter(self.latencies, np.float64, len(self.latencies))
            p50, p99, highest = (float(v) for v in np.percentile(values, (50, 99, 100)))
        received_rate = self.arrivals.rate(now)
        processed_rate = self.results.rate(now)
        return StreamSnapshot(
            id=self.config.id,
            model=self.config.model,
            enabled=self.config.enabled,
            priority=self.config.priority,
            device=self.placed,
            served=self.served,
            received=self.received,
            processed=self.processed,
            dropped=dict(self.dropped),
            in_flight=self.in_flight,
            waiting=len(self.queue),
            queue_age=max(0.0, now - self.queue[0].received) if self.queue else 0.0,
            received_rate=0.0 if math.isnan(received_rate) else received_rate,
            processed_rate=0.0 if math.isnan(processed_rate) else processed_rate,
            latency_p50=p50,
            latency_p99=p99,
            latency_max=highest,
            deadline_missed=self.deadline_missed,
            moves=self.moves,
            last_move=self.last_move,
            callback_errors=self.callback_errors,
            callback_hangs=self.callback_hangs,
            callback_blocked=(
                0.0
                if math.isnan(self.callback_blocked_since)
                else max(0.0, now - self.callback_blocked_since)
            ),
        )
