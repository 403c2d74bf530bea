# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of on_result and on_drop, and the log of what happened."""

from __future__ import annotations

import logging
from collections.abc import Callable

from yolox_trt.executor.events import worth_logging
from yolox_trt.executor.outcomes import Outcome
from yolox_trt.executor.stream import Stream

_LOGGER = logging.getLogger(__name__)


def call_back(
    stream: Stream, name: str, function: Callable[..., object], *arguments: object
) -> None:
    """Call on_result or on_drop; an exception is counted and logged."""
    try:
        function(*arguments)
    except Exception:
        stream.callback_errors += 1
        if worth_logging(stream.callback_errors):
            _LOGGER.exception(
                "%s of stream %s raised (%d so far)",
                name,
                stream.config.id,
                stream.callback_errors,
            )


def report(outcome: Outcome, watch: Callable[[Stream, str], None] | None = None) -> None:
    """Call on_drop for each frame that was dropped, and log the events. Holds no lock.

    Args:
        outcome: what a call of the Scheduler returned.
        watch: called before each callback with the stream and the callback's name.
    """
    for stream, frame, reason in outcome.drops:
        if stream.on_drop is not None:
            if watch is not None:
                watch(stream, "on_drop")
            call_back(stream, "on_drop", stream.on_drop, frame, reason)
    for event in outcome.events:
        _LOGGER.log(event.level, "%s", event)
