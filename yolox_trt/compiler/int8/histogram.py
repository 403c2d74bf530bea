# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Histogram of a tensor's magnitudes, grown image by image in constant memory."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

#: Bins at the start; TensorRT's published calibrator uses 2048 (GTC 2017, S7310, slide 30).
NUM_BINS = 2048

#: Bins at which neighbouring bins are merged, so that an early small image costs no memory.
MAX_BINS = 8 * NUM_BINS


#: Values counted in one call: OpenCV counts in float32, exact up to 2^24.
_CHUNK = 2**23


class Histogram:
    """Counts of |x| in bins of equal width from 0 on.

    The first non-zero batch sets the width to its maximum / 2048; larger values append bins of
    the same width; beyond MAX_BINS pairs of bins are merged. Zeros are counted apart, since
    ReLU's zeros would drown every other bin.

    Attributes:
        width: width of a bin, 0.0 until a non-zero value was seen.
        counts: int64 (bins,), counts of non-zero magnitudes.
        zeros: count of exact zeros.
        minimum: smallest value seen (with its sign).
        maximum: largest value seen (with its sign).
    """

    def __init__(self) -> None:
        self.width = 0.0
        self.counts: npt.NDArray[np.int64] = np.zeros(NUM_BINS, np.int64)
        self.zeros = 0
        self.minimum = np.inf
        self.maximum = -np.inf

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
        amax = max(-minimum, maximum)
        if amax == 0.0:
            self.zeros += values.size
            return
        if self.width == 0.0:
            self.width = amax / NUM_BINS
        while (needed := self._bins_for(amax)) > MAX_BINS:
            self._merge_pairs()
        if needed > len(self.counts):
            self.counts = np.pad(self.counts, (0, needed - len(self.counts)))
        bins = len(self.counts)
        flat = np.ascontiguousarray(values, np.float32).reshape(1, -1)
        for start in range(0, flat.shape[1], _CHUNK):
            magnitudes = np.abs(flat[:, start : start + _CHUNK])
            import cv2  # here: the options of commands import this module

            zeros = magnitudes.size - cv2.countNonZero(magnitudes)
            # Values beyond the range would be dropped: the last bin reaches a little further.
            counts = cv2.calcHist(
                [magnitudes], [0], None, [bins], [0.0, bins * self.width * 1.0001]
            )
            self.counts += counts.reshape(-1).astype(np.int64)
            self.counts[0] -= zeros
            self.zeros += zeros

    def _bins_for(self, amax: float) -> int:
        # amax itself belongs to the last bin; the factor keeps a rounded-up quotient there.
        return max(1, math.ceil(amax / self.width * (1.0 - 1e-12)))

    def _merge_pairs(self) -> None:
        counts = np.pad(self.counts, (0, len(self.counts) % 2))
        self.counts = counts[0::2] + counts[1::2]
        self.width *= 2.0
