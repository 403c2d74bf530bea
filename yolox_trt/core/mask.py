# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Mask: the class of each pixel of an image, run-length encoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Value of pixels that the network did not see, those outside the Roi. A segmentation head has
#: at most this many classes.
NO_CLASS = 255


@dataclass(frozen=True, eq=False)
class Mask:
    """Class of each pixel of an image, as runs of equal pixels, row after row.

    A run may go on in the next row. Neighbouring runs have different values, so that two masks of
    the same classes are the same arrays.

    Attributes:
        height: rows of the source image.
        width: columns of the source image.
        values: uint8 (R,), class of each run, or NO_CLASS.
        lengths: int32 (R,), its pixels; they add up to height x width.
    """

    height: int
    width: int
    values: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int32]

    @classmethod
    def encode(cls, classes: npt.NDArray[np.uint8]) -> Mask:
        """Make a mask of the class of each pixel, uint8 (H, W)."""
        flat = np.ascontiguousarray(classes).reshape(-1)
        starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        starts = np.concatenate((np.zeros(min(1, flat.size), starts.dtype), starts))
        height, width = classes.shape
        return cls.of_starts(height, width, starts, flat[starts])

    @classmethod
    def of_starts(
        cls, height: int, width: int, starts: npt.NDArray[np.integer], values: npt.NDArray[np.uint8]
    ) -> Mask:
        """Make a mask of the first pixel of each run, (R,), counted row after row from 0."""
        lengths = np.empty(len(starts), np.int32)
        np.subtract(starts[1:], starts[:-1], out=lengths[:-1], casting="unsafe")
        lengths[-1:] = height * width - starts[-1:]
        return cls(height, width, values, lengths)

    def decode(self) -> npt.NDArray[np.uint8]:
        """Return the class of each pixel, uint8 (H, W)."""
        return np.repeat(self.values, self.lengths).reshape(self.height, self.width)
