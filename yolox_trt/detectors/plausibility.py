# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Plausibility: says once that a network's detections cannot be meant so.

A form that was mistaken for another, or boxes in other units, fail nowhere: they give nonsense, in
silence. What gives it away is looked for in every frame, and said on the first that shows it.
"""

from __future__ import annotations

import logging

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.kernels.reference.postprocess import IMPLAUSIBLE_BOXES, IMPLAUSIBLE_SCORES

_LOGGER = logging.getLogger(__name__)

#: Boxes that all end within so many input pixels of the corner were parts of the input's size.
_CORNER = 2.0
#: From so many boxes on, of one frame.
_LEAST = 3
_SCORES, _BOXES, _SMALL = "scores above 1", "boxes far outside the image", "boxes in one corner"


class Plausibility:
    """Looks at the detections of one Detector.

    Attributes:
        found: what was said, "" while nothing was.
    """

    def __init__(self, device: Device, spec: ModelSpec) -> None:
        self.found = ""
        self._device, self._spec = device, spec

    def look(self, detections: Detections, letterbox: Letterbox, flags: int) -> None:
        """Look at one frame's detections.

        Args:
            detections: in source pixels.
            letterbox: the frame's geometry.
            flags: bits of kernels.reference.postprocess, of its candidates.
        """
        if self.found:
            return
        if flags & IMPLAUSIBLE_SCORES:
            self._say(_SCORES, "scores are logits, or the form is another one")
        elif flags & IMPLAUSIBLE_BOXES:
            self._say(_BOXES, "boxes are in other units, or the form is another one")
        elif len(detections) >= _LEAST:
            roi = letterbox.roi
            ends = detections.boxes[:, 2:] - np.array([roi.x, roi.y], np.float32)
            scale = np.array([letterbox.scale_x, letterbox.scale_y], np.float32)
            padding = np.array([letterbox.left, letterbox.top], np.float32)
            if not padding.any() and (ends * scale).max() <= _CORNER:
                self._say(_SMALL, "boxes are parts of the image's size, and taken for pixels")

    def _say(self, what: str, why: str) -> None:
        spec = self._spec
        self.found = (
            f"{what} from a network taken for {spec.model_type} (boxes: "
            f"{spec.box_format.value}): {why}; set model_type or box_format"
        )
        _LOGGER.warning("%s: %s", self._device, self.found)
