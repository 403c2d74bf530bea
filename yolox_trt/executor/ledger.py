# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Ledger: counts what a call of the scheduler brings about, its Outcome."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from yolox_trt.core.frame import Frame
from yolox_trt.executor.outcomes import DropReason, log
from yolox_trt.executor.stream import Stream
from yolox_trt.executor.timeline import Timeline

_LOGGER = logging.getLogger(__name__)


class Drop(NamedTuple):
    """An accepted frame that gives no result."""

    stream: Stream
    frame: Frame
    reason: DropReason

    def call_back(self) -> None:
        """Call on_drop, where the stream has one. The caller holds no lock."""
        if self.stream.on_drop is not None:
            self.stream.call_back("on_drop", self.stream.on_drop, self.frame, self.reason)


class Outcome(NamedTuple):
    """What a call of the Scheduler brought about, for whoever called it.

    Attributes:
        drops: accepted frames that were dropped, for on_drop.
        events: what happened to devices and streams: level and text of a line of the log.
    """

    drops: Sequence[Drop] = ()
    events: Sequence[tuple[int, str]] = ()

    def report(self) -> None:
        """Call on_drop for each dropped frame, and log the events. The caller holds no lock."""
        for drop in self.drops:
            drop.call_back()
        log_events(self.events)


def log_events(events: Sequence[tuple[int, str]]) -> None:
    """Write the lines of an Outcome into the log. The caller holds no lock."""
    for level, text in events:
        log(_LOGGER, level, "%s", text)


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
