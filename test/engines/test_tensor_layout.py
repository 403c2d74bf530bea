# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""I/O formats of engines: buffer shapes and views."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolox_trt.core.errors import EngineError
from yolox_trt.engines.tensor_layout import TensorLayout


@pytest.mark.parametrize(
    ("format_", "dtype", "shape", "buffer", "view"),
    [
        ("linear", "float32", (2, 3, 8, 13), (2, 3, 8, 13), (2, 3, 8, 13)),
        ("linear", "float32", (2, 100, 4), (2, 100, 4), (2, 100, 4)),
        # 13 half columns are 26 bytes: a row of 64 bytes is 32 columns.
        ("dla_linear", "float16", (1, 4, 8, 13), (1, 4, 8, 32), (1, 4, 8, 13)),
        ("dla_linear", "int8", (1, 3, 8, 65), (1, 3, 8, 128), (1, 3, 8, 65)),
        ("dla_linear", "float16", (1, 3, 608, 960), (1, 3, 608, 960), (1, 3, 608, 960)),
        ("dla_hwc4", "int8", (1, 3, 8, 13), (1, 8, 16, 4), (1, 8, 13, 4)),
        ("chw16", "float16", (1, 20, 8, 13), (1, 2, 8, 13, 16), (1, 2, 8, 13, 16)),
        ("chw32", "int8", (1, 85, 8, 13), (1, 3, 8, 13, 32), (1, 3, 8, 13, 32)),
    ],
)
def test_shapes(
    format_: str, dtype: str, shape: tuple[int, ...], buffer: object, view: object
) -> None:
    layout = TensorLayout(shape, dtype, format_)
    assert layout.buffer_shape == buffer
    assert layout.view(np.zeros(layout.buffer_shape, dtype)).shape == view


@given(
    width=st.integers(1, 400),
    dtype=st.sampled_from(["int8", "float16"]),
    format_=st.sampled_from(["dla_linear", "dla_hwc4"]),
)
def test_dla_rows_start_at_64_bytes(width: int, dtype: str, format_: str) -> None:
    layout = TensorLayout((1, 3, 2, width), dtype, format_)
    array = np.zeros(layout.buffer_shape, dtype)
    row = array[0, 0, 1] if format_ == "dla_linear" else array[0, 1]
    offset = row.__array_interface__["data"][0] - array.__array_interface__["data"][0]
    assert offset % 64 == 0
    assert offset < width * array.itemsize * (4 if format_ == "dla_hwc4" else 1) + 64
    view = layout.view(array)
    view[...] = 1
    assert array.sum() == view.size


@pytest.mark.parametrize(("format_", "shape"), [("hwc8", (1, 3, 4, 4)), ("chw32", (1, 3, 4))])
def test_others_are_refused(format_: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match="build with"):
        TensorLayout(shape, "int8", format_)
