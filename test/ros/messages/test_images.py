# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs -> Frame: encodings, byte order, padding, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import Image
from support.frames import random_frame

from yolox_trt.core import FrameError
from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.core.limits import ImageLimits
from yolox_trt.kernels.reference.preprocess import to_bgr
from yolox_trt.ros.messages.images import (
    WIDE_ENCODINGS,
    frame_from_image,
)

#: Names that a driver may send for an encoding, where they differ from the canonical one.
ROS_NAMES = {"uyvy": ("yuv422", "uyvy"), "yuy2": ("yuv422_yuy2", "yuyv")}


def message_of(data: Any, height: int, width: int, encoding: str, step: int) -> Image:
    message = Image(encoding=encoding, height=height, width=width, step=step)
    message.data = np.asarray(data, np.uint8).tobytes()
    message.header.frame_id = "lens"
    message.header.stamp.sec, message.header.stamp.nanosec = 12, 345
    return message


@settings(max_examples=60, deadline=None)
@given(
    encoding=st.sampled_from(sorted(ENCODINGS)),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    padding=st.sampled_from([0, 1, 13]),
    big_endian=st.booleans(),
)
def test_8_bit_images_are_viewed_as_they_are(
    encoding: str, height: int, width: int, padding: int, big_endian: bool
) -> None:
    layout = ENCODINGS[encoding]
    height += height % 2 if layout.even_height else 0
    width += width % 2 if layout.even_width else 0
    expected = random_frame(encoding, height, width, padding=padding)
    for name in ROS_NAMES.get(encoding, (encoding,)):
        message = message_of(expected.data, height, width, name, expected.step)
        # Single bytes have no order: some drivers set the flag all the same.
        message.is_bigendian = int(big_endian)
        frame = frame_from_image(message, stream_id="front", received_ns=5)
        assert (frame.encoding, frame.step) == (encoding, expected.step)
        assert (frame.stamp_ns, frame.frame_id) == (12 * 10**9 + 345, "lens")
        assert (frame.stream_id, frame.received_ns) == ("front", 5)
        np.testing.assert_array_equal(to_bgr(frame), to_bgr(expected))
        assert np.shares_memory(frame.data, np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize("encoding", sorted(WIDE_ENCODINGS))
@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_images_give_their_high_bytes(encoding: str, order: str) -> None:
    narrow = WIDE_ENCODINGS[encoding]
    channels = ENCODINGS[narrow].channels
    values = np.random.default_rng(1).integers(0, 1 << 16, (6, 8, channels)).astype(f"{order}u2")
    rows = values.reshape(6, -1).view(np.uint8)
    padded = np.zeros((6, rows.shape[1] + 10), np.uint8)
    padded[:, : rows.shape[1]] = rows
    # Upper case and lower case names are both in use (16UC1, mono16).
    message = message_of(padded, 6, 8, encoding.upper() if "uc" in encoding else encoding, 0)
    message.step = padded.shape[1]
    message.is_bigendian = int(order == ">")
    frame = frame_from_image(message)
    assert frame.encoding == narrow
    expected = (values >> 8).astype(np.uint8)
    np.testing.assert_array_equal(frame.rows, expected[..., 0] if channels == 1 else expected)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"step": 0}, "step 0"),
        ({"step": 11}, "at least width x bytes per pixel = 12"),
        ({"width": 0}, "positive width and height"),
        ({"encoding": "nv12", "width": 3, "step": 3}, "send bgr8"),
        ({"height": 1 << 31}, "64 megapixels at most"),
        ({"height": 1 << 20}, "bytes of data"),
        ({"encoding": "x" * 1_000_000}, "(1000000 characters)"),
        ({"encoding": "\x1b[2J"}, r"\x1b[2J"),
        ({"data": b""}, "with 0 bytes of data"),
        ({"encoding": "32FC1"}, "cv_bridge"),
        ({"encoding": ""}, "image encoding ''"),
        ({"encoding": "mono16", "step": 7}, "at least width x bytes per pixel = 8"),
        ({"encoding": "mono16", "data": b"abc"}, "with 3 bytes of data"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], text: str) -> None:
    message = message_of(np.zeros(48), 4, 4, "bgr8", 12)
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(FrameError) as error:
        frame_from_image(message)
    assert text in str(error.value)
    assert error.value.fix


@pytest.mark.parametrize(
    ("frame_id", "shown"), [("x" * 70_000, "(70000 characters)"), ("a\n\x1b[31m", r"a\n\x1b[31m")]
)
def test_a_frame_id_that_results_cannot_repeat_is_refused(frame_id: str, shown: str) -> None:
    message = message_of(np.zeros(48), 4, 4, "bgr8", 12)
    message.header.frame_id = frame_id
    with pytest.raises(FrameError, match="256 printable characters at most") as error:
        frame_from_image(message)
    assert shown in str(error.value)
    assert len(str(error.value)) < 500


def test_larger_images_are_refused() -> None:
    limits = ImageLimits(max_megapixels=40e-6)
    message = message_of(np.zeros((6, 8, 3)), 6, 8, "bgr8", 24)
    assert frame_from_image(message).height == 6
    with pytest.raises(FrameError, match=r"8x6 pixels.*4e-05 megapixels at most"):
        frame_from_image(message, limits=limits)
    padded = message_of(np.zeros(500), 4, 4, "bgr8", 12)
    with pytest.raises(FrameError, match="500 bytes; expected 320 bytes at most"):
        frame_from_image(padded, limits=limits)


def test_a_stamp_that_is_none_is_refused() -> None:
    message = message_of(np.zeros(4), 2, 2, "mono8", 2)
    message.header.stamp.nanosec = 10**9
    with pytest.raises(FrameError, match=r"a stamp of 1000000000 ns.*expected less than 10\^9"):
        frame_from_image(message)
