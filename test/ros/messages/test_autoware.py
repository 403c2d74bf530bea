# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Objects for Autoware, field by field, and their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fusion import FusionStandIn, fields_of

from yolox_trt.core import ConfigurationError
from yolox_trt.core.detections import Detections
from yolox_trt.core.frame import Frame
from yolox_trt.ros.messages.autoware import AUTOWARE_LABELS, ObjectMessageBuilder, label_table
from yolox_trt.ros.messages.images import stamp_to_ns

#: Two lines of it are an error each in test_wrong_lines_are_named.
REMAP = """from, to # The label remapped to -1 will not be published.
UNKNOWN, 9

CAR, 1 # a comment
MOTORBIKE,5
DEBRIS , -1
ANIMAL, 8
"""
CLASSES = ("UNKNOWN", "CAR", "MOTORBIKE", "DEBRIS")


def names(table: tuple[int, ...]) -> list[str]:
    labels = {number: name for name, number in AUTOWARE_LABELS.items()}
    return [labels.get(number, str(number)) for number in table]


def test_labels_by_the_built_in_table() -> None:
    classes = ("person", "car", "zebra", "pizza", "Truck", "HAZARD", "DEBRIS", "motorbike")
    table = label_table(classes, {"pizza": "hazard", "Truck": "-1"})
    assert names(table) == (
        ["PEDESTRIAN", "CAR", "ANIMAL", "HAZARD", "-1", "HAZARD", "HAZARD", "MOTORCYCLE"]
    )
    assert label_table((), {}) == ()


def test_traffic_lights_have_numbers_of_their_own() -> None:
    assert label_table(("BACKGROUND", "traffic_light", "pedestrian_traffic_light"), {}) == (0, 1, 2)
    # A class of COCO is no class of that model.
    assert label_table(("traffic light", "car"), {}) == (0, 1)


def test_labels_are_those_of_the_message_and_of_the_trackers_table() -> None:
    messages = pytest.importorskip("autoware_perception_msgs.msg")
    for name, label in AUTOWARE_LABELS.items():
        assert getattr(messages.ObjectClassification, name) == label
    assert sorted(AUTOWARE_LABELS.values()) == list(range(10))


def test_labels_by_a_file(tmp_path: Path) -> None:
    path = tmp_path / "remap.csv"
    path.write_text(REMAP)
    assert label_table(CLASSES, {}, str(path)) == (9, 1, 5, -1)
    # What a parameter says goes before.
    assert label_table((*CLASSES, "tram"), {"tram": "BUS", "CAR": "TRUCK"}, str(path)) == (
        (9, 2, 5, -1, 3)
    )


@pytest.mark.parametrize(
    ("line", "text", "found"),
    [
        (4, "CAR", "line 4"),
        (4, "CAR,1,2", "line 4"),
        (4, "CAR, one", "line 4"),
        (4, "CAR, 10", "line 4"),
        (4, "CAR, -2", "line 4"),
        (4, "CAR, 99999999999999999999", "line 4"),
        (4, ", 1", "line 4"),
        (4, "\x07, 1", "line 4"),
        (5, "CAR, 5", "line 5"),
        (4, "", "no line for the model's class 'CAR'"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: int, text: str, found: str) -> None:
    path = tmp_path / "remap.csv"
    lines = REMAP.splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigurationError) as error:
        label_table(CLASSES, {}, str(path))
    assert found in error.value.found
    assert str(path) in error.value.found
    if found.startswith("line"):
        assert "name,id: a class name, and a label of Autoware from 0 to 9, or -1" in str(
            error.value
        )
        # Errors are logged, and logs are sent: no content of a file is.
        assert not text or text not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "model.onnx"
    binary.write_bytes(b"\xff\x00")
    for path in (binary, tmp_path, tmp_path / "missing.csv", "/dev/zero"):
        with pytest.raises(ConfigurationError, match=f"{path}.*cannot be read"):
            label_table(("car",), {}, str(path))


@pytest.mark.parametrize(
    ("remap", "text"),
    [
        ({"zebra": "CAR"}, "`class_remap` for class 'zebra'; expected one of person"),
        ({"person": "ZEBRA"}, "'ZEBRA'; expected one of UNKNOWN, CAR"),
        ({"person": "OVER_DRIVABLE"}, "'OVER_DRIVABLE'; expected one of UNKNOWN, CAR"),
    ],
)
def test_classes_and_labels_that_do_not_exist_are_refused(remap: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        label_table(("person",), remap)
    assert text in str(error.value)


def found(boxes: list[list[float]], class_ids: list[int]) -> Detections:
    scores = np.linspace(0.9, 0.3, len(boxes), dtype=np.float32)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), scores, np.array(class_ids, np.int32)
    )


