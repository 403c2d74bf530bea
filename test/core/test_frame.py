# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Frames view bytes in place, and refuse what does not fit."""

from __future__ import annotations

from types import SimpleNamespace

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


def device_array(shape: tuple[int, ...]) -> SimpleNamespace:
    """Return an array of a CUDA device without padding, which tells no strides."""
    return SimpleNamespace(
        __cuda_array_interface__={"shape": shape, "typestr": "|u1", "strides": None, "version": 3}
    )


def test_an_image_on_the_device_is_described() -> None:
    frame = Frame.on_device(device_array((6, 8, 2)), "yuv422", roi=Roi(2, 2, 4, 4))
    assert (frame.height, frame.width, frame.step, frame.encoding) == (6, 8, 16, "uyvy")
    with pytest.raises(FrameError, match=r"on a GPU; expected one in host memory; fix: use on_hos"):
        _ = frame.rows


@pytest.mark.parametrize(
    ("shape", "encoding", "message"),
    [
        ((6, 8), "bayer_rggb8", "on a GPU 'bayer_rggb8'; expected one of bgr8, .*; fix: .*host"),
        ((6, 8, 3), "nonsense", "on a GPU 'nonsense'"),
        ((6, 7, 2), "uyvy", "uyvy image of 7x6; expected even sizes"),
        ((6, 8, 4), "bgr8", r"shape \(6, 8, 4\).*expected uint8 with 3 adjacent channels"),
        ((6,), "mono8", r"of shape \(6,\); expected \(H, W\)"),
        ((0, 8), "mono8", "expected positive width and height"),
    ],
)
def test_what_no_kernel_reads_is_refused(
    shape: tuple[int, ...], encoding: str, message: str
) -> None:
    with pytest.raises(FrameError, match=message):
        Frame.on_device(device_array(shape), encoding)


def test_a_roi_outside_an_image_on_the_device_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="roi"):
        Frame.on_device(device_array((100, 200, 3)), "bgr8", roi=Roi(150, 50, 100, 100))
