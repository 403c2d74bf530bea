# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile images, encoded and in messages."""

from __future__ import annotations

import contextlib
import itertools
import resource
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzz import check_refusal, damaged, examples, keep
from support.video import packets, pictures

from yolox_trt.core.decoding import Packet, VideoDecoder
from yolox_trt.core.encodings import ALIASES, ENCODINGS
from yolox_trt.core.errors import FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.image_header import image_size
from yolox_trt.core.images import decode_image
from yolox_trt.core.limits import ImageLimits
from yolox_trt.core.pyav import PyAvBackend
from yolox_trt.kernels.reference.preprocess import to_bgr

pytest.importorskip("sensor_msgs")

from sensor_msgs.msg import CompressedImage, Image

from yolox_trt.ros.messages.images import (
    WIDE_ENCODINGS,
    frame_from_image,
)
from yolox_trt.ros.messages.transports import TRANSPORTS, FrameReader

LIMITS = ImageLimits(max_megapixels=0.5)
PICTURE = np.kron(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5, np.ones((4, 5, 1), np.uint8))


def encode(suffix: str, *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, PICTURE, options)[1].tobytes())


ENCODED = (
    *(encode(".jpg"), encode(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), encode(".png")),
    *(encode(".webp"), encode(".webp", cv2.IMWRITE_WEBP_QUALITY, 101)),
    *(encode(".bmp"), encode(".tiff"), encode(".ppm")),
)
NUMBERS = st.integers(0, 40) | st.sampled_from((1 << 16, 1 << 20, (1 << 31) - 1, (1 << 32) - 1))


def most_memory() -> float:
    """Return the most bytes that were resident at a time so far."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@examples(80)
@given(damaged(*ENCODED))
def test_encoded_images(data: bytes) -> None:
    """An image is refused, or comes out in the size that its header was read to have."""
    keep(data)
    before = most_memory()
    try:
        pixels = decode_image(data, LIMITS, ignore_orientation=True)
    except FrameError as error:
        check_refusal(error)
        return
    finally:
        assert most_memory() < before + 200e6
    assert pixels.shape == (*image_size(memoryview(data)), 3)
    assert pixels.size <= 3 * 0.5e6


@examples(25)
@given(data=damaged(*ENCODED), form=st.text(max_size=30) | st.just("bayer_rggb8; jpeg"))
def test_compressed_messages(data: bytes, form: str) -> None:
    keep((data, form))
    with contextlib.suppress(UnicodeEncodeError):  # no text that a message could carry
        form.encode()
        try:
            reader = FrameReader(TRANSPORTS["compressed"], limits=LIMITS)
            (frame,) = reader.read(CompressedImage(format=form, data=data))
        except FrameError as error:
            check_refusal(error)
            return
        assert to_bgr(frame).shape == (frame.height, frame.width, 3)


@examples(40)
@given(codec=st.sampled_from(("h264", "hevc")), number=st.integers(0, 2), data=st.data())
def test_packets_of_video(codec: str, number: int, data: st.DataObject) -> None:
    """A damaged packet is refused, or gives small pictures; after it a keyframe goes on."""
    whole = packets(codec)
    packet = data.draw(damaged(whole[number]))
    keep((codec, number, packet))
    decoder = VideoDecoder(codec, PyAvBackend(codec, LIMITS), LIMITS)
    for each in (*whole[:number], packet, whole[6]):
        try:
            frames = decoder.decode(Packet(codec, each))
        except FrameError as error:
            check_refusal(error)
            continue
        assert all(frame.height * frame.width <= 0.5e6 for frame in frames)
    assert frames


@examples(10)
@given(codec=st.sampled_from(("h264", "hevc")), b_frames=st.integers(0, 2), data=st.data())
def test_sequences_of_packets(codec: str, b_frames: int, data: st.DataObject) -> None:
    """Each packet is accounted for, and a whole stream that follows comes out in time and right.

    While none is damaged inside, what comes out is right.
    """
    numbered = list(enumerate(packets(codec, b_frames=b_frames)))
    shown = {}  # with B frames the order of packets is not that of pictures
    backend = PyAvBackend(codec, LIMITS)
    each = [backend.decode(packet, number) for number, packet in numbered]
    for place, (number, _) in enumerate(itertools.chain(*each, backend.flush())):
        shown[number] = place
    broken = False
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(numbered) - 1))
        number, packet = numbered[at]
        action = data.draw(st.sampled_from(("drop", "repeat", "empty", "damage", "join", "other")))
        if action == "drop" and len(numbered) > 1:
            del numbered[at]
        elif action == "repeat":
            numbered.insert(at, numbered[at])
        elif action == "empty":
            numbered[at] = (number, b"")
        else:
            broken = True
            other = packets(codec, height=64, width=96)[at % 6]
            new = {"join": packet + other, "other": other, "drop": packet}.get(action)
            numbered[at] = number, data.draw(damaged(packet)) if new is None else new
    keep((codec, b_frames, numbered))
    decoder = VideoDecoder(codec, PyAvBackend(codec, LIMITS), LIMITS)
    frames, refused = [], 0
    for number, packet in numbered:
        try:
            frames += decoder.decode(Packet(codec, packet, {"stamp_ns": number}))
        except FrameError as error:
            check_refusal(error)
            refused += 1
    for number, packet in enumerate(packets(codec)):
        (*held, frame) = decoder.decode(Packet(codec, packet, {"stamp_ns": -number - 1}))
        assert frame.stamp_ns == -number - 1
        assert_shows(frame, number)
        frames += held
    decoder.close()
    assert len(frames) + refused + decoder.given_up() == len(numbered)
    for frame in frames if not broken else ():
        assert_shows(frame, shown[frame.stamp_ns])


def assert_shows(frame: Frame, number: int) -> None:
    """Fail unless a Frame is the picture, but for what the codec leaves out."""
    difference = np.abs(to_bgr(frame).astype(int) - pictures(number + 1)[number])
    assert difference.mean() < 6.0, f"picture {number} differs by {difference.mean()}"


@st.composite
def image_messages(draw: st.DrawFn) -> dict[str, Any]:
    """Return the fields of an Image: sound ones, of which some are then replaced."""
    names = sorted({*ENCODINGS, *ALIASES, *WIDE_ENCODINGS})
    encoding = draw(st.sampled_from(names))
    height, width = 2 * draw(st.integers(1, 8)), 2 * draw(st.integers(1, 8))
    step = 8 * width + draw(st.integers(0, 5))
    fields: dict[str, Any] = {
        "encoding": encoding,
        "height": height,
        "width": width,
        "step": step,
        "is_bigendian": draw(st.integers(0, 255)),
        "data": bytes(height * 2 * step),
        "frame_id": "lens",
    }
    replaced = {
        "encoding": st.text(max_size=300),
        "height": NUMBERS,
        "width": NUMBERS,
        "step": NUMBERS,
        "data": st.binary(max_size=300),
        "frame_id": st.text(max_size=300),
    }
    for name in draw(st.lists(st.sampled_from(sorted(replaced)), max_size=3)):
        fields[name] = draw(replaced[name])
    return fields


@examples(80)
@given(image_messages())
def test_raw_messages(fields: dict[str, Any]) -> None:
    """An image is refused, or all of its pixels can be read."""
    keep(fields)
    message = Image(**{name: value for name, value in fields.items() if name != "frame_id"})
    message.header.frame_id = fields["frame_id"]
    try:
        frame = frame_from_image(message, limits=LIMITS)
    except FrameError as error:
        check_refusal(error)
        return
    assert to_bgr(frame).shape == (frame.height, frame.width, 3)
    assert frame.frame_id.isprintable()
