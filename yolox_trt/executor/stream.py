# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Stream: one camera's bounded queue, its counters and its place in the round robin."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from yolox_trt.core.frame import Frame
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.executor.outcomes import DropReason, SubmitOutcome, log, worth_logging
from yolox_trt.executor.rate_meter import RateMeter
from yolox_trt.executor.snapshot import StreamSnapshot, snapshot_of
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.executor.stream_result import StreamResult

if TYPE_CHECKING:
    from yolox_trt.executor.device_state import DeviceState, LoadedModel

_LOGGER = logging.getLogger(__name__)

#: Called with a result, on the thread of the device that made it.
ResultCallback = Callable[[StreamResult], None]
#: Called with an accepted frame that will give no result, and why.
DropCallback = Callable[[Frame, DropReason], None]

_DEFAULT_OPTIONS = PostprocessOptions()

#: Latencies kept for the percentiles.
LATENCY_WINDOW = 1000


@dataclass(slots=True, eq=False)
class PendingFrame:
    """One accepted frame and its times, in seconds of the executor's clock.

    Attributes:
        frame: the frame.
        born: when it was taken, as far as its source tells; else `received`.
        received: when it arrived.
        submitted: when it entered the queue.
        deadline: when its result is due.
        model: the model that it is for, "" for the Stream's.
        options: by which its detections are found: the Stream's when a device took it.
        failure: why it gives no result, None if it does or nobody knows yet.
    """

    frame: Frame
    born: float
    received: float
    submitted: float
    deadline: float
    model: str = ""
    options: PostprocessOptions = _DEFAULT_OPTIONS
    failure: DropReason | None = None


