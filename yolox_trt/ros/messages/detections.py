# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Detections -> vision_msgs/Detection2DArray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from yolox_trt.core.detections import Detections


class DetectionMessageBuilder:
    """Fills one Detection2DArray again and again, so that no message is built per frame.

    The message that `build` returns is valid until the next call; publishing serialises it.
    One thread at a time.

    Args:
        class_names: names of the classes in the order of the model's outputs; a class without a
            name is called by its number.
    """

    message_type = Detection2DArray

    def __init__(self, class_names: Sequence[str] = ()) -> None:
        self._class_names = tuple(class_names)
        self._message = Detection2DArray()
        self._pool: list[Detection2D] = []
        # The parts of each one that are filled: to get at them costs calls.
        self._parts: list[tuple[Detection2D, Any, Any, Any]] = []

    def build(self, header: Any, detections: Detections) -> Detection2DArray:
        """Return the message of one image.

        Args:
            header: std_msgs/Header of the image, used as it is.
            detections: boxes in source pixels.
        """
        count = len(detections)
        while len(self._pool) < count:
            result = ObjectHypothesisWithPose()
            detection = Detection2D(results=[result])
            box = detection.bbox
            self._pool.append(detection)
            self._parts.append((detection, box, box.center.position, result.hypothesis))
        x1, y1, x2, y2 = detections.boxes.astype(np.float64).T
        # tolist() once: a Python float an element is much cheaper than a numpy scalar each.
        rows = zip(
            ((x1 + x2) * 0.5).tolist(),
            ((y1 + y2) * 0.5).tolist(),
            (x2 - x1).tolist(),
            (y2 - y1).tolist(),
            detections.scores.tolist(),
            detections.class_ids.tolist(),
            strict=True,
        )
        names, known = self._class_names, len(self._class_names)
        for parts, (x, y, width, height, score, class_id) in zip(self._parts, rows, strict=False):
            detection, box, position, hypothesis = parts
            detection.header = header
            position.x, position.y = x, y
            box.size_x, box.size_y = width, height
            hypothesis.class_id = names[class_id] if class_id < known else str(class_id)
            hypothesis.score = score
        self._message.header = header
        self._message.detections = self._pool[:count]
        return self._message
