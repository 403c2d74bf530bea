# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What packets of H.264 and HEVC say of themselves, against what FFmpeg wrote into them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.video import packets

from yolox_trt.core.errors import FrameError
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.video_header import VideoHeader


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("size", [(96, 128), (98, 130), (64, 250)])
def test_size_and_keyframes_are_those_of_the_encoder(codec: str, size: tuple[int, int]) -> None:
    header = VideoHeader(codec)
    height, width = size
    read = [header.read(each) for each in packets(codec, 7, height=height, width=width)]
    assert [each.key for each in read] == [True] + 5 * [False] + [True]
    assert [each.size for each in read] == [size] + 5 * [None] + [size]


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({"pix_fmt": "yuv444p"}, (96, 128)),
        ({"pix_fmt": "yuv422p"}, (98, 130)),
        ({"pix_fmt": "yuv420p10le"}, (98, 130)),
        ({"options": {"x264-params": "interlaced=1"}}, (100, 130)),
        ({"options": {"x264-params": "cqm=jvt"}}, (96, 128)),
    ],
)
def test_sizes_of_other_profiles(attributes: dict[str, object], size: tuple[int, int]) -> None:
    height, width = size
    first = packets.__wrapped__("h264", 1, height=height, width=width, **attributes)[0]
    assert VideoHeader("h264").read(first).size == size


def test_pictures_of_h264_are_numbered_from_their_keyframe_on() -> None:
    header = VideoHeader("h264")
    read = [header.read(each) for each in packets("h264", 8)]
    assert [each.number for each in read] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert all(each.reference for each in read)


def test_pictures_that_none_refers_to_are_told() -> None:
    header = VideoHeader("h264")
    read = [header.read(each) for each in packets("h264", 9, b_frames=1, keyframes=30)]
    assert not all(each.reference for each in read)


def test_without_an_sps_no_number_is_read() -> None:
    read = VideoHeader("h264").read(packets("h264")[1])
    assert (read.key, read.number, read.size) == (False, None, None)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"no start code",
        b"\x00\x00\x00\x0c" + b"length instead of a start code",
        b"\x00\x00\x01\x67\x42",  # an SPS that is cut off
        b"\x00\x00\x01\x67\x42\xc0\x0a" + b"\x00" * 40,
        b"\x00\x00\x01\x67\x64\xc0\x0a\xff\xff\xff\xff\xff",
    ],
)
def test_damaged_packets_are_refused(packet: bytes) -> None:
    with pytest.raises(FrameError, match="annex B"):
        VideoHeader("h264").read(packet)


def test_more_units_than_are_looked_at() -> None:
    with pytest.raises(FrameError, match="NAL units"):
        VideoHeader("hevc").read(b"\x00\x00\x01\x00" * (LIMITS.video_units + 1))


@settings(max_examples=100)
@given(codec=st.sampled_from(["h264", "hevc"]), at=st.integers(0, 60), byte=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(codec: str, at: int, byte: int) -> None:
    data = bytearray(packets(codec)[0])
    data[at] = byte
    with contextlib.suppress(FrameError):
        VideoHeader(codec).read(bytes(data))
