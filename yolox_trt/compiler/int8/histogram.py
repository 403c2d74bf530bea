# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Histogram of a tensor's magnitudes, grown image by image in constant memory, and merged."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

#: Bins of the largest magnitude at least; TensorRT's published calibrator uses 2048 (GTC 2017,
#: S7310, slide 30).
NUM_BINS = 2048

#: Bins at which neighbouring bins are merged.
MAX_BINS = 2 * NUM_BINS


#: Values counted in one call: OpenCV counts in float32, exact up to 2^24.
_CHUNK = 2**23
#: More values than there are: those of several histograms are added in 64 bits.
_MOST = 2**53


class Histogram:
    """Counts of |x| in bins of equal width from 0 on.

    The width is the power of two that gives the largest magnitude NUM_BINS to MAX_BINS bins. It
    grows with it, by pairs of bins that are merged. So a histogram depends on the values alone, and
    not on their order or on how they were shared out: those of several machines merge into the one
    that a single machine would have made. Zeros are counted apart, since ReLU's zeros would drown
    every other bin.

    Attributes:
        width: width of a bin, 0.0 until a non-zero value was seen.
        counts: int64 (bins,), counts of non-zero magnitudes.
        zeros: count of exact zeros.
        minimum: smallest value seen (with its sign).
        maximum: largest value seen (with its sign).
    """

    def __init__(self) -> None:
        self.width = 0.0
        self.counts: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.zeros = 0
        self.minimum = np.inf
        self.maximum = -np.inf

    @classmethod
    def of(
        cls,
        width: float,
        zeros: float,
        minimum: float,
        maximum: float,
        counts: npt.NDArray[np.int64],
    ) -> Histogram:
        """Return a histogram of what the attributes of another one were.

        Raises:
            ValueError: no histogram has them.
        """
        made = cls()
        made.zeros, made.minimum, made.maximum = int(zeros), minimum, maximum
        if zeros != made.zeros or not 0 <= zeros < _MOST or np.isnan(minimum) or np.isnan(maximum):
            raise ValueError(f"{zeros} zeros, and values from {minimum} to {maximum}")
        if made.amax:
            made._fit()
        if width != made.width or counts.dtype != np.int64 or counts.shape != made.counts.shape:
            raise ValueError(
                f"{counts.dtype} {counts.shape} counts of width {width}; expected "
                f"{made.counts.shape} of {made.width}"
            )
        if counts.size and (counts.min() < 0 or counts.sum(dtype=np.float64) >= _MOST):
            raise ValueError("counts that are none")
        made.counts = counts
        return made

    @property
    def amax(self) -> float:
        """Largest magnitude seen; 0.0 before anything was added."""
        return max(0.0, -self.minimum, self.maximum) if self.minimum <= self.maximum else 0.0

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """Magnitude at the middle of each bin, float64 (bins,)."""
        return np.asarray((np.arange(len(self.counts)) + 0.5) * self.width, np.float64)

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Add an array of any shape.

        Raises:
            ValueError: it holds NaN or infinity: statistics of a broken run are worthless.
        """
        minimum, maximum = float(values.min()), float(values.max())
        if not (np.isfinite(minimum) and np.isfinite(maximum)):
            raise ValueError("activations with NaN or infinity")
        self.minimum = min(self.minimum, minimum)
        self.maximum = max(self.maximum, maximum)
        if minimum == maximum == 0.0:
            self.zeros += values.size
            return
        self._fit()
        bins = len(self.counts)
        flat = np.ascontiguousarray(values, np.float32).reshape(1, -1)
        for start in range(0, flat.shape[1], _CHUNK):
            magnitudes = np.abs(flat[:, start : start + _CHUNK])
            import cv2  # here: the options of commands import this module

            zeros = magnitudes.size - cv2.countNonZero(magnitudes)
            # The width being a power of two, both ends and every index are exact in float32.
            counts = cv2.calcHist([magnitudes], [0], None, [bins], [0.0, bins * self.width])
            self.counts += counts.reshape(-1).astype(np.int64)
            self.counts[0] -= zeros
            self.zeros += zeros

    def merge(self, other: Histogram) -> None:
        """Add what another histogram has counted; afterwards it is as if this one had."""
        self.zeros += other.zeros
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        if other.width == 0.0:
            return
        self._fit()
        steps = round(math.log2(self.width / other.width))  # not below 0: amax is not smaller
        counts = _merged(other.counts, steps)
        self.counts[: len(counts)] += counts

    def _fit(self) -> None:
        """Give the largest magnitude a bin."""
        # m * 2^e with m in [0.5, 1): it is in bin m * MAX_BINS, from NUM_BINS on.
        width = math.ldexp(1.0, max(math.frexp(self.amax)[1] - MAX_BINS.bit_length() + 1, -126))
        bins = int(self.amax / width) + 1
        if self.width:
            self.counts = _merged(self.counts, round(math.log2(width / self.width)))
        self.width = width
        self.counts = np.pad(self.counts, (0, bins - len(self.counts)))


def _merged(counts: npt.NDArray[np.int64], steps: int) -> npt.NDArray[np.int64]:
    """Return counts in bins of 2^steps times the width."""
    factor = 2 ** min(steps, MAX_BINS.bit_length())  # all of them in one bin, then
    padded = np.pad(counts, (0, -len(counts) % factor))
    return np.asarray(padded.reshape(-1, factor).sum(1), np.int64)
