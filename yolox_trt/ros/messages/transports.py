# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""How images come: the message types, their topics, and a reader that makes Frames of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from yolox_trt.core.decoding import STILL, ImageDecoder, Packet, codec_of, mosaic_of
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, FrameError, parts_of
from yolox_trt.core.frame import Frame
from yolox_trt.core.limits import LIMITS, ImageLimits
from yolox_trt.core.optional import require
from yolox_trt.detectors.decoders import DecoderOptions, create_decoder
from yolox_trt.ros.messages.images import frame_from_image, frame_metadata


@dataclass(frozen=True)
class Transport:
    """One way of sending images.

    Attributes:
        name: value of the parameter `transport`.
        message_type: as a bag and the ROS graph name it.
        suffix: what image_transport appends to the raw images' topic.
        video: whether a message needs those before it.
    """

    name: str
    message_type: str
    suffix: str = ""
    video: bool = False

    @property
    def encoded(self) -> bool:
        """Whether its images are to be decoded."""
        return self.name != "raw"

    def topic(self, image_topic: str) -> str:
        """Return the topic of the images that `image_topic` names."""
        return image_topic + self.suffix

    def message_class(self) -> Any:
        """Import the message's Python class.

        Raises:
            MissingDependencyError: its package is not installed.
        """
        package, _, name = self.message_type.partition("/msg/")
        purpose = f"the parameter `transport` = {self.name}"
        return getattr(require(f"{package}.msg", purpose=purpose), name)


TRANSPORTS: dict[str, Transport] = {
    each.name: each
    for each in (
        Transport("raw", "sensor_msgs/msg/Image"),
        Transport("compressed", "sensor_msgs/msg/CompressedImage", "/compressed"),
        Transport("ffmpeg", "ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "/ffmpeg", video=True),
        Transport("foxglove", "foxglove_msgs/msg/CompressedVideo", "/foxglove", video=True),
    )
}
#: Message type -> the transport that it is of.
BY_TYPE: dict[str, Transport] = {each.message_type: each for each in TRANSPORTS.values()}


def transport_of_topic(topic: str, message_type: str) -> tuple[str, Transport]:
    """Return (the raw images' topic, the transport) of a topic that carries images.

    Raises:
        ConfigurationError: no image's type.
    """
    transport = BY_TYPE.get(message_type)
    if transport is None:
        raise ConfigurationError.unknown("type of images", message_type, BY_TYPE)
    return topic.removesuffix(transport.suffix), transport


class FrameReader:
    """Makes Frames of one camera's messages, in the order of their arrival.

    Args:
        transport: how they come.
        stream_id: the Stream that the Frames belong to.
        limits: how large an image may be; ImageLimits.of_environment() by default.
        options: what decodes compressed images, and how.
        say: takes a line about a decoder that is not there; a log by default.
        input_size: (height, width) of the network's input; None to decode at full size.
        device: the GPU whose decoders are used, that of the detectors.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        stream_id: str = "",
        limits: ImageLimits | None = None,
        options: DecoderOptions | None = None,
        say: Callable[[str], object] | None = None,
        input_size: tuple[int, int] | None = None,
        device: Device | None = None,
    ) -> None:
        self.transport = transport
        self._stream_id = stream_id
        self._limits = limits or ImageLimits.of_environment()
        self._options = options or DecoderOptions()
        self._say = say
        self._input_size = input_size
        self._device = device
        self._decoder: ImageDecoder | None = None
        self._codec = ""
        self._given_up = 0
        self._is_raw = not transport.encoded

    def read(self, message: Any, received_ns: int = 0) -> Sequence[Frame]:
        """Return the Frames that are ready with a message: one, but for video.

        Args:
            message: of the transport's type; raw images must stay unchanged while their Frame is
                in use.
            received_ns: time.monotonic_ns() of arrival.

        Raises:
            FrameError: it cannot be read; the next one may.
        """
        if self._is_raw:
            frame = frame_from_image(
                message,
                stream_id=self._stream_id,
                received_ns=received_ns,
                limits=self._limits,
            )
            return (frame,)
        try:
            packet = self._packet(message, received_ns)
            if packet.codec != self._codec:
                self.close()
                self._decoder = create_decoder(
                    packet.codec,
                    self._options,
                    self._limits,
                    self._say,
                    device=self._device,
                    input_size=self._input_size,
                )
                self._codec = packet.codec
            assert self._decoder is not None
            return self._decoder.decode(packet)
        except FrameError as error:
            self.lost()  # a packet of a video that was refused is one that is missing
            found, expected, fix = error.parts
            raise type(error)(
                (f"{self.transport.name} image: ", *parts_of(found)),
                expected=expected,
                fix=fix or "check the camera driver or the compressed transport's publisher",
            ) from error

    def flush(self) -> Sequence[Frame]:
        """Return the Frames that are still held back, at the end of all messages."""
        return () if self._decoder is None else self._decoder.flush()

    def lost(self) -> None:
        """Take note that messages were lost."""
        if self._decoder is not None:
            self._decoder.lost()

    def given_up(self) -> int:
        """Return how many messages were read, and give no Frame, since it was last asked."""
        count, self._given_up = self._given_up, 0
        return count + (0 if self._decoder is None else self._decoder.given_up())

    def close(self) -> None:
        """Let go of the decoder; given_up() then tells of what it held back."""
        decoder, self._decoder, self._codec = self._decoder, None, ""
        if decoder is not None:
            decoder.close()
            self._given_up += decoder.given_up()

    def _packet(self, message: Any, received_ns: int) -> Packet:
        if self.transport.name == "foxglove":
            header = SimpleNamespace(stamp=message.timestamp, frame_id=message.frame_id)
            codec = codec_of(message.format[: LIMITS.name_characters])
        else:
            header = message.header
            if self.transport.name == "ffmpeg":
                named = message.encoding[: LIMITS.name_characters].split(";")[0]
                # As its encoder is called, in the packets of older publishers.
                codec = codec_of(_ENCODERS.get(named, named))
                self._limits.check(size=0, height=message.height, width=message.width)
            else:
                codec = STILL
        metadata = frame_metadata(header, self._stream_id, received_ns)
        mosaic = ""
        if codec == STILL:
            form = message.format[: LIMITS.name_characters].split(";")[0].strip().lower()
            mosaic = mosaic_of(form)
        return Packet(codec, message.data, metadata, mosaic)


#: FFmpeg's encoders -> what they write.
_ENCODERS = {
    **{"libx264": "h264", "libx265": "hevc"},
    **{
        f"{codec}_{device}": codec
        for codec in ("h264", "hevc")
        for device in ("amf", "nvenc", "nvmpi", "omx", "qsv", "v4l2m2m", "vaapi", "videotoolbox")
    },
}
