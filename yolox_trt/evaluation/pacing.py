# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Pacer: sleeps to a fixed rate without drifting."""

from __future__ import annotations

import time


class Pacer:
    """Gives the times of a fixed rate, the first of them at once.

    Args:
        rate: times a second, more than 0.
        catch_up: whether times that have passed come one right after the other; else they are
            left out and counted.

    Attributes:
        late: times that were left out.
    """

    def __init__(self, rate: float, *, catch_up: bool = False) -> None:
        self._period = 1.0 / rate
        self._catch_up = catch_up
        self._next = time.monotonic()
        self.late = 0

    def wait(self) -> None:
        """Sleep until the next time."""
        now = time.monotonic()
        if now > self._next + self._period and not self._catch_up:
            self.late += int((now - self._next) / self._period)
            self._next = now
        sleep_until(self._next)
        self._next += self._period


def sleep_until(due: float) -> None:
    """Sleep until a time of time.monotonic(); return at once where it has passed."""
    while (left := due - time.monotonic()) > 0.0:
        time.sleep(left)
