# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Frames view bytes in place, and refuse what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.frames import frames, random_frame

from yolox_trt.core import ConfigurationError, Frame, FrameError, Roi
from yolox_trt.core.encodings import ALIASES, ENCODINGS, lookup


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
@pytest.mark.parametrize("padding", [0, 6])
def test_rows_are_a_view_of_the_bytes(encoding: str, padding: int) -> None:
    frame = random_frame(encoding, 6, 8, padding=padding)
    rows = frame.rows
    assert np.shares_memory(rows, frame.data)
    assert not rows.flags.writeable
    layout = ENCODINGS[encoding]
    assert rows.shape[:2] == (6 * layout.rows_per_height, 8)
    for y in range(len(rows)):
        start = y * frame.step
        row = frame.data[start : start + 8 * layout.bytes_per_pixel]
        np.testing.assert_array_equal(rows[y].reshape(-1), row)


def test_view_of_bytes_copies_nothing() -> None:
    data = bytearray(range(12))
    frame = Frame.view(data, height=2, width=2, encoding="rgb8")
    data[0] = 99
    assert frame.rows[0, 0, 0] == 99


def test_aliases_become_canonical() -> None:
    for alias, name in ALIASES.items():
        assert lookup(alias.upper()) is ENCODINGS[name]
    assert Frame.view(bytes(16), height=2, width=4, encoding="yuv422").encoding == "uyvy"


def test_from_array_of_a_crop() -> None:
    image = np.arange(10 * 12 * 3, dtype=np.uint8).reshape(10, 12, 3)
    crop = image[2:7, 3:9]
    frame = Frame.from_array(crop)
    assert np.shares_memory(frame.data, image)
    assert frame.step == 36
    np.testing.assert_array_equal(frame.rows, crop)
    with pytest.raises(FrameError, match="reverse order"):
        Frame.from_array(image[::-1])
    with pytest.raises(FrameError, match="adjacent channels"):
        Frame.from_array(image[:, :, ::-1])
    with pytest.raises(FrameError, match=r"Frame\.view"):
        Frame.from_array(image[..., 0], "nv12")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoding": "32FC1"}, "encoding '32FC1'.*cv_bridge"),
        ({"height": 0}, "image of 4x0"),
        ({"step": 11}, "step 11.*at least width"),
        ({"height": 3}, "with 24 bytes.*at least 36"),
        ({"encoding": "nv12", "width": 3}, "even sizes"),
        ({"encoding": "bayer_rggb8", "height": 3, "width": 4}, "even sizes"),
    ],
)
def test_buffers_that_do_not_fit(arguments: dict[str, object], message: str) -> None:
    values = {"height": 2, "width": 4, "encoding": "bgr8"} | arguments
    with pytest.raises(FrameError, match=message):
        Frame.view(bytes(24), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [np.zeros((2, 24), np.uint8)[:, ::2], [0] * 24])
def test_bytes_that_do_not_lie_one_after_the_other(data: object) -> None:
    with pytest.raises(FrameError, match=r"ascontiguousarray"):
        Frame.view(data, height=2, width=4, encoding="bgr8")


def test_roi_outside_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="inside the 4x2 image"):
        Frame.view(bytes(24), height=2, width=4, encoding="bgr8", roi=Roi(2, 0, 3, 1))


@given(frames(40), st.integers(1, 200))
def test_one_byte_less_is_refused(frame: Frame, cut: int) -> None:
    short = frame.data[: max(0, len(frame.data) - cut)]
    with pytest.raises(FrameError, match="bytes of data"):
        Frame.view(
            short,
            height=frame.height,
            width=frame.width,
            encoding=frame.encoding,
            step=frame.step,
        )
