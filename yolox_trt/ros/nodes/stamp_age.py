# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""StampAge: how old a camera's images are, by the stamps of their headers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

#: Smallest age at arrival, in seconds, from which the camera's clock is taken for this computer's.
AGREES_FROM, AGREES_TO = -0.5, 1.0
#: Seconds by which a stamp or a clock goes back, or ahead, that has been set.
STEP = 1.0
#: Images in a row whose stamps tell that the camera's clock was set.
EVIDENCE = 10
#: Seconds whose smallest age is compared with, where the clocks differ: they may drift.
WINDOW = 30.0
#: Images that must have had so small an age. Where messages on /clock come late, simulated time is
#: behind for an image or two, and all that follow would seem too old.
COMPANY = 3


class StampAge:
    """Judges each image's age when it arrives. One thread at a time calls `judge`.

    A stamp lags behind the clock by the image's age and by what the clocks differ. They agree when
    the smallest lag that was seen is what exposure and transport may take (AGREES_FROM to
    AGREES_TO), and from then on until one of them is set. Where they differ, the smallest lag of
    the last 30 to 60 s, that a few images had, stands for no age. An image with the stamp of the
    one before it, or with one that goes back, tells nothing of the clocks; nor does one that comes
    while simulated time stands still.

    Args:
        clock: see the attribute.

    Attributes:
        clock: ROS time in nanoseconds; 0 where it is simulated and does not run yet. May be
            replaced at any time.
        repeated: images that had the stamp of the one before.
        agree: whether the clocks agree; None where that is not known yet.
        age: of the last image at its arrival, in seconds; NaN where it cannot be judged.
    """

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self.repeated = 0
        self.age = math.nan
        self.clock = clock
        self._now = 0
        self._stamp = self._arrival = self._received = 0.0
        self._forget()

    def _forget(self) -> None:
        self.agree: bool | None = None
        self._newest = -math.inf
        # Up to COMPANY lags in their order, of the present window and of the one before.
        self._smallest: list[list[float]] = [[], []]
        self._window_began = -math.inf
        self._suspects, self._suspect_lag = 0, math.nan

    @property
    def lag(self) -> float:
        """Seconds by which a stamp lags behind this clock without being old; NaN if unknown."""
        return min((lags[-1] for lags in self._smallest if lags), default=math.nan)

    def judge(self, stamp_ns: int, received_ns: int) -> float:
        """Return an image's age at its arrival, in seconds; 0 where it cannot be judged.

        Args:
            stamp_ns: its stamp, in nanoseconds; 0 for none.
            received_ns: time.monotonic_ns() of its arrival.
        """
        now = self.clock()
        if not stamp_ns or not now:
            self.age = math.nan
            return 0.0
        arrival = (now - (time.monotonic_ns() - received_ns)) * 1e-9
        received, stamp = received_ns * 1e-9, stamp_ns * 1e-9
        lag = arrival - stamp
        # Between two messages on /clock simulated time is what it was for the image before.
        stands, self._now = now == self._now, now
        if not stands:
            passed = arrival - self._arrival
            if self._arrival and abs(passed - (received - self._received)) > STEP:
                self._forget()  # this computer's clock was set, or simulated time stood still
            self._arrival, self._received = arrival, received
        if stamp == self._stamp:
            self.repeated += 1
        elif not stands:
            fits = stamp >= self._newest - STEP and not (self.agree and lag < AGREES_FROM)
            # Stamps of a clock that was set back a little soon reach those before; the lag stays.
            goes_on = self._suspects and abs(lag - self._suspect_lag) < STEP / 2.0
            if fits and not goes_on:
                self._suspects = 0
                self._learn(stamp, lag, received)
            elif self._was_set(stamp, lag):
                self._learn(stamp, lag, received)
        self._stamp = stamp
        self.age = lag if self.agree else lag - self.lag
        return max(0.0, self.age)

    def _was_set(self, stamp: float, lag: float) -> bool:
        """Tell whether enough stamps that do not fit those before say: the clock was set."""
        self._suspects = self._suspects + 1 if stamp > self._stamp else 1
        if self._suspects == 1:
            self._suspect_lag = lag
        if self._suspects < EVIDENCE:
            return False
        self._forget()
        return True

    def _learn(self, stamp: float, lag: float, received: float) -> None:
        if stamp > self._newest:
            self._newest = stamp
        smallest = self._smallest[0]
        if received - self._window_began > WINDOW:
            self._window_began = received
            self._smallest = [[], smallest]
        elif len(smallest) == COMPANY and lag >= smallest[-1]:
            return  # as nearly all are: it changes nothing
        self._smallest[0] = sorted([*self._smallest[0], lag])[:COMPANY]
        self.agree = self.agree or AGREES_FROM <= self.lag <= AGREES_TO
