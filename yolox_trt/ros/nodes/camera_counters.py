# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CameraCounters: what a camera node counts and tells of itself beside its Stream."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from yolox_trt.executor.outcomes import DropReason
from yolox_trt.executor.snapshot import StreamSnapshot
from yolox_trt.ros.nodes.stamp_age import StampAge

#: Results that the latency percentiles look back on.
LATENCY_WINDOW = 1000


@dataclass(frozen=True)
class StreamTotals:
    """What a camera's Streams have counted: one lives from configure to cleanup.

    Attributes:
        received: images that they were given.
        processed: of them, those with a result.
        dropped: of them, those without one, by reason.
        in_flight: of them, those that wait or are worked on.
    """

    received: int = 0
    processed: int = 0
    dropped: Mapping[DropReason, int] = field(default_factory=dict)
    in_flight: int = 0

    def plus(self, stream: StreamSnapshot) -> StreamTotals:
        """Return the totals with another Stream."""
        return StreamTotals(
            self.received + stream.received,
            self.processed + stream.processed,
            {each: self.dropped.get(each, 0) + stream.dropped[each] for each in DropReason},
            self.in_flight + stream.in_flight,
        )


@dataclass
class CameraCounters:
    """Counters of one camera node, from the message to the published result.

    One thread at a time counts each of them, and a deque is copied in one step: no lock is needed,
    but for `malformed` and `replaced`, which the decoder of a former subscription may count too.

    Attributes:
        stamps: judges the images' ages.
        former: what the Streams have counted that the camera had before.
        malformed: images that were refused before they reached one.
        replaced: images that found no room, or that a newer one replaced before it was decoded.
        lost: images that the middleware lost before they arrived.
        published: results published.
        last_refusal: why the last malformed image was refused, "" if none was.
        last_message: time.monotonic() of the last image, 0 if none arrived.
        topic: what is subscribed to, "" while nothing is.
        subscribed_at: time.monotonic() of the last subscription, 0 before the first one.
        fault: why the camera cannot be subscribed to, "" where it can.
    """

    stamps: StampAge = field(default_factory=StampAge)
    former: StreamTotals = field(default_factory=StreamTotals)
    malformed: int = 0
    replaced: int = 0
    lost: int = 0
    published: int = 0
    last_refusal: str = ""
    last_message: float = 0.0
    topic: str = ""
    subscribed_at: float = 0.0
    fault: str = ""
    _latencies: deque[tuple[float, float]] = field(
        default_factory=lambda: deque(maxlen=LATENCY_WINDOW)
    )

    def retire(self, stream: StreamSnapshot) -> None:
        """Keep the counters of a Stream that was removed; what it still had in flight is lost."""
        former = self.former.plus(stream)
        stopped = former.dropped[DropReason.STOPPED] + former.in_flight
        dropped = {**former.dropped, DropReason.STOPPED: stopped}
        self.former = StreamTotals(former.received, former.processed, dropped)

    def add_latency(self, seconds: float, detect_seconds: float) -> None:
        """Add a published result.

        Args:
            seconds: from the message's arrival to the end of publish().
            detect_seconds: of them inside Detector.detect().
        """
        self.published += 1
        self._latencies.append((seconds, detect_seconds))

    def percentiles(self) -> dict[str, float]:
        """Return what /diagnostics tells of the last results, in milliseconds; NaN without any.

        The overhead of a result is its latency without detect(): conversion, waiting, publishing.
        """
        results = self._latencies.copy() or [(math.nan, math.nan)]
        latency, detect = np.array(results).T * 1e3
        latency_p50, latency_p99 = np.percentile(latency, (50, 99))
        overhead_p50, overhead_p99 = np.percentile(latency - detect, (50, 99))
        return {
            "latency_p50_ms": float(latency_p50),
            "latency_p99_ms": float(latency_p99),
            "detect_p50_ms": float(np.median(detect)),
            "overhead_p50_ms": float(overhead_p50),
            "overhead_p99_ms": float(overhead_p99),
        }
