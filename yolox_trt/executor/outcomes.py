# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What may become of a frame, and Outcome: what a change of the scheduler brought about."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from yolox_trt.core.frame import Frame
    from yolox_trt.executor.stream import Stream
    from yolox_trt.executor.timeline import Timeline

_LOGGER = logging.getLogger(__name__)


def worth_logging(count: int) -> bool:
    """Tell whether a repetition is logged, by its number: the 1st, 2nd, 4th, 8th ... are."""
    return count & (count - 1) == 0


class DropReason(enum.Enum):
    """Why a frame gave no result. received = processed + dropped (all reasons) + in flight."""

    OVERFLOW = "overflow"
    """The queue was full."""
    STALE = "stale"
    """It waited longer than `stale_after`."""
    RATE = "rate"
    """The stream's `max_rate` was exceeded."""
    DISABLED = "disabled"
    """The stream was not enabled."""
    FAILED = "failed"
    """The device failed, hung or lost it while it was being worked on."""
    MALFORMED = "malformed"
    """The detector could not read it (FrameError)."""
    NO_DEVICE = "no_device"
    """No device in service may serve the stream."""
    STOPPED = "stopped"
    """The executor was stopped, or the stream removed, while it waited."""


class SubmitOutcome(enum.Enum):
    """Answer of InferenceExecutor.submit."""

    ACCEPTED = "accepted"
    """The frame waits; on_result or on_drop will be called for it, once."""
    REPLACED_OLDEST = "replaced_oldest"
    """Accepted; an older waiting frame was dropped (on_drop was called for that one)."""
    QUEUE_FULL = "queue_full"
    """Refused, overflow = drop_newest; counted as dropped (overflow)."""
    STALE = "stale"
    """Refused, already older than `stale_after`; counted as dropped (stale)."""
    RATE_LIMITED = "rate_limited"
    """Refused, over `max_rate`; counted as dropped (rate)."""
    DISABLED = "disabled"
    """Refused, the stream is not enabled; counted as dropped (disabled)."""
    NO_DEVICE = "no_device"
    """Refused, no device in service may serve it; counted as dropped (no_device)."""
    STOPPED = "stopped"
    """Refused, the executor does not run; counted as dropped (stopped)."""
    UNKNOWN_STREAM = "unknown_stream"
    """Refused, no stream has the frame's stream_id (it was just removed); not counted."""

    @property
    def accepted(self) -> bool:
        """Whether the executor took the frame."""
        return self in (SubmitOutcome.ACCEPTED, SubmitOutcome.REPLACED_OLDEST)


#: As what a refused frame is counted.
REFUSALS = {
    SubmitOutcome.QUEUE_FULL: DropReason.OVERFLOW,
    SubmitOutcome.STALE: DropReason.STALE,
    SubmitOutcome.RATE_LIMITED: DropReason.RATE,
    SubmitOutcome.DISABLED: DropReason.DISABLED,
    SubmitOutcome.NO_DEVICE: DropReason.NO_DEVICE,
    SubmitOutcome.STOPPED: DropReason.STOPPED,
}


class Drop(NamedTuple):
    """An accepted frame that gives no result."""

    stream: Stream
    frame: Frame
    reason: DropReason


class Outcome(NamedTuple):
    """What a call of the Scheduler brought about, for whoever called it.

    Attributes:
        drops: accepted frames that were dropped, for on_drop.
        events: what happened to devices and streams: level and text of a line of the log.
    """

    drops: Sequence[Drop] = ()
    events: Sequence[tuple[int, str]] = ()

    def report(self, watch: Callable[[Stream, str], None] | None = None) -> None:
        """Call on_drop for each dropped frame, and log the events. The caller holds no lock.

        Args:
            watch: called before each callback with the stream and the callback's name.
        """
        for stream, frame, reason in self.drops:
            if stream.on_drop is not None:
                if watch is not None:
                    watch(stream, "on_drop")
                stream.call_back("on_drop", stream.on_drop, frame, reason)
        for level, text in self.events:
            _LOGGER.log(level, "%s", text)


#: What most calls bring about.
NOTHING = Outcome()


class Ledger:
    """Counts the drops and events of the call under way, and enters them in the timeline.

    Args:
        timeline: where they are entered, None for nowhere.

    Attributes:
        empty: whether nothing has been counted since the last call of `outcome`.
    """

    def __init__(self, timeline: Timeline | None) -> None:
        self.empty = True
        self._timeline = timeline
        self._drops: list[Drop] = []
        self._events: list[tuple[int, str]] = []

    def refuse(self, stream: Stream, reason: DropReason, now: float) -> None:
        """Count a frame that was not accepted."""
        stream.dropped[reason] += 1
        if self._timeline is not None:
            self._timeline.add_drop(now, stream.config.id, reason)

    def drop(self, stream: Stream, frame: Frame, reason: DropReason, now: float) -> None:
        """Count an accepted frame that gives no result."""
        self.refuse(stream, reason, now)
        self._drops.append(Drop(stream, frame, reason))
        self.empty = False

    def happened(
        self,
        now: float,
        text: str,
        *,
        level: int = logging.ERROR,
        device: str = "",
        mark: str = "",
    ) -> None:
        """Enter an event.

        Args:
            now: when it happened, in seconds.
            text: its line in the log.
            level: that line's level.
            device: the device in whose lane the timeline shows it.
            mark: what the timeline shows, "" for nothing.
        """
        self._events.append((level, text))
        self.empty = False
        if self._timeline is not None and mark:
            self._timeline.add_event(now, device, mark)

    def outcome(self) -> Outcome:
        """Return what has been counted since the last call."""
        if self.empty:
            return NOTHING
        self.empty = True
        outcome = Outcome(self._drops, self._events)
        self._drops, self._events = [], []
        return outcome
