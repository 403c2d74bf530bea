# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""RemovedStreams: what the streams that were removed have counted."""

from __future__ import annotations

from yolox_trt.executor.stream import Stream


class RemovedStreams:
    """Sums of counters: a stream's are added when nothing of it is in flight any more.

    Attributes:
        received: their frames.
        processed: those that gave a result.
        dropped: those that did not.
    """

    def __init__(self) -> None:
        self.received = self.processed = self.dropped = 0
        self._leaving: list[Stream] = []

    def add(self, stream: Stream) -> None:
        """Take in a stream that was removed."""
        self._leaving.append(stream)
        self.count()

    def count(self) -> None:
        """Count those of which nothing is worked on or being delivered any more."""
        for stream in [s for s in self._leaving if not s.busy]:
            self._leaving.remove(stream)
            self.received += stream.received
            self.processed += stream.processed
            self.dropped += sum(stream.dropped.values())
