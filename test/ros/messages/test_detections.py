# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The serialised Detection2DArray is the one that rclpy makes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from yolox_trt.core.detections import Detections
from yolox_trt.core.frame import Frame
from yolox_trt.ros.messages.detections import DetectionMessageBuilder

NAMES = ("", "a", "car", "traffic light", "grün", "7 chars", "8 charac")


def message_of(frame: Frame, found: Detections) -> Detection2DArray:
    """Build the message field by field."""
    header = Header(frame_id=frame.frame_id)
    header.stamp.sec, header.stamp.nanosec = divmod(frame.stamp_ns, 10**9)
    message = Detection2DArray(header=header)
    for index, class_id in enumerate(found.class_ids.tolist()):
        detection, result = Detection2D(header=header), ObjectHypothesisWithPose()
        result.hypothesis.class_id = NAMES[class_id] if class_id < len(NAMES) else str(class_id)
        result.hypothesis.score = float(found.scores[index])
        detection.results = [result]
        x1, y1, x2, y2 = found.boxes[index].astype(np.float64).tolist()
        detection.bbox.center.position.x = (x1 + x2) * 0.5
        detection.bbox.center.position.y = (y1 + y2) * 0.5
        detection.bbox.size_x, detection.bbox.size_y = x2 - x1, y2 - y1
        if found.track_ids is not None and found.track_ids[index]:
            detection.id = str(found.track_ids[index])
        message.detections.append(detection)
    return message


@pytest.mark.parametrize("tracks", [None, (0, 7, 123, 4567, 0, 12345678)], ids=["", "tracked"])
@pytest.mark.parametrize("count", [0, 1, 6])
def test_it_is_that_of_rclpy(count: int, tracks: tuple[int, ...] | None) -> None:
    """Whatever lies at which multiple of 4 or 8: names, ids and frame_ids of many lengths."""
    builder, rng = DetectionMessageBuilder(NAMES), np.random.default_rng(count)
    picture = np.zeros((2, 2, 3), np.uint8)
    for number, frame_id in enumerate(("", "lens", "front", "süd", "front_optical", "front")):
        found = Detections(
            boxes=rng.uniform(0, 2000, (count, 4)).astype(np.float32),
            scores=rng.uniform(0, 1, count).astype(np.float32),
            class_ids=rng.integers(0, 10, count).astype(np.int32),
            track_ids=None if tracks is None else np.array(tracks[:count], np.int64),
        )
        stamp = (number - 1) * 1_234_567_890_123
        frame = Frame.from_array(picture, stamp_ns=stamp, frame_id=frame_id)
        built, expected = builder.build(frame, found), message_of(frame, found)
        # Byte by byte it cannot be compared: rclpy fills gaps with what was there before.
        assert deserialize_message(built, Detection2DArray) == expected
        assert 0 <= len(built) - len(serialize_message(expected)) < 4
