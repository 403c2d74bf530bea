# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DLA layouts against the index rules of nvinfer1::TensorFormat."""

from __future__ import annotations

import numpy as np
import pytest
from support.layouts import chw_to_hwc4, pack


@pytest.mark.parametrize("vector", [16, 32])
@pytest.mark.parametrize("channels", [1, 16, 80, 85])
def test_vector_layouts(vector: int, channels: int) -> None:
    planes = np.random.default_rng(0).integers(1, 99, (2, channels, 3, 5)).astype(np.int8)
    packed = pack(planes, vector)
    assert packed.shape == (2, -(-channels // vector), 3, 5, vector)
    flat = packed.transpose(0, 1, 4, 2, 3).reshape(2, -1, 3, 5)  # channel c // vector, c % vector
    np.testing.assert_array_equal(flat[:, :channels], planes)
    assert not flat[:, channels:].any()


@pytest.mark.parametrize(
    ("dtype", "alignment", "columns"),
    [("int8", 1, 13), ("int8", 32, 16), ("int8", 64, 16), ("float16", 32, 16), ("float16", 1, 13)],
)
def test_hwc4(dtype: str, alignment: int, columns: int) -> None:
    planes = np.arange(2 * 3 * 4 * 13).reshape(2, 3, 4, 13).astype(dtype)
    packed = chw_to_hwc4(planes, row_alignment=alignment)
    assert packed.shape == (2, 4, columns, 4)
    np.testing.assert_array_equal(packed[:, :, :13, :3].transpose(0, 3, 1, 2), planes)
    assert not packed[..., 3].any()
    assert not packed[:, :, 13:].any()
