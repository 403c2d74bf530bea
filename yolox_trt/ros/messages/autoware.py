# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Detections -> tier4_perception_msgs/DetectedObjectsWithFeature, the message Autoware reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.optional import require

#: Labels of autoware_perception_msgs/ObjectClassification (Autoware 2024.11 and later).
_LABELS = (
    *("UNKNOWN", "CAR", "TRUCK", "BUS", "TRAILER", "MOTORCYCLE", "BICYCLE", "PEDESTRIAN"),
    *("ANIMAL", "HAZARD", "OVER_DRIVABLE", "UNDER_DRIVABLE"),
)
AUTOWARE_LABELS: dict[str, int] = {label: number for number, label in enumerate(_LABELS)}

#: Class name (COCO, and TIER IV's models) -> label, before the parameter `class_remap`.
DEFAULT_REMAP: dict[str, str] = {
    **{name: name.upper() for name in ("car", "bus", "truck", "trailer", "animal", "bicycle")},
    **dict.fromkeys(("person", "pedestrian", "rider"), "PEDESTRIAN"),
    **dict.fromkeys(("motorcycle", "motorbike"), "MOTORCYCLE"),
    "cyclist": "BICYCLE",
    **dict.fromkeys(
        ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
        "ANIMAL",
    ),
}


def label_table(class_names: Sequence[str], remap: Mapping[str, str]) -> tuple[int, ...]:
    """Return the Autoware label of each class of a model.

    Args:
        class_names: the model's names.
        remap: class name -> label's name; goes before DEFAULT_REMAP.

    Raises:
        ConfigurationError: a class that the model does not have, or an unknown label.
    """
    for name, label in remap.items():
        if label.upper() not in AUTOWARE_LABELS or name not in class_names:
            raise ConfigurationError(
                f"class_remap entry '{name}:{label}'",
                expected=f"a class of the model and a label of {', '.join(AUTOWARE_LABELS)}",
                fix="set the parameter `class_remap`",
            )
    return tuple(
        AUTOWARE_LABELS[remap.get(name, DEFAULT_REMAP.get(name.lower(), "UNKNOWN")).upper()]
        for name in class_names
    )


class ObjectMessageBuilder:
    """Builds DetectedObjectsWithFeature messages.

    Args:
        labels: Autoware label of each class id; classes beyond it are UNKNOWN.

    Raises:
        MissingDependencyError: Autoware's message packages are not installed.
    """

    def __init__(self, labels: Sequence[int]) -> None:
        messages = require("tier4_perception_msgs.msg", purpose="~/objects")
        perception = require("autoware_perception_msgs.msg", purpose="~/objects")
        self.message_type = messages.DetectedObjectsWithFeature
        self._object_type = messages.DetectedObjectWithFeature
        self._classification_type = perception.ObjectClassification
        self._labels = tuple(labels)
        self._message = self.message_type()
        self._pool: list[Any] = []
        # The parts of each one that are filled: to get at them costs calls.
        self._parts: list[tuple[Any, Any, Any]] = []

    def build(self, header: Any, detections: Detections) -> Any:
        """Return the message of one image, valid until the next call.

        The region of interest holds whole pixels: it is the smallest one around the box.
        """
        count = len(detections)
        while len(self._pool) < count:
            item, classification = self._object_type(), self._classification_type()
            item.object.classification = [classification]
            self._pool.append(item)
            self._parts.append((item.feature.roi, item.object, classification))
        corners = np.concatenate(
            (np.floor(detections.boxes[:, :2]), np.ceil(detections.boxes[:, 2:])), axis=1
        )
        rows = zip(
            np.maximum(corners, 0).astype(np.int64).tolist(),
            detections.scores.tolist(),
            detections.class_ids.tolist(),
            strict=True,
        )
        labels, known = self._labels, len(self._labels)
        for parts, ((x1, y1, x2, y2), score, class_id) in zip(self._parts, rows, strict=False):
            roi, perceived, classification = parts
            roi.x_offset, roi.y_offset = x1, y1
            roi.width, roi.height = x2 - x1, y2 - y1
            perceived.existence_probability = score
            classification.label = labels[class_id] if class_id < known else 0
            classification.probability = score
        self._message.header = header
        self._message.feature_objects = self._pool[:count]
        return self._message
