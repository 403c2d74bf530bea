# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Detections -> tier4_perception_msgs/DetectedObjectsWithFeature, the message Autoware reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.frame import Frame
from yolox_trt.core.labels import load_remap
from yolox_trt.core.option import options_of
from yolox_trt.core.optional import require
from yolox_trt.ros.messages.images import write_header
from yolox_trt.ros.nodes.parameters import CameraParameters

#: Labels of autoware_perception_msgs/ObjectClassification that the tracker takes (Autoware 2024.11
#: and later); what can be driven over or under, 10 and 11, is not for detections in images.
_LABELS = (
    *("UNKNOWN", "CAR", "TRUCK", "BUS", "TRAILER", "MOTORCYCLE", "BICYCLE", "PEDESTRIAN"),
    *("ANIMAL", "HAZARD"),
)
AUTOWARE_LABELS: dict[str, int] = {label: number for number, label in enumerate(_LABELS)}
#: What `class_remap` says of a class that is not published, as in Autoware's files.
DROPPED = "-1"

#: Class name (COCO, and TIER IV's models) -> label, where neither a file nor `class_remap` says.
DEFAULT_REMAP: dict[str, str] = {
    **{
        name: name.upper()
        for name in ("car", "bus", "truck", "trailer", "animal", "bicycle", "hazard")
    },
    **dict.fromkeys(("person", "pedestrian", "rider"), "PEDESTRIAN"),
    **dict.fromkeys(("motorcycle", "motorbike"), "MOTORCYCLE"),
    "cyclist": "BICYCLE",
    "debris": "HAZARD",
    **dict.fromkeys(
        ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
        "ANIMAL",
    ),
}
#: Classes of Autoware's model of traffic lights, whose readers expect these numbers.
_TRAFFIC_LIGHTS = {"BACKGROUND": 0, "traffic_light": 1, "pedestrian_traffic_light": 2}


def label_table(
    class_names: Sequence[str], remap: Mapping[str, str], path: str = ""
) -> tuple[int, ...]:
    """Return the Autoware label of each class of a model, -1 for one that is not published.

    Args:
        class_names: the model's names.
        remap: class name -> label's name, or -1; goes before the file.
        path: CSV file `name,id`, which goes before DEFAULT_REMAP; "" for none.

    Raises:
        ConfigurationError: a class that the model does not have, an unknown label, or a file that
            is wrong or misses a class.
    """
    declared = options_of(CameraParameters)
    for name, label in remap.items():
        if name not in class_names:
            what = (declared["class_remap"], " for class")
            fix = ("set ", declared["class_remap"])
            raise ConfigurationError.unknown(what, name, class_names, fix=fix)
        if label.upper() not in (*AUTOWARE_LABELS, DROPPED):
            raise ConfigurationError(
                (declared["class_remap"], f" of class '{name}' = '{label}'"),
                expected=f"one of {', '.join(AUTOWARE_LABELS)}, or {DROPPED} to leave it out",
                fix=("set ", declared["class_remap"]),
            )
    chosen = {name: AUTOWARE_LABELS.get(label.upper(), -1) for name, label in remap.items()}
    if path:
        rest = [name for name in class_names if name not in chosen]
        most = len(AUTOWARE_LABELS) - 1
        ids = load_remap(path, rest, most=most, what="a label of Autoware")
        chosen |= dict(zip(rest, ids, strict=True))
    elif _TRAFFIC_LIGHTS.keys() >= set(class_names):
        chosen = _TRAFFIC_LIGHTS | chosen
    return tuple(
        chosen.get(name, AUTOWARE_LABELS[DEFAULT_REMAP.get(name.lower(), "UNKNOWN")])
        for name in class_names
    )


class ObjectMessageBuilder:
    """Builds DetectedObjectsWithFeature messages, as Autoware's fusion nodes read them.

    Args:
        labels: Autoware label of each class id, -1 for one that is left out; classes beyond it
            are UNKNOWN.

    Raises:
        MissingDependencyError: Autoware's message packages are not installed.
    """

    def __init__(self, labels: Sequence[int]) -> None:
        messages = require("tier4_perception_msgs.msg", purpose="~/objects")
        perception = require("autoware_perception_msgs.msg", purpose="~/objects")
        self.message_type = messages.DetectedObjectsWithFeature
        self._object_type = messages.DetectedObjectWithFeature
        self._classification_type = perception.ObjectClassification
        self._labels = np.asarray(labels, np.int64)
        self._message = self.message_type()
        self._pool: list[Any] = []
        # The parts of each one that are filled: to get at them costs calls.
        self._parts: list[tuple[Any, Any, Any]] = []

    def build(self, frame: Frame, detections: Detections) -> Any:
        """Return the message of one image, valid until the next call.

        The region of interest holds whole pixels of the image: it is the smallest one around the
        box, and has one pixel at least. The score is the object's existence probability; that of
        its class is 1.
        """
        ids = detections.class_ids
        labels = np.zeros(len(ids), np.int64)
        known = ids < len(self._labels)
        labels[known] = self._labels[ids[known]]
        kept = labels >= 0
        size = np.array(frame.source_size[::-1])
        low = np.clip(np.floor(detections.boxes[kept, :2]), 0, size - 1).astype(np.int64)
        high = np.clip(np.ceil(detections.boxes[kept, 2:]), low + 1, size).astype(np.int64)
        rows = list(
            zip(
                low.tolist(),
                (high - low).tolist(),
                detections.scores[kept].tolist(),
                labels[kept].tolist(),
                strict=True,
            )
        )
        while len(self._pool) < len(rows):
            item, classification = self._object_type(), self._classification_type(probability=1.0)
            item.object.classification = [classification]
            self._pool.append(item)
            self._parts.append((item.feature.roi, item.object, classification))
        for parts, ((x, y), (width, height), score, label) in zip(self._parts, rows, strict=False):
            roi, perceived, classification = parts
            roi.x_offset, roi.y_offset = x, y
            roi.width, roi.height = width, height
            perceived.existence_probability = score
            classification.label = label
        write_header(self._message.header, frame)
        self._message.feature_objects = self._pool[: len(rows)]
        return self._message
