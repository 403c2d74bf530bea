# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Clock: where the executor takes its time from."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic time in seconds."""

    def now(self) -> float:
        """Return the present time, in seconds."""
        ...


class MonotonicClock:
    """Real time: `now` is time.monotonic(), the clock of Frame.received_ns."""

    now = staticmethod(time.monotonic)


class VirtualClock:
    """Time that stands still until the simulation moves it."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Return the time that the simulation has reached, in seconds."""
        return self._now

    def advance_to(self, time_s: float) -> None:
        """Move to a later time, in seconds.

        Raises:
            ValueError: the time lies in the past.
        """
        if time_s < self._now:
            raise ValueError(f"the clock stands at {self._now} s and cannot go back to {time_s} s")
        self._now = time_s
