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
#: How an image becomes the input: its aspect kept and padded right and below (YOLOX), padded on all
#: sides (Ultralytics), or each axis resized by itself, without padding (RT-DETR, segmentation).
RESIZES = ("letterbox", "centre", "stretch")


@dataclass(frozen=True)
class Letterbox:
    """Aspect-preserving resize, padded right and below; or one of the other RESIZES.

    The scale is min(input_height / roi.height, input_width / roi.width), resized sizes are the
    floor of source x scale, as in YOLOX's `preproc`. They are computed in integers: YOLOX's own
    `int(size * float)` loses a pixel where the product is a whole number that float64 rounds down.
    "stretch" fills the input, and each axis has a scale of its own.

    A resized pixel (u, v) samples the source at x = (u + 0.5) * roi.width / resized_width - 0.5
    + roi.x, likewise y: half-pixel centres, each axis with its own ratio, edges clamped to the
    Roi, as OpenCV's INTER_LINEAR does. It stands at (u + left, v + top) of the input.

    Attributes:
        source_height: rows of the source image.
        source_width: columns of the source image.
        roi: rectangle of the source that is resized, in source pixels.
        input_height: rows of the network's input.
        input_width: columns of the network's input.
        scale_x: resized pixels for each source pixel along x; boxes divide by it to go back.
        scale_y: likewise along y; the same as scale_x unless the image is stretched.
        resized_height: rows of the input that carry the image; the others are padding.
        resized_width: columns of the input that carry the image; the others are padding.
        top: first row of the input that carries the image.
        left: first column of the input that carries the image.
    """

    source_height: int
    source_width: int
    roi: Roi
    input_height: int
    input_width: int
    scale_x: float
    scale_y: float
    resized_height: int
    resized_width: int
    top: int = 0
    left: int = 0

    @classmethod
    def fit(
        cls,
        source_height: int,
        source_width: int,
        input_height: int,
        input_width: int,
        roi: Roi | None = None,
        resize: str = "letterbox",
    ) -> Letterbox:
        """Make the geometry of a source image (pixels), optionally of a part of it.

        Args:
            source_height: rows of the source image.
            source_width: columns of the source image.
            input_height: rows of the network's input.
            input_width: columns of the network's input.
            roi: the part of the source; None for all of it.
            resize: one of RESIZES.
        """
        roi = roi or Roi(0, 0, source_width, source_height)
        sizes = (source_height, source_width, roi, input_height, input_width)
        if resize == "stretch":
            scales = (input_width / roi.width, input_height / roi.height)
            return cls(*sizes, *scales, input_height, input_width)
        # Compare input_height / roi.height with input_width / roi.width without division.
        if input_height * roi.width <= input_width * roi.height:
            scale = input_height / roi.height
            resized_height = input_height
            resized_width = max(1, roi.width * input_height // roi.height)
        else:
            scale = input_width / roi.width
            resized_width = input_width
            resized_height = max(1, roi.height * input_width // roi.width)
        top = left = 0
        if resize == "centre":  # an odd rest goes below and right, as in Ultralytics' LetterBox
            top, left = (input_height - resized_height) // 2, (input_width - resized_width) // 2
        return cls(*sizes, scale, scale, resized_height, resized_width, top, left)

    @classmethod
    def of_frame(
        cls, frame: Frame, input_height: int, input_width: int, resize: str = "letterbox"
    ) -> Letterbox:
        """Make the geometry of a Frame, its Roi included; see fit."""
        return cls.fit(frame.height, frame.width, input_height, input_width, frame.roi, resize)

    @property
    def image_area(self) -> tuple[slice, slice]:
        """Rows and columns of the input that carry the image."""
        return (
            slice(self.top, self.top + self.resized_height),
            slice(self.left, self.left + self.resized_width),
        )

    def to_roi(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map boxes from input pixels to pixels of the Roi, without clipping.

        Args:
            boxes: float32 (N, 4), x1 y1 x2 y2 in input pixels.

        Returns:
            float32 (N, 4), x1 y1 x2 y2 in pixels from the Roi's corner.
        """
        inverse = np.array([1.0 / self.scale_x, 1.0 / self.scale_y] * 2, np.float32)
        return np.asarray((boxes - np.array([self.left, self.top] * 2, np.float32)) * inverse)

    def to_source(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map boxes from input pixels to source pixels, clipped to the Roi.

        Args:
            boxes: float32 (N, 4), x1 y1 x2 y2 in input pixels.

        Returns:
            float32 (N, 4), x1 y1 x2 y2 in source pixels.
        """
        low = np.array([self.roi.x, self.roi.y] * 2, np.float32)
        size = np.array([self.roi.width, self.roi.height] * 2, np.float32)
        return np.asarray(np.clip(self.to_roi(boxes), np.float32(0), size) + low, np.float32)
