# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The size in which the picture is largest, at the cost of the model's own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolox_trt.core import ConfigurationError
from yolox_trt.core.input_size import (
    best_size,
    format_size,
    in_size,
    least_size,
    parse_input_size,
    parse_tool_size,
)

CELLS = st.integers(1, 12)
SIDES = st.integers(1, 4000)


@given(CELLS, CELLS, SIDES, SIDES, st.sampled_from([32, 64]))
@settings(max_examples=30, deadline=None)
def test_no_size_of_that_cost_shows_the_picture_larger(
    rows: int, columns: int, height: int, width: int, step: int
) -> None:
    own, picture = (rows * step, columns * step), (height, width)
    found = best_size(own, picture, step)
    assert not found[0] % step and not found[1] % step
    limit = 1.05 * own[0] * own[1]
    assert found[0] * found[1] <= limit
    most = int(limit) // step**2
    sizes = [(r * step, c * step) for r in range(1, most + 1) for c in range(1, most // r + 1)]
    assert in_size(found, picture) == max(in_size(size, picture) for size in sizes)
    equal = [s for s in sizes if in_size(s, picture) == in_size(found, picture)]
    assert found[0] * found[1] == min(h * w for h, w in equal)


@pytest.mark.parametrize(
    ("own", "picture", "expected"),
    [
        ((416, 416), (1080, 1920), (320, 544)),
        ((416, 416), (1920, 1080), (544, 320)),
        ((416, 416), (1280, 1920), (352, 512)),
        ((416, 416), (480, 640), (352, 480)),
        ((416, 416), (900, 900), (416, 416)),
        ((640, 640), (1080, 1920), (480, 864)),
        ((608, 960), (1280, 1920), (640, 928)),
        ((416, 416), (1, 5000), (32, 5664)),
        ((416, 416), (5000, 1), (5664, 32)),
        ((2**26, 2**26), (1080, 1920), (51574592, 91688160)),
    ],
)
def test_sizes_of_cameras(
    own: tuple[int, int], picture: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert best_size(own, picture) == expected


@given(CELLS, CELLS, SIDES, SIDES, st.sampled_from([32, 64]))
@settings(max_examples=30, deadline=None)
def test_no_smaller_size_shows_the_picture_as_large(
    rows: int, columns: int, height: int, width: int, step: int
) -> None:
    own, picture = (rows * step, columns * step), (height, width)
    found = least_size(own, picture, step)
    assert not found[0] % step and not found[1] % step
    assert in_size(found, picture) == in_size(own, picture)
    sizes = [(r * step, c * step) for r in range(1, rows + 1) for c in range(1, columns + 1)]
    equal = [size for size in sizes if in_size(size, picture) == in_size(own, picture)]
    assert found == min(equal, key=lambda size: size[0] * size[1])


@pytest.mark.parametrize(
    ("own", "picture", "expected"),
    [
        ((416, 416), (1280, 1920), (288, 416)),
        ((416, 416), (1920, 1080), (416, 256)),
        ((416, 416), (900, 900), (416, 416)),
        ((608, 960), (1080, 1920), (544, 960)),
        ((100, 100), (100, 100), (100, 100)),
    ],
)
def test_least_sizes_of_cameras(
    own: tuple[int, int], picture: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert least_size(own, picture) == expected


@pytest.mark.parametrize("text", ["auto", "model", " AUTO ", "320x544", "320X544"])
def test_what_the_option_takes(text: str) -> None:
    found = parse_input_size(text)
    assert (found if isinstance(found, str) else format_size(found)) == text.strip().lower()


@pytest.mark.parametrize("text", ["", "320", "0x32", "largest", "320x544x3"])
def test_what_it_refuses(text: str) -> None:
    with pytest.raises(ConfigurationError, match="HxW, such as 320x544, or auto, or model"):
        parse_input_size(text)


def test_a_size_for_the_images_of_a_camera() -> None:
    assert parse_tool_size("Auto:1080x1920") == "auto:1080x1920"
    assert parse_tool_size("608x960") == (608, 960)
    assert parse_tool_size("model") == "model"
    for wrong in ("auto:", "auto:wide", "auto:0x9", "largest"):
        with pytest.raises(ConfigurationError, match=r"expected"):
            parse_tool_size(wrong)
