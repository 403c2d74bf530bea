# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Encoded images and video to Frames: order, loss, damage, sizes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from support.video import packets, pictures

from yolox_trt.core.decoding import (
    Packet,
    StillDecoder,
    VideoDecoder,
    codec_of,
    jpeg_reduction,
)
from yolox_trt.core.errors import FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.limits import ImageLimits
from yolox_trt.core.pyav import PyAvBackend
from yolox_trt.kernels.reference.preprocess import to_bgr

CODECS = ("h264", "hevc")


def decoder(codec: str, megapixels: float = 1.0) -> VideoDecoder:
    limits = ImageLimits(max_megapixels=megapixels)
    return VideoDecoder(codec, PyAvBackend(codec, limits), limits)


def decode(
    made: VideoDecoder, codec: str, numbered: Sequence[tuple[int, bytes]]
) -> tuple[list[Frame], list[str]]:
    """Decode packets; return the Frames, whose stamps are the packets' numbers, and the errors."""
    frames: list[Frame] = []
    errors = []
    for number, data in numbered:
        try:
            frames += made.decode(Packet(codec, data, {"stamp_ns": number}))
        except FrameError as error:
            errors.append(str(error))
    return frames, errors


def assert_shows(frame: Frame, number: int) -> None:
    """Fail unless a Frame is the picture, but for what the codec leaves out."""
    difference = np.abs(to_bgr(frame).astype(int) - pictures(number + 1)[number])
    assert difference.mean() < 4.0, f"picture {number} differs by {difference.mean()}"


@pytest.mark.parametrize("codec", CODECS)
def test_each_packet_gives_its_picture_at_once(codec: str) -> None:
    made = decoder(codec)
    for number, data in enumerate(packets(codec)):
        (frame,), errors = decode(made, codec, [(number, data)])
        assert not errors
        assert (frame.stamp_ns, frame.encoding, frame.height, frame.width) == (
            number,
            "nv12",
            96,
            128,
        )
        assert_shows(frame, number)
    assert made.given_up() == 0


@pytest.mark.parametrize("codec", CODECS)
def test_it_waits_for_the_first_keyframe(codec: str) -> None:
    frames, errors = decode(decoder(codec), codec, list(enumerate(packets(codec)))[2:])
    assert [frame.stamp_ns for frame in frames] == list(range(6, 12))
    assert len(errors) == 4 and all("no keyframe has come yet" in error for error in errors)
    assert_shows(frames[0], 6)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("told", [True, False], ids=["told", "found"])
def test_after_a_lost_packet_nothing_wrong_comes_out(codec: str, told: bool) -> None:
    """Whether the middleware tells of the loss, or it is found in what comes."""
    made, data = decoder(codec), list(enumerate(packets(codec)))
    frames, errors = decode(made, codec, data[:2])
    if told:
        made.lost()
    more, told_errors = decode(made, codec, data[3:])
    frames += more
    assert [frame.stamp_ns for frame in frames] == [0, 1, 6, 7, 8, 9, 10, 11]
    for frame in frames:
        assert_shows(frame, frame.stamp_ns)
    assert not errors and any("lost" in error for error in told_errors)
    assert len(told_errors) + made.given_up() == 3  # each packet is accounted for


@pytest.mark.parametrize("codec", CODECS)
def test_a_damaged_packet_is_named_and_the_next_keyframe_helps(codec: str) -> None:
    data = list(enumerate(packets(codec)))
    data[1] = (1, b"damaged")
    made = decoder(codec)
    frames, errors = decode(made, codec, data)
    assert [frame.stamp_ns for frame in frames] == [0, 6, 7, 8, 9, 10, 11]
    assert "annex B" in errors[0] and "damaged packet" in errors[1]


@pytest.mark.parametrize("codec", CODECS)
def test_a_packet_that_comes_twice_makes_no_picture_wrong(codec: str) -> None:
    data = list(enumerate(packets(codec)))
    made = decoder(codec)
    frames, errors = decode(made, codec, [*data[:3], data[2], *data[3:]])
    assert len(frames) + len(errors) + made.given_up() == 13
    assert [frame.stamp_ns for frame in frames][-6:] == [6, 7, 8, 9, 10, 11]
    for frame in frames:
        assert_shows(frame, frame.stamp_ns)
    if codec == "h264":
        assert "lost or repeated: picture 2, then 2" in errors[0]


@pytest.mark.parametrize("kept", [20, 100])
@pytest.mark.parametrize("codec", CODECS)
def test_a_packet_that_is_cut_off_makes_no_picture_wrong(codec: str, kept: int) -> None:
    """FFmpeg fills up what is missing of a picture with what it has."""
    data = list(enumerate(packets(codec)))
    data[1] = (1, data[1][1][:kept])
    made = decoder(codec)
    frames, errors = decode(made, codec, data)
    assert [frame.stamp_ns for frame in frames] == [0, 6, 7, 8, 9, 10, 11]
    for frame in frames:
        assert_shows(frame, frame.stamp_ns)
    assert len(errors) == 5 and made.given_up() == 0
    assert "FFmpeg" in errors[0] and "could not be decoded" in errors[1]


