# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""FFmpeg's decoders: sizes, colours, layouts."""

from __future__ import annotations

import numpy as np
import pytest
from support.video import packets, pictures

from yolox_trt.core.errors import FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.limits import ImageLimits
from yolox_trt.core.pyav import PyAvBackend
from yolox_trt.kernels.reference.preprocess import to_bgr


def decode_one(data: bytes) -> Frame:
    ((number, frame),) = PyAvBackend("h264").decode(data, 5)
    assert number == 5
    return frame


def test_a_large_picture_is_refused_by_ffmpeg_too() -> None:
    backend = PyAvBackend("h264", ImageLimits(max_megapixels=0.001))
    with pytest.raises(FrameError, match="FFmpeg cannot decode"):
        backend.decode(packets("h264")[0], 1)


@pytest.mark.parametrize(
    "attributes",
    [
        {"colorspace": 1, "color_range": 1},  # BT.709
        {"color_range": 2},  # full range
        {"pix_fmt": "yuv444p"},
        {"pix_fmt": "yuv420p10le"},
    ],
    ids=str,
)
def test_colours_are_those_that_the_stream_names(attributes: dict[str, object]) -> None:
    data = packets.__wrapped__("h264", 1, **attributes)
    frame = decode_one(data[0])
    assert frame.encoding == "bgr8"
    difference = np.abs(to_bgr(frame).astype(int) - pictures(1)[0])
    assert difference.mean() < 4.0


def test_odd_sizes_come_out_as_bgr8() -> None:
    data = packets.__wrapped__("h264", 1, height=97, width=129, pix_fmt="yuv444p")
    frame = decode_one(data[0])
    assert (frame.encoding, frame.height, frame.width) == ("bgr8", 97, 129)
