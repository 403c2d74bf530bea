# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Letterbox: the one geometry between source pixels and network input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from yolox_trt.core.roi import Roi

if TYPE_CHECKING:
    from yolox_trt.core.frame import Frame

#: Grey value of the padding, as YOLOX trains with (yolox/data/data_augment.py, preproc).
PAD_VALUE = 114


@dataclass(frozen=True)
class Letterbox:
    """Aspect-preserving resize anchored top-left, padded right and below.

    `scale` = min(input_height / roi.height, input_width / roi.width), resized sizes are the
    floor of source x scale, as in YOLOX's `preproc`. They are computed in integers: YOLOX's own
    `int(size * float)` loses a pixel where the product is a whole number that float64 rounds down.

    A resized pixel (u, v) samples the source at x = (u + 0.5) * roi.width / resized_width - 0.5
    + roi.x, likewise y: half-pixel centres, each axis with its own ratio, edges clamped to the
    Roi, as OpenCV's INTER_LINEAR does.

    Attributes:
        roi: rectangle of the source that is resized, in source pixels.
        input_height: rows of the network's input.
        input_width: columns of the network's input.
        scale: resized pixels for each source pixel; boxes divide by it to go back.
        resized_height: rows of the input that carry the image; below it padding.
        resized_width: columns of the input that carry the image; right of it padding.
    """

    roi: Roi
    input_height: int
    input_width: int
    scale: float
    resized_height: int
    resized_width: int

    @classmethod
    def fit(
        cls,
        source_height: int,
        source_width: int,
        input_height: int,
        input_width: int,
        roi: Roi | None = None,
    ) -> Letterbox:
        """Make the geometry of a source image (pixels), optionally of a part of it."""
        roi = roi or Roi(0, 0, source_width, source_height)
        # Compare input_height / roi.height with input_width / roi.width without division.
        if input_height * roi.width <= input_width * roi.height:
            scale = input_height / roi.height
            resized_height = input_height
            resized_width = max(1, roi.width * input_height // roi.height)
        else:
            scale = input_width / roi.width
            resized_width = input_width
            resized_height = max(1, roi.height * input_width // roi.width)
        return cls(roi, input_height, input_width, scale, resized_height, resized_width)

    @classmethod
    def of_frame(cls, frame: Frame, input_height: int, input_width: int) -> Letterbox:
        """Make the geometry of a Frame, its Roi included."""
        return cls.fit(frame.height, frame.width, input_height, input_width, frame.roi)

    def to_source(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map boxes from input pixels to source pixels, clipped to the Roi.

        Args:
            boxes: float32 (N, 4), x1 y1 x2 y2 in input pixels.

        Returns:
            float32 (N, 4), x1 y1 x2 y2 in source pixels.
        """
        inverse = np.float32(1.0 / self.scale)
        low = np.array([self.roi.x, self.roi.y] * 2, np.float32)
        size = np.array([self.roi.width, self.roi.height] * 2, np.float32)
        return np.asarray(np.clip(boxes * inverse, np.float32(0), size) + low, np.float32)
