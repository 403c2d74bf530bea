# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Silent nonsense is said once, on the first frame that shows it."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

from yolox_trt.core import Detections, Device, HeadLayout, Letterbox, ModelSpec
from yolox_trt.core.model_spec import BoxFormat
from yolox_trt.detectors.plausibility import Plausibility
from yolox_trt.kernels.reference.postprocess import IMPLAUSIBLE_BOXES, IMPLAUSIBLE_SCORES

SPEC = ModelSpec(
    *("images", 640, 640, 1, 2, HeadLayout.CLASS_SCORES, ("output",), ()),
    model_type="yolov8",
    box_format=BoxFormat.CXCYWH,
)


def found(*boxes: list[float]) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.full(count, 0.9, np.float32),
        np.zeros(count, np.int32),
    )


@pytest.mark.parametrize(
    ("detections", "flags", "told"),
    [
        (found([10, 10, 300, 200]), IMPLAUSIBLE_SCORES, "scores above 1.*logits"),
        (found([10, 10, 300, 200]), IMPLAUSIBLE_BOXES, "far outside.*other units"),
        (found([0, 0, 1, 1], [0, 0, 3, 3], [1, 0, 4, 2]), 0, "one corner.*parts of"),
        (found([0, 0, 1, 1], [0, 0, 3, 3]), 0, ""),
        (found([0, 0, 1, 1], [0, 0, 3, 3], [1, 0, 40, 20]), 0, ""),
        (found(), 0, ""),
    ],
)
def test_what_is_said(
    detections: Detections, flags: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    plausibility = Plausibility(Device("cpu"), SPEC)
    letterbox = Letterbox.fit(1280, 1280, 640, 640)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            plausibility.look(detections, letterbox, flags)
    assert len(caplog.records) == bool(told)
    assert bool(plausibility.found) == bool(told)
    if told:
        assert caplog.records[0].message.startswith("cpu: ")
        assert "yolov8 (boxes: cxcywh)" in plausibility.found
        assert "set model_type or box_format" in plausibility.found
        assert re.search(told, plausibility.found)
