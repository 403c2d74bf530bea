# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Memory layouts of TensorRT's inputs and outputs on the DLA (nvinfer1::TensorFormat)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def chw_to_hwc4(planes: Array, *, row_alignment: int = 1) -> Array:
    """Interleave 3 channels with a fourth one of zeros: kDLA_HWC4.

    Args:
        planes: (N, 3, H, W), int8 or float16.
        row_alignment: bytes to which a row is rounded up; the DLA of Xavier wants 32, of Orin 64.

    Returns:
        (N, H, W', 4) with W' = W rounded up so that W' * 4 * itemsize is a multiple of
        `row_alignment`; the added columns are 0.
    """
    batch, channels, height, width = planes.shape
    if channels > 4:
        raise ValueError(f"{channels} channels; expected at most 4")
    pixel = 4 * planes.itemsize
    padded = -(-width * pixel // row_alignment) * row_alignment // pixel
    out = np.zeros((batch, height, padded, 4), planes.dtype)
    out[:, :, :width, :channels] = planes.transpose(0, 2, 3, 1)
    return out


def pack(planes: Array, vector: int) -> Array:
    """Pack the channels into vectors of 16 (kCHW16) or 32 (kCHW32); the rest is 0.

    Args:
        planes: (N, C, H, W).
        vector: channels of a vector.

    Returns:
        (N, ceil(C / vector), H, W, vector).
    """
    batch, channels, height, width = planes.shape
    groups = -(-channels // vector)
    out = np.zeros((batch, groups * vector, height, width), planes.dtype)
    out[:, :channels] = planes
    grouped = out.reshape(batch, groups, vector, height, width)
    return np.ascontiguousarray(grouped.transpose(0, 1, 3, 4, 2))
