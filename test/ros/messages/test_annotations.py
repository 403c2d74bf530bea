# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What Foxglove draws over an image."""

from __future__ import annotations

import numpy as np
import pytest

from yolox_trt.core.detections import Detections
from yolox_trt.core.frame import Frame
from yolox_trt.ros.messages.annotations import AnnotationMessageBuilder

pytest.importorskip("foxglove_msgs.msg", reason="not built: run `make venv PROFILE=test`")


def test_each_detection_is_a_rectangle_and_a_text() -> None:
    frame = Frame.from_array(np.zeros((600, 1200, 3), np.uint8), stamp_ns=7 * 10**9 + 8)
    detections = Detections(
        np.array([[10, 20, 110, 220], [0, 0, 5, 5]], np.float32),
        np.array([0.91, 0.5], np.float32),
        np.array([1, 9], np.int32),
        np.array([4, 0], np.int32),
    )
    message = AnnotationMessageBuilder(["person", "car"]).build(frame, detections)
    rectangle = message.points[0]
    assert rectangle.type == rectangle.LINE_LOOP
    assert [(p.x, p.y) for p in rectangle.points] == [(10, 20), (110, 20), (110, 220), (10, 220)]
    assert (rectangle.timestamp.sec, rectangle.timestamp.nanosec) == (7, 8)
    assert [text.text for text in message.texts] == ["car #4 0.91", "9 0.50"]
    assert (message.texts[0].position.x, message.texts[0].position.y) == (10, 20)
    assert message.texts[0].font_size == 20
    colors = {(t.background_color.r, t.background_color.g) for t in message.texts}
    assert len(colors) == 2
    assert not AnnotationMessageBuilder().build(frame, Detections.empty()).points