@pytest.fixture
def frame() -> Frame:
    metadata: dict[str, Any] = {
        "frame_id": "camera0/camera_optical_link",
        "stamp_ns": 7_000_000_001,
    }
    return Frame.from_array(np.zeros((48, 64, 3), np.uint8), **metadata)


def stamp_and_frame_id(message: Any) -> tuple[int, str]:
    return stamp_to_ns(message.header.stamp), message.header.frame_id


def test_every_field_of_an_object(frame: Frame) -> None:
    messages = pytest.importorskip("tier4_perception_msgs.msg")
    builder = ObjectMessageBuilder([1, 9, -1])
    detections = found(
        [[10.2, 5.5, 20.0, 30.9], [3, 3, 9, 9], [1, 1, 2, 2], [30, 30, 40, 40]], [0, 2, 1, 3]
    )
    message = builder.build(frame, detections)
    assert stamp_and_frame_id(message) == (frame.stamp_ns, frame.frame_id)
    # The class with -1 is left out, one beyond the table is UNKNOWN.
    first, second, third = message.feature_objects
    roi = first.feature.roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (10, 5, 10, 26)
    assert not roi.do_rectify
    (classified,) = first.object.classification
    assert (classified.label, classified.probability) == (1, 1.0)
    assert first.object.existence_probability == pytest.approx(0.9)
    assert [each.object.classification[0].label for each in (second, third)] == [9, 0]
    assert second.object.existence_probability == pytest.approx(0.5)
    # All else is as the message's own defaults have it.
    plain = messages.DetectedObjectWithFeature()
    for name in ("kinematics", "shape"):
        assert fields_of(first.object)[name] == fields_of(plain.object)[name]
    assert first.feature.cluster == plain.feature.cluster
    empty = builder.build(frame, found([], []))
    assert list(empty.feature_objects) == []
    assert stamp_and_frame_id(empty) == (frame.stamp_ns, frame.frame_id)


def test_fusion_takes_every_message(frame: Frame) -> None:
    """Boxes anywhere: within the image, across its edges, outside, and without an extent."""
    pytest.importorskip("tier4_perception_msgs.msg")
    rng = np.random.default_rng(0)
    builder = ObjectMessageBuilder(list(range(10)))
    stand_in = FusionStandIn((64, 48), [frame.frame_id], [7 * 10**9])
    corners = rng.uniform(-60, 120, (300, 2))
    extents = rng.choice([0.0, 0.3, 5.0, 200.0], (300, 2))
    boxes: Any = np.concatenate((corners, corners + extents), axis=1)
    for start in range(0, 300, 30):
        part = boxes[start : start + 30].tolist()
        message = builder.build(frame, found(part, list(range(30))))
        assert stand_in.refuse(message) == ""
        assert len(message.feature_objects) == 30
    # It is no stand-in if it takes anything.
    item = message.feature_objects[0]
    item.feature.roi.width = 65
    assert "outside" in stand_in.refuse(message)
    item.feature.roi.width = 1
    item.object.classification[0].label = 10
    assert "label 10" in stand_in.refuse(message)
    message.header.stamp.nanosec = 10_000_001
    assert "no scan" in stand_in.refuse(message)