@pytest.mark.parametrize("codec", CODECS)
def test_pictures_that_are_held_back_at_the_end_are_counted(codec: str) -> None:
    made = decoder(codec)
    frames, errors = decode(made, codec, list(enumerate(packets(codec, b_frames=2)))[:5])
    assert len(frames) < 5 and not errors
    made.close()
    assert len(frames) + made.given_up() == 5


@pytest.mark.parametrize("codec", CODECS)
def test_pictures_that_refer_to_later_ones_keep_their_stamps(codec: str) -> None:
    data = packets(codec, b_frames=2, keyframes=30)
    order = [0, *range(1, 12)]
    frames, errors = decode(decoder(codec), codec, list(zip(order, data, strict=True)))
    assert not errors and len(frames) >= 6
    shown = [int(np.argmin([difference(frame, n) for n in range(12)])) for frame in frames]
    assert shown == sorted(shown)  # as they are shown, not as they are decoded


@pytest.mark.parametrize("codec", CODECS)
def test_another_sequence_does_not_wait_as_the_one_before_did(codec: str) -> None:
    made = decoder(codec)
    first = packets(codec, b_frames=2, keyframes=30)[:4]
    early, errors = decode(made, codec, list(enumerate(first)))
    assert len(early) < 4  # some are held back for those that come later
    data = packets(codec)
    (*late, frame), more = decode(made, codec, [(4, data[0])])
    assert not (errors or more)
    assert {each.stamp_ns for each in (*early, *late)} == {0, 1, 2, 3}
    assert frame.stamp_ns == 4
    assert_shows(frame, 0)
    for number in range(1, 6):
        (frame,), errors = decode(made, codec, [(4 + number, data[number])])
        assert not errors and frame.stamp_ns == 4 + number
        assert_shows(frame, number)
    assert made.given_up() == 0


def difference(frame: Frame, number: int) -> float:
    return float(np.abs(to_bgr(frame).astype(int) - pictures(12)[number]).mean())


@pytest.mark.parametrize("codec", CODECS)
def test_a_large_picture_is_refused_by_its_header(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = decoder(codec, megapixels=0.01)
    monkeypatch.setattr(PyAvBackend, "decode", None)  # it is not even asked
    with pytest.raises(FrameError, match="128x96 pixels"):
        made.decode(Packet(codec, packets(codec)[0]))


def test_other_codecs_are_named() -> None:
    assert codec_of("H265") == "hevc"
    with pytest.raises(FrameError, match="'vp9'"):
        codec_of("vp9")


def test_still_images_come_out_as_they_are() -> None:
    pixels = pictures(1)[0]
    png = cv2.imencode(".png", pixels)[1].tobytes()
    (frame,) = StillDecoder().decode(Packet("image", png, {"stamp_ns": 4}))
    assert frame.stamp_ns == 4 and np.array_equal(frame.rows, pixels)
    grey = cv2.imencode(".png", pixels[:, :, 0])[1].tobytes()
    (frame,) = StillDecoder().decode(Packet("image", grey, mosaic="bayer_rggb8"))
    assert frame.encoding == "bayer_rggb8" and np.array_equal(frame.rows, pixels[:, :, 0])


@pytest.mark.parametrize(
    ("size", "input_size", "most", "expected"),
    [
        ((1280, 1920), (608, 960), 8, 2),
        ((1280, 1920), (608, 960), 1, 1),
        ((1280, 1920), (416, 416), 8, 4),
        ((1280, 1920), (416, 416), 2, 2),
        ((1279, 1919), (640, 960), 8, 1),
        ((480, 640), (416, 416), 8, 1),
        ((4000, 100), (100, 100), 8, 8),
    ],
)
def test_an_image_is_reduced_to_no_less_than_the_input_shows(
    size: tuple[int, int], input_size: tuple[int, int], most: int, expected: int
) -> None:
    reduction = jpeg_reduction(size, input_size, most)
    assert reduction == expected
    box = Letterbox.fit(*size, *input_size)
    assert reduction == 1 or size[0] / reduction >= box.resized_height


@pytest.mark.parametrize(("height", "width"), [(96, 128), (97, 131)])
def test_a_reduced_jpeg_shows_the_same(height: int, width: int) -> None:
    jpeg = cv2.imencode(".jpg", pictures(1, height, width)[0])[1]
    decoder = StillDecoder(input_size=(48, 64), max_reduction=8)
    (frame,) = decoder.decode(Packet("image", jpeg.tobytes(), {"stamp_ns": 4}))
    assert (frame.reduction, frame.source_size, frame.stamp_ns) == (2, (height, width), 4)
    assert frame.rows.shape == (-(-height // 2), -(-width // 2), 3)
    (full,) = StillDecoder().decode(Packet("image", jpeg.tobytes()))
    assert (full.reduction, full.source_size) == (1, (height, width))
    halves = full.rows[: height & ~1, : width & ~1].astype(int)
    means = halves.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    shown = frame.rows[: height // 2, : width // 2]
    assert np.abs(shown - means).mean() < 2.0


def test_only_jpeg_is_reduced() -> None:
    png = cv2.imencode(".png", pictures(1)[0])[1].tobytes()
    (frame,) = StillDecoder(input_size=(8, 8), max_reduction=8).decode(Packet("image", png))
    assert frame.reduction == 1
