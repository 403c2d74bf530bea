# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Videos for tests, encoded by FFmpeg: a coloured picture that moves by two columns an image."""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

#: Encoder and options of each codec: no picture refers to a later one, headers at each keyframe.
ENCODERS = {
    "h264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency", "qp": "8"}),
    "hevc": (
        "libx265",
        {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "x265-params": "log-level=none:repeat-headers=1:qp=8:pools=1",
        },
    ),
}


@functools.lru_cache
def pictures(count: int, height: int = 96, width: int = 128) -> tuple[npt.NDArray[np.uint8], ...]:
    """Return the pictures, bgr8: smooth, as chroma is stored at half the size."""
    base = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)
    large = np.asarray(cv2.resize(base, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    return tuple(np.roll(large, 2 * index, 1) for index in range(count))


@functools.lru_cache
def packets(
    codec: str,
    count: int = 12,
    *,
    height: int = 96,
    width: int = 128,
    keyframes: int = 6,
    b_frames: int = 0,
    **attributes: Any,
) -> tuple[bytes, ...]:
    """Return the packets of `pictures`, in the order of decoding.

    Args:
        codec: "h264" or "hevc".
        count: pictures.
        height: their rows.
        width: their columns.
        keyframes: pictures from one keyframe to the next.
        b_frames: pictures that refer to a later one, between two that do not.
        attributes: of PyAV's CodecContext, such as pix_fmt and colorspace.
    """
    av = pytest.importorskip("av", reason="PyAV is not installed")
    encoder, options = ENCODERS[codec]
    if b_frames:
        options = {name: value for name, value in options.items() if name != "tune"}
    context = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
    context.gop_size, context.max_b_frames, context.options = keyframes, b_frames, options
    for name, value in attributes.items():
        setattr(context, name, value)
    found = []
    for index, picture in enumerate(pictures(count, height, width)):
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(
            format=context.pix_fmt,
            dst_colorspace=attributes.get("colorspace", 5),
            dst_color_range=attributes.get("color_range", 1),
        )
        frame.pts = index
        found += context.encode(frame)
    found += context.encode(None)
    return tuple(bytes(packet) for packet in found)
