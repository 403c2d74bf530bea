# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of each transport to Frames."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from support.video import packets, pictures

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, DeviceError, FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.limits import ImageLimits
from yolox_trt.detectors import decoders
from yolox_trt.detectors.decoders import DecoderOptions
from yolox_trt.kernels.reference.preprocess import to_bgr
from yolox_trt.ros.messages.transports import TRANSPORTS, FrameReader, transport_of_topic


def reader(transport: str, **settings: Any) -> FrameReader:
    return FrameReader(TRANSPORTS[transport], stream_id="front", **settings)


def read_one(transport: str, message: Any, **settings: Any) -> Frame:
    (frame,) = reader(transport, **settings).read(message, 5)
    return frame


def compressed(image: np.ndarray, suffix: str, text: str) -> CompressedImage:
    return CompressedImage(format=text, data=cv2.imencode(suffix, image)[1].tobytes())


def stamped(message: Any, number: int) -> Any:
    stamp = message.timestamp if hasattr(message, "timestamp") else message.header.stamp
    stamp.sec, stamp.nanosec = 7, number
    return message


def video_message(transport: str, data: bytes, form: str) -> Any:
    made = TRANSPORTS[transport].message_class()()
    if transport == "foxglove":
        made.format, made.frame_id = form, "lens"
    else:
        made.encoding, made.header.frame_id, made.height, made.width = form, "lens", 96, 128
    made.data = data
    return made


def test_raw_images_are_viewed() -> None:
    pixels = np.arange(24, dtype=np.uint8)
    message = Image(height=2, width=4, encoding="bgr8", step=12, data=pixels.tobytes())
    frame = read_one("raw", message)
    assert (frame.stream_id, frame.received_ns) == ("front", 5)
    np.testing.assert_array_equal(frame.rows.reshape(-1), pixels)


def test_compressed_colour_and_grey() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    frame = read_one("compressed", compressed(picture, ".png", "rgb8; png compressed bgr8"))
    np.testing.assert_array_equal(frame.rows, picture)
    grey = read_one("compressed", compressed(picture[..., 0].copy(), ".png", "png"))
    np.testing.assert_array_equal(grey.rows, np.repeat(picture[..., :1], 3, axis=2))


def test_compressed_mosaics_keep_their_pattern() -> None:
    mosaic = np.random.default_rng(0).integers(0, 256, (6, 8)).astype(np.uint8)
    frame = read_one("compressed", compressed(mosaic, ".png", "bayer_grbg8; png compressed"))
    assert frame.encoding == "bayer_grbg8"
    np.testing.assert_array_equal(frame.rows, mosaic)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe0 no jpeg", b"\x89PNG"])
def test_broken_compressed_images_are_refused(data: bytes) -> None:
    with pytest.raises(FrameError, match=r"compressed image: .*cannot be decoded"):
        read_one("compressed", CompressedImage(format="jpeg", data=data))


def test_larger_images_are_refused() -> None:
    limits = ImageLimits(max_megapixels=40e-6)
    message = compressed(np.zeros((6, 8, 3), np.uint8), ".png", "png")
    with pytest.raises(FrameError, match=r"8x6 pixels.*4e-05 megapixels at most"):
        read_one("compressed", message, limits=limits)


@pytest.mark.parametrize(
    ("transport", "codec", "form"),
    [
        ("foxglove", "h264", "h264"),
        ("foxglove", "hevc", "h265"),
        ("ffmpeg", "h264", "h264;yuv420p;bgr8;bgr8"),
        ("ffmpeg", "hevc", "hevc"),
        ("ffmpeg", "h264", "libx264"),
    ],
)
def test_video_comes_out_with_stamp_and_frame_id(transport: str, codec: str, form: str) -> None:
    made = reader(transport)
    for number, data in enumerate(packets(codec)[:3]):
        (frame,) = made.read(stamped(video_message(transport, data, form), number), 5)
        assert (frame.stamp_ns, frame.frame_id) == (7 * 10**9 + number, "lens")
        assert (frame.stream_id, frame.received_ns) == ("front", 5)
        difference = np.abs(to_bgr(frame).astype(int) - pictures(12)[number])
        assert difference.mean() < 4.0
    assert made.given_up() == 0
    made.close()


@pytest.mark.parametrize("transport", ["foxglove", "ffmpeg"])
def test_another_codec_is_named(transport: str) -> None:
    with pytest.raises(FrameError, match=f"{transport} image: video codec 'vp9'.*set the encoder"):
        read_one(transport, video_message(transport, b"", "vp9"))


def test_a_large_picture_is_refused_by_the_message_that_names_its_size() -> None:
    message = video_message("ffmpeg", b"", "h264")
    message.height, message.width = 1 << 15, 1 << 15
    with pytest.raises(FrameError, match="32768x32768 pixels"):
        read_one("ffmpeg", message)


def test_lost_messages_are_waited_out() -> None:
    made, data = reader("foxglove"), packets("h264")
    made.read(video_message("foxglove", data[0], "h264"))
    made.lost()
    with pytest.raises(FrameError, match=r"packets before it were lost.*qos_reliability"):
        made.read(video_message("foxglove", data[1], "h264"))
    assert len(made.read(video_message("foxglove", data[6], "h264"))) == 1


def test_pictures_that_wait_where_another_codec_begins_are_counted() -> None:
    made = reader("foxglove")
    data = packets("h264", b_frames=2)[:5]
    frames = [
        frame for each in data for frame in made.read(video_message("foxglove", each, "h264"))
    ]
    assert len(frames) < 5
    assert len(made.read(video_message("foxglove", packets("hevc")[0], "h265"))) == 1
    assert len(frames) + made.given_up() == 5
    assert made.given_up() == 0


def test_a_gpu_that_cannot_decode_is_told_once_for_the_camera() -> None:
    said: list[str] = []
    made = reader("compressed", options=DecoderOptions(decoder="gpu"), say=said.append)
    message = compressed(np.zeros((6, 8, 3), np.uint8), ".png", "png")
    for _ in range(2):
        (frame,) = made.read(message)
    assert frame.height == 6
    assert len(said) <= 1  # none where there is a GPU
    for line in said:
        assert line.startswith("image is decoded on the CPU, not on the GPU: ")


def test_images_are_decoded_on_the_gpu_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def require_gpu(device: Device, **_: object) -> None:
        asked.append(str(device))
        raise DeviceError("none")

    monkeypatch.setattr(decoders, "require_gpu", require_gpu)
    gpu = DecoderOptions(decoder="gpu")
    made = reader("compressed", options=gpu, say=lambda _: None, device=Device("gpu", 1))
    made.read(compressed(np.zeros((6, 8, 3), np.uint8), ".png", "png"))
    assert asked == ["gpu:1"]


def test_topics_are_named_as_image_transport_does() -> None:
    assert TRANSPORTS["ffmpeg"].topic("/front/image_raw") == "/front/image_raw/ffmpeg"
    topic, transport = transport_of_topic("/a/b/foxglove", "foxglove_msgs/msg/CompressedVideo")
    assert (topic, transport.name) == ("/a/b", "foxglove")
    with pytest.raises(ConfigurationError, match="String"):
        transport_of_topic("/a", "std_msgs/msg/String")
