# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What may become of a frame: the answers of submit(), and the reasons of drops."""

from __future__ import annotations

import enum
import logging
import sys
import traceback


def worth_logging(count: int) -> bool:
    """Tell whether a repetition is logged, by its number: the 1st, 2nd, 4th, 8th ... are."""
    return count & (count - 1) == 0


def log(
    logger: logging.Logger,
    level: int,
    text: str,
    *arguments: object,
    error: BaseException | None = None,
) -> None:
    """Write a line into the log; a handler that raises costs this line alone.

    Who tells of a failure is the thread of a device, or the one that watches them: it must go on.

    Args:
        logger: the logger of the module.
        level: the line's level.
        text: its text, as in logging.
        arguments: what its %s stand for.
        error: an exception whose traceback follows.
    """
    try:
        logger.log(level, text, *arguments, exc_info=error, stacklevel=2)
    except Exception:
        if logging.raiseExceptions and sys.stderr:
            traceback.print_exc()


def malformed(stream_id: str, error: Exception, count: int) -> str:
    """Return the log's line for a frame that could not be read, the `count`th of its stream."""
    return f"stream {stream_id}: {error} ({count} so far)"


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
    LATE = "late"
    """Its result came after `stale_after`, and `withhold_late` is set."""
    MALFORMED = "malformed"
    """The detector could not read it (FrameError), or the stream's options do not fit the model."""
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