class Stream:
    """State of one stream. Not thread safe: the Scheduler's owner holds a lock.

    Attributes:
        queue: waiting frames, oldest first.
        running: the frame that a device works on, None if none.
        busy: whether a frame is being worked on or its result is being delivered. The next
            frame starts only when this is over, on whatever device: so order is kept.
        undelivered: the frame that a device has finished and whose on_result has not been called.
        removed: whether it was removed while a frame was being worked on.
        devices: devices in service that may serve it -> the model that they would run; only the
            device that its configuration names while that is in service.
        served: whether a device that is in service, or about to be, may serve it.
        placed: the device that the policy gave it (dynamic: where its last frame went).
        placed_by_policy: whether a policy has placed it yet; a change before that is no move.
        credits: services left in the present round of the weighted round robin.
        served_order: running number of its last service, for the round robin.
        waiting_since: when it began to wait to be served, NaN while it does not; a frame that goes
            stale does not end the wait.
        gathering_since: when its queue began to hold frames, whichever they are; a batch gathers
            from then on. Meaningless while the queue is empty.
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
        self.undelivered: PendingFrame | None = None
        self.removed = False
        self.devices: dict[DeviceState, LoadedModel] = {}
        self.served = False
        self.placed: DeviceState | None = None
        self.placed_by_policy = False
        self.credits = config.weight
        self.served_order = 0
        self.waiting_since = math.nan
        self.gathering_since = math.nan
        self.received = 0
        self.processed = 0
        self.dropped: dict[DropReason, int] = dict.fromkeys(DropReason, 0)
        self.deadline_missed = 0
        self.late = 0
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

    def offer(
        self,
        frame: Frame,
        received: float,
        now: float,
        age: float = 0.0,
        model: str = "",
        *,
        accepting: bool,
    ) -> SubmitOutcome:
        """Take a frame into the queue, or refuse it.

        Args:
            frame: the frame.
            received: its time of arrival, in seconds.
            now: the present, in seconds.
            age: how old it was when it arrived, in seconds; 0 where that is not known.
            model: the model that it is for, "" for the Stream's.
            accepting: whether the executor runs.

        Returns:
            What became of it; after REPLACED_OLDEST the queue holds one frame too many, and the
            caller drops the oldest.
        """
        self.received += 1
        self.arrivals.add(now)
        config, queue = self.config, self.queue
        full = len(queue) >= config.queue_depth
        if not accepting:
            return SubmitOutcome.STOPPED
        if not config.enabled:
            return SubmitOutcome.DISABLED
        if not self.served:
            return SubmitOutcome.NO_DEVICE
        born = received - age
        if config.stale_after and now - born > config.stale_after:
            return SubmitOutcome.STALE
        if full and config.overflow == "drop_newest":
            return SubmitOutcome.QUEUE_FULL
        if config.max_rate and not self._allow_rate(config.max_rate, now):
            return SubmitOutcome.RATE_LIMITED
        if not queue:
            self.gathering_since = now
        if self.waiting_since != self.waiting_since:  # NaN
            self.waiting_since = now
        deadline = received + config.deadline if config.deadline else math.inf
        queue.append(PendingFrame(frame, born, received, now, deadline, model))
        return SubmitOutcome.REPLACED_OLDEST if full else SubmitOutcome.ACCEPTED

    def _allow_rate(self, max_rate: float, now: float) -> bool:
        """Tell whether `max_rate` lets a frame in now, and count it if so.

        Generic cell rate algorithm (ITU-T I.371) with half a period of tolerance: a camera at
        just `max_rate` loses nothing to jitter, and the long-run rate stays at `max_rate`.
        """
        period = 1.0 / max_rate
        if now < self._rate_time - 0.5 * period:
            return False
        self._rate_time = max(self._rate_time, now) + period
        return True

    def model_on(self, state: DeviceState) -> LoadedModel | None:
        """Return what a device would run for the oldest waiting frame, or the next one to come.

        None if it may not serve the stream.
        """
        own = self.devices.get(state)
        return own and state.models.get(self.queue[0].model if self.queue else "", own)

    def take(self, now: float) -> PendingFrame:
        """Start the oldest waiting frame."""
        pending = self.queue.popleft()
        pending.options = self.config.options
        self.running = pending
        self.busy = True
        self.waiting_since = now if self.queue else math.nan
        self.gathering_since = now
        return pending

    def end(self, pending: PendingFrame, now: float) -> DropReason | None:
        """Count the end of the frame that a device has worked on.

        Returns:
            Why it gives no result (its `failure`), None if it does: then it is `undelivered`.
        """
        self.running = None
        limit = self.config.stale_after
        if self.removed:
            pending.failure = pending.failure or DropReason.STOPPED
        elif limit and pending.failure is None and now - pending.born > limit:
            self.late += 1
            if self.config.withhold_late:
                pending.failure = DropReason.LATE
        if pending.failure is None:
            self.undelivered = pending
            self.processed += 1
            self.results.add(now)
            self.latencies.append(now - pending.received)
            if now > pending.deadline:
                self.deadline_missed += 1
        return pending.failure

    def call_back(self, name: str, function: Callable[..., object], *arguments: object) -> None:
        """Call on_result or on_drop; an exception is counted and logged.

        One that is to end the program (KeyboardInterrupt, SystemExit) ends it where the program
        itself has called, on the main thread; a device's thread it must not end.
        """
        try:
            function(*arguments)
        except BaseException as error:
            self.callback_errors += 1
            if worth_logging(count := self.callback_errors):
                text = "%s of stream %s raised (%d so far)"
                log(_LOGGER, logging.ERROR, text, name, self.config.id, count, error=error)
            if (
                not isinstance(error, Exception)
                and threading.current_thread() is threading.main_thread()
            ):
                raise

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
        return snapshot_of(
            StreamSnapshot,
            self,
            id=self.config.id,
            model=self.config.model,
            enabled=self.config.enabled,
            priority=self.config.priority,
            device=None if self.placed is None else self.placed.device,
            dropped=dict(self.dropped),
            waiting=len(self.queue),
            queue_age=max(0.0, now - self.queue[0].received) if self.queue else 0.0,
            received_rate=0.0 if math.isnan(received_rate) else received_rate,
            processed_rate=0.0 if math.isnan(processed_rate) else processed_rate,
            latency_p50=p50,
            latency_p99=p99,
            latency_max=highest,
            callback_blocked=(
                0.0
                if math.isnan(self.callback_blocked_since)
                else max(0.0, now - self.callback_blocked_since)
            ),
        )
