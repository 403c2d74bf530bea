# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Drawing: boxes where they are, in their class's colour, at every place and size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from yolox_trt.core import ConfigurationError, Detections
from yolox_trt.core.mask import NO_CLASS
from yolox_trt.core.option import from_plain
from yolox_trt.core.zones import Zones
from yolox_trt.kernels.draw import class_color, draw_detections, draw_mask, draw_zones


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


def test_track_ids_stand_in_the_label() -> None:
    plain, tracked = np.zeros((2, 200, 300, 3), np.uint8)
    box = one_box([100, 80, 200, 160])
    draw_detections(plain, box)
    draw_detections(tracked, replace(box, track_ids=np.array([12], np.int32)))
    assert not np.array_equal(plain[:80], tracked[:80])  # the label
    assert np.array_equal(plain[81:], tracked[81:])
    untracked = np.zeros_like(plain)
    draw_detections(untracked, replace(box, track_ids=np.array([0], np.int32)))
    assert np.array_equal(plain, untracked)


def test_zones_are_outlined() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    zones = {"include_zones": ["20,20 60,20 60,60 20,60"], "exclude_zones": ["70,-9e9 90,0 80,1e9"]}
    assert draw_zones(image, from_plain(Zones, {"include_zones": zones["include_zones"]})) is image
    blue, green, red = image[40, 20].tolist()
    assert green > max(red, blue)
    assert not image[40, 40].any()
    with pytest.raises(ConfigurationError):
        from_plain(Zones, zones)
    far = from_plain(Zones, {"exclude_zones": ["70,-90000 90,0 80,900000000"]})
    draw_zones(image, far)
    assert image[..., 2].max() > 200


def test_colors_differ() -> None:
    assert len({class_color(i) for i in range(100)}) == 100


def test_a_mask_is_blended_in_but_where_nothing_is_known() -> None:
    image = np.full((2, 3, 3), 100, np.uint8)
    classes = np.array([[0, 7, NO_CLASS], [0, 0, NO_CLASS]], np.uint8)
    assert draw_mask(image, classes, 0.5) is image
    assert image[0, 2].tolist() == image[1, 2].tolist() == [100, 100, 100]
    expected = (100 + np.array(class_color(7))) / 2
    assert np.abs(image[0, 1] - expected).max() <= 1


def test_nothing_to_draw() -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    assert not draw_detections(image, Detections.empty()).any()
