# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Pacer: sleeps to a fixed rate without drifting."""

from __future__ import annotations

import time


class Pacer:
    """Gives the times of a fixed rate; a late one is not made up for by a burst.

    Args:
        rate: times a second, more than 0.
    """

    def __init__(self, rate: float) -> None:
        self._period = 1.0 / rate
        self._next = time.monotonic()
        self.late = 0

    def wait(self) -> None:
        """Sleep until the next time; where it has passed already, count it and go on at once."""
        now = time.monotonic()
        if now > self._next + self._period:
            self.late += int((now - self._next) / self._period)
            self._next = now
        elif now < self._next:
            time.sleep(self._next - now)
        self._next += self._period
