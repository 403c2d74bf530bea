# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""RateMeter: events a second over the last few events."""

from __future__ import annotations

import math
from collections import deque


class RateMeter:
    """Mean rate of the last `window` events; falls towards 0 when they cease.

    Attributes:
        add: counts an event; its argument is the event's time, in seconds.
    """

    __slots__ = ("_times", "add")

    def __init__(self, window: int = 32) -> None:
        self._times: deque[float] = deque(maxlen=window)
        self.add = self._times.append

    def rate(self, now: float) -> float:
        """Return events a second, NaN before the third event."""
        times = self._times
        count = len(times)
        if count < 3:
            return math.nan
        span = times[-1] - times[0]
        if span <= 0.0:
            return math.nan
        mean_interval = span / (count - 1)
        if now - times[-1] > 2.0 * mean_interval:
            # The events have ceased or slowed: count the silence as well.
            span = now - times[0]
        return (count - 1) / span
