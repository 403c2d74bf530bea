# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Drawing: boxes where they are, in their class's colour, at every place and size."""

from __future__ import annotations

import numpy as np
import pytest

from yolox_trt.core import Detections
from yolox_trt.kernels.draw import class_color, draw_detections


def one_box(box: list[float], class_id: int = 3) -> Detections:
    return Detections(
        np.array([box], np.float32), np.array([0.5], np.float32), np.array([class_id], np.int32)
    )


def test_outline_is_on_the_box() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    assert draw_detections(image, one_box([100, 80, 200, 160])) is image
    color = class_color(3)
    assert tuple(image[80, 150]) == color or tuple(image[159, 150]) == color
    assert tuple(image[120, 100]) == color
    assert tuple(image[120, 199]) == color
    assert not image[120, 150].any()
    assert not image[170:].any()


@pytest.mark.parametrize("box", [[0, 0, 300, 200], [290, 0, 300, 5], [0, 199, 1, 200]])
def test_labels_stay_inside(box: list[float]) -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    draw_detections(image, one_box(box), ["a", "b", "c", "a long class name"])
    assert image.any()


def test_colors_differ() -> None:
    assert len({class_color(i) for i in range(100)}) == 100


def test_nothing_to_draw() -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    assert not draw_detections(image, Detections.empty()).any()
