# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The definition of preprocessing. Slow and plain: every faster one is tested against it.

The steps, in this order:

1. Colour: every source pixel becomes 8-bit blue, green, red. mono8 repeats its value; alpha is
   dropped; uyvy, yuy2 and nv12 take the chroma sample of their 2 x 1 or 2 x 2 block unfiltered and
   convert by `color.yuv_to_bgr`; bayer_* by `color.demosaic`, over the whole image.
2. Resize: half-pixel-centre bilinear over the Letterbox's Roi. Pixel u of `resized` samples
   s = (u + 0.5) * size / resized - 0.5, between floor(s) and floor(s) + 1 with weight s - floor(s),
   both clamped to 0 .. size - 1 (rows likewise); each axis has its own ratio. At equal sizes that
   is the identity.
3. Round to the nearest integer, halves up: floor(value + 0.5), so that a uint8 and a float input
   see the same image.
4. Padding: `preprocessing.pad` right and below.
5. Channel order, scale, mean, std: value * multiplier[c] + offset[c] in float32
   (`Preprocessing.factors`), then the input's type. uint8 takes step 4's integers, int8 the
   float32 value divided by `input_scale`, rounded half to even and saturated to -128..127.

A faster implementation may differ by one in step 3 (fixed-point weights), hence 1 LSB.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.core.errors import ModelError
from yolox_trt.core.frame import Frame
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.model_spec import Preprocessing
from yolox_trt.kernels.reference.color import demosaic, yuv_to_bgr


def to_bgr(frame: Frame) -> npt.NDArray[np.uint8]:
    """Convert a whole Frame (its Roi does not matter) to blue, green, red.

    Returns:
        uint8 (H, W, 3).
    """
    rows = frame.rows
    name = frame.encoding
    if name == "bgr8":
        return np.array(rows)
    if name == "rgb8":
        return np.array(rows[..., ::-1])
    if name == "bgra8":
        return np.array(rows[..., :3])
    if name == "rgba8":
        return np.array(rows[..., 2::-1])
    if name == "mono8":
        return np.repeat(rows[..., None], 3, axis=2)
    if name == "uyvy":
        return yuv_to_bgr(rows[..., 1], _twice(rows[:, 0::2, 0]), _twice(rows[:, 1::2, 0]))
    if name == "yuy2":
        return yuv_to_bgr(rows[..., 0], _twice(rows[:, 0::2, 1]), _twice(rows[:, 1::2, 1]))
    if name == "nv12":
        chroma = np.repeat(rows[frame.height :], 2, axis=0)
        return yuv_to_bgr(rows[: frame.height], _twice(chroma[:, 0::2]), _twice(chroma[:, 1::2]))
    if name.startswith("bayer_"):
        return demosaic(np.ascontiguousarray(rows), name)
    raise NotImplementedError(f"{name} is in {sorted(ENCODINGS)} but has no conversion")


def resize(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.float64]:
    """Resize an image bilinearly with half-pixel centres (step 2), without rounding.

    Args:
        image: uint8 (H, W, C).
        height: rows of the result.
        width: columns of the result.

    Returns:
        float64 (height, width, C), 0..255.
    """
    top, bottom, row_weight = _taps(image.shape[0], height)
    left, right, column_weight = _taps(image.shape[1], width)
    rows = np.arange(height)[:, None]
    fy = row_weight[rows][..., None]
    fx = column_weight[None, :, None]
    upper = image[top][:, left] * (1.0 - fx) + image[top][:, right] * fx
    lower = image[bottom][:, left] * (1.0 - fx) + image[bottom][:, right] * fx
    return np.asarray(upper * (1.0 - fy) + lower * fy, np.float64)


def preprocess(
    frame: Frame,
    letterbox: Letterbox,
    preprocessing: Preprocessing | None = None,
    *,
    dtype: npt.DTypeLike = np.float32,
    input_scale: float = 1.0,
) -> npt.NDArray[Any]:
    """Make a network input from a Frame, by definition.

    Args:
        frame: the image.
        letterbox: its geometry.
        preprocessing: colour order, scale, mean, std, padding; None for BGR 0..255.
        dtype: float32, float16, uint8 or int8.
        input_scale: real value of one step of an int8 input (dynamic range / 127).

    Returns:
        (3, input_height, input_width) of the dtype.

    Raises:
        ModelError: uint8 with a scale, mean or std, which an 8-bit input cannot carry.
    """
    preprocessing = preprocessing or Preprocessing()
    roi = letterbox.roi
    source = to_bgr(frame)[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width]
    image = np.full(
        (letterbox.input_height, letterbox.input_width, 3), preprocessing.pad, np.float32
    )
    resized = resize(source, letterbox.resized_height, letterbox.resized_width)
    image[letterbox.image_area] = np.floor(resized + 0.5)
    if preprocessing.color_order == "rgb":
        image = image[..., ::-1]
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    return finish(planes, preprocessing, np.dtype(dtype), input_scale)


def finish(
    planes: npt.NDArray[np.float32],
    preprocessing: Preprocessing,
    dtype: np.dtype[Any],
    input_scale: float = 1.0,
) -> npt.NDArray[Any]:
    """Do step 5 on (3, H, W) integers 0..255 that are already in the input's channel order."""
    if dtype == np.uint8:
        check_uint8(preprocessing)
        return planes.astype(np.uint8)
    multiplier, offset = (np.asarray(v, np.float32)[:, None, None] for v in preprocessing.factors)
    values = planes * multiplier + offset
    if dtype == np.int8:
        quantized = np.clip(np.rint(values / np.float32(input_scale)), -128, 127)
        return np.asarray(quantized, np.int8)
    return np.asarray(values, dtype)


def check_uint8(preprocessing: Preprocessing) -> None:
    """Raise ModelError if an 8-bit input would need a scale, mean or std."""
    if not preprocessing.is_identity:
        raise ModelError(
            f"uint8 input with {preprocessing}",
            expected="values 0..255 for an 8-bit input, the normalisation inside the network",
            fix="choose the preprocessing bgr or rgb",
        )


def sampled_positions(size: int, resized: int) -> npt.NDArray[np.float64]:
    """Return where along an axis of `size` source pixels each resized pixel samples (step 2)."""
    return (np.arange(resized) + 0.5) * size / resized - 0.5


def _twice(chroma: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Repeat each chroma column for the two pixels that share it."""
    return np.repeat(chroma, 2, axis=1)


def _taps(
    size: int, resized: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return both source indices and the second one's weight for each resized pixel."""
    position = sampled_positions(size, resized)
    low = np.floor(position).astype(np.intp)
    return np.clip(low, 0, size - 1), np.clip(low + 1, 0, size - 1), position - low
