# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The one geometry: aspect kept, inside the input, and back again."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolox_trt.core import ConfigurationError, Letterbox, Roi
from yolox_trt.core.letterbox import RESIZES

SIZES = st.integers(1, 5000)


@given(SIZES, SIZES, SIZES, SIZES)
def test_fills_one_side_and_stays_inside(h: int, w: int, height: int, width: int) -> None:
    box = Letterbox.fit(h, w, height, width)
    exact = min(Fraction(height, h), Fraction(width, w))
    assert box.resized_height == max(1, int(h * exact))
    assert box.resized_width == max(1, int(w * exact))
    assert box.scale_x == pytest.approx(float(exact))
    assert box.resized_height <= height and box.resized_width <= width
    assert box.resized_height == height or box.resized_width == width


@given(SIZES, SIZES)
def test_equal_sizes_are_the_identity(height: int, width: int) -> None:
    box = Letterbox.fit(height, width, height, width)
    assert (box.scale_x, box.resized_height, box.resized_width) == (1.0, height, width)


def test_no_pixel_is_lost_to_floating_point() -> None:
    """int(size * (input / size)) is input - 1 where the float quotient is rounded down."""
    lost = [n for n in range(1, 3000) if int(n * (640 / n)) < 640]
    assert lost
    for size in lost:
        assert Letterbox.fit(size, size, 640, 640).resized_width == 640


@given(
    st.integers(8, 2000),
    st.integers(8, 2000),
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=5),
    st.booleans(),
)
def test_boxes_of_the_input_go_back_to_the_source(
    h: int, w: int, parts: list[tuple[float, ...]], cropped: bool
) -> None:
    roi = Roi(w // 4, h // 4, w // 2, h // 2) if cropped else None
    box = Letterbox.fit(h, w, 416, 416, roi)
    area = box.roi
    boxes = np.array(
        [[area.x + a * area.width, area.y + b * area.height] * 2 for a, b, _, _ in parts],
        np.float32,
    ).reshape(-1, 4)
    boxes[:, 2:] += np.float32(1)
    boxes[:, 2] = boxes[:, 2].clip(max=area.x + area.width)
    boxes[:, 3] = boxes[:, 3].clip(max=area.y + area.height)
    there = (boxes - np.float32([area.x, area.y] * 2)) * np.float32(box.scale_x)
    np.testing.assert_allclose(box.to_source(there), boxes, atol=0.01)


def test_boxes_are_clipped_to_the_roi() -> None:
    box = Letterbox.fit(100, 200, 64, 64, Roi(20, 10, 100, 50))
    found = box.to_source(np.array([[-5, -5, 1000, 1000]], np.float32))
    np.testing.assert_allclose(found, [[20, 10, 120, 60]])


def test_roi() -> None:
    Roi(0, 0, 10, 10).check_inside(10, 10)
    with pytest.raises(ConfigurationError, match=r"\[5, 0, 6, 10\]"):
        Roi(5, 0, 6, 10).check_inside(10, 10)
    for values in [(-1, 0, 1, 1), (0, 0, 0, 1), (0, 0, 1, -1)]:
        with pytest.raises(ConfigurationError, match="roi"):
            Roi(*values)


@given(SIZES, SIZES, SIZES, SIZES)
def test_centred_has_the_same_image_in_the_middle(h: int, w: int, height: int, width: int) -> None:
    corner, box = (Letterbox.fit(h, w, height, width, resize=r) for r in ("letterbox", "centre"))
    assert (box.resized_height, box.resized_width) == (corner.resized_height, corner.resized_width)
    above, below = box.top, height - box.top - box.resized_height
    beside, behind = box.left, width - box.left - box.resized_width
    assert 0 <= below - above <= 1 and 0 <= behind - beside <= 1


@given(SIZES, SIZES, SIZES, SIZES)
def test_stretched_fills_the_input(h: int, w: int, height: int, width: int) -> None:
    box = Letterbox.fit(h, w, height, width, resize="stretch")
    assert box.image_area == (slice(0, height), slice(0, width))
    found = box.to_source(np.array([[0, 0, width, height]], np.float32))
    np.testing.assert_allclose(found, [[0, 0, w, h]], rtol=1e-6)


@pytest.mark.parametrize("resize", RESIZES)
def test_the_image_goes_back_whence_it_came(resize: str) -> None:
    box = Letterbox.fit(300, 500, 416, 640, Roi(100, 50, 320, 160), resize)
    rows, columns = box.image_area
    edges = np.array([[columns.start, rows.start, columns.stop, rows.stop]], np.float32)
    np.testing.assert_allclose(box.to_source(edges), [[100, 50, 420, 210]], atol=1)
