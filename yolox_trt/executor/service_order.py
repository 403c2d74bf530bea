# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ServiceOrder: which of a device's waiting streams is served first."""

from __future__ import annotations

from collections.abc import Sequence

from yolox_trt.executor.stream import Stream


class ServiceOrder:
    """Starved streams first, then by priority, round robin by weight, and deadline.

    Streams that have waited for `starvation_limit` seconds go first, the longest wait first. Then
    the priority counts; within a priority a weighted round robin (each round serves a stream at
    most `weight` times); within a round the earliest deadline, then the least recent service. So a
    waiting stream is passed over by another of its priority at most twice its weight in times.
    """

    def __init__(self, starvation_limit: float) -> None:
        self._starvation_limit = starvation_limit
        self._services = 0

    def sort(self, ready: list[Stream], now: float) -> None:
        """Sort streams with a waiting frame in place."""
        starved_since = now - self._starvation_limit

        def key(stream: Stream) -> tuple[float, float, float, float, int]:
            if stream.waiting_since < starved_since:
                return (0.0, stream.waiting_since, 0.0, 0.0, 0)
            return (
                1.0,
                -stream.config.priority,
                stream.credits <= 0,
                stream.queue[0].deadline,
                stream.served_order,
            )

        ready.sort(key=key)

    def count(self, chosen: Sequence[Stream], ready: Sequence[Stream]) -> None:
        """Count a service of each chosen stream, while `ready` was waiting."""
        for stream in chosen:
            if stream.credits <= 0:
                # Nobody of this priority who waits has a service left: a new round begins.
                priority = stream.config.priority
                for other in ready:
                    if other.config.priority == priority:
                        other.credits = other.config.weight
            stream.credits -= 1
            self._services += 1
            stream.served_order = self._services
