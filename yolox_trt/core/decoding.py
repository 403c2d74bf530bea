# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""From encoded pictures to Frames: one interface for still images and video, CPU and GPU.

An ImageDecoder belongs to one camera. StillDecoder and VideoDecoder(PyAvBackend) are those of the
CPU; `detectors.decoders.create_decoder` picks one, or one of the GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from yolox_trt.core import encodings
from yolox_trt.core.errors import FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.image_header import image_size, is_jpeg
from yolox_trt.core.images import decode_image
from yolox_trt.core.limits import ImageLimits
from yolox_trt.core.video_header import CODECS, PacketHeader, VideoHeader

#: The one `Packet.codec` that is no video: JPEG, PNG and the like, told apart by their headers.
STILL = "image"
#: Packets that a decoder may hold back beyond what it held back at the last keyframe.
_PATIENCE = 2
#: Packets that a decoder may hold back after a keyframe: pictures that may wait for their turn.
_DEEPEST = 17


@dataclass(frozen=True)
class Packet:
    """One message's encoded bytes.

    Attributes:
        codec: STILL, "h264" or "hevc".
        data: the bytes: a whole image, or the NAL units of one picture.
        metadata: the attributes of the Frame beside its pixels.
        mosaic: encoding of a Bayer mosaic that was compressed as a grey image, "" for others.
    """

    codec: str
    data: Any
    metadata: Mapping[str, Any] = field(default_factory=dict)
    mosaic: str = ""


class ImageDecoder(Protocol):
    """Decodes one camera's packets, in the order of their arrival.

    Attributes:
        name: what decodes, for a log.
        ordered: whether each packet is needed for the next one, so that none may be left out.
    """

    name: str
    ordered: bool

    def decode(self, packet: Packet) -> Sequence[Frame]:
        """Return the Frames that are ready: mostly one.

        Raises:
            FrameError: the packet is damaged, too large, or cannot be decoded without others.
        """

    def flush(self) -> Sequence[Frame]:
        """Return the Frames that are still held back, at the end of all packets."""

    def lost(self) -> None:
        """Take note that packets were lost: what depends on them must not come out."""

    def given_up(self) -> int:
        """Return how many packets were taken, and give no Frame, since it was last asked."""

    def close(self) -> None:
        """Let go of what is held."""


class StillDecoder:
    """JPEG, PNG and the like, by OpenCV on the CPU.

    Args:
        limits: how large an image may be.
        input_size: (height, width) of the network's input; None to decode at full size.
        max_reduction: 2, 4 or 8 to decode a JPEG at that part of its size at least, as long as it
            is no smaller than the part of the input that it fills.
    """

    name = "OpenCV"
    ordered = False

    def __init__(
        self,
        limits: ImageLimits | None = None,
        input_size: tuple[int, int] | None = None,
        max_reduction: int = 1,
    ) -> None:
        self._limits = limits or ImageLimits.of_environment()
        self._input_size = input_size
        self._max_reduction = max_reduction

    def decode(self, packet: Packet) -> Sequence[Frame]:
        """Return the one Frame: bgr8, or the mosaic."""
        if self._max_reduction > 1 and self._input_size is not None and not packet.mosaic:
            view = memoryview(packet.data).cast("B")
            self._limits.check(size=view.nbytes)
            if is_jpeg(view):
                return (self._reduced(packet, image_size(view), self._input_size),)
        pixels = decode_image(
            packet.data, self._limits, mono=bool(packet.mosaic), ignore_orientation=True
        )
        return (Frame.from_array(pixels, packet.mosaic or "bgr8", **packet.metadata),)

    def _reduced(self, packet: Packet, size: tuple[int, int], input_size: tuple[int, int]) -> Frame:
        reduction = jpeg_reduction(size, input_size, self._max_reduction)
        pixels = decode_image(
            packet.data, self._limits, ignore_orientation=True, reduction=reduction
        )
        frame = Frame.from_array(pixels, **packet.metadata)
        return frame if reduction == 1 else replace(frame, reduction=reduction, full_size=size)

    def flush(self) -> Sequence[Frame]:
        """Return nothing: no image is held back."""
        return ()

    def lost(self) -> None:
        """Do nothing: each image stands for itself."""

    def given_up(self) -> int:
        """Return 0."""
        return 0

    def close(self) -> None:
        """Do nothing."""


class VideoBackend(Protocol):
    """What decodes a video's packets, without a thought for lost ones."""

    name: str

    def decode(self, data: bytes, number: int) -> Sequence[tuple[int, Frame]]:
        """Take a packet and its number; return the pictures that are ready, with their numbers.

        Raises:
            FrameError: it cannot be decoded.
        """

    def flush(self) -> Sequence[tuple[int, Frame]]:
        """Return the pictures that are held back; reset() or close() follows."""

    def reset(self) -> None:
        """Forget all packets; the next one is a keyframe."""

    def close(self) -> None:
        """Let go of what is held."""


class VideoDecoder:
    """H.264 or HEVC: waits for a keyframe, and again after a loss or an error.

    A picture that refers to one that is missing would be wrong where something moves, which a
    detector takes for what it sees. So none comes out: H.264 numbers its pictures, and a decoder
    of HEVC holds such pictures back.

    Args:
        codec: "h264" or "hevc".
        backend: decodes the packets.
        limits: how large a picture may be.
    """

    ordered = True

    def __init__(
        self, codec: str, backend: VideoBackend, limits: ImageLimits | None = None
    ) -> None:
        self.name = backend.name
        self._codec = codec
        self._backend = backend
        self._limits = limits or ImageLimits.of_environment()
        self._header = VideoHeader(codec)
        self._waiting = "no keyframe has come yet"
        self._size: tuple[int, int] | None = None
        self._last: int | None = None
        self._sequence = b""
        self._number = 0
        self._pending: dict[int, Mapping[str, Any]] = {}
        self._allowed: int | None = None
        self._given_up = 0

    def decode(self, packet: Packet) -> Sequence[Frame]:
        """Return the pictures that are ready, in the order in which they are shown."""
        data = bytes(packet.data)
        self._limits.check(size=len(data))
        try:
            header = self._header.read(data)
            if header.size is not None:
                self._limits.check(size=len(data), height=header.size[0], width=header.size[1])
                self._size = header.size
        except FrameError:
            self._wait("a damaged packet came before it")
            raise
        ended = self._end_sequence(header)
        self._check_order(header)
        self._number += 1
        self._pending[self._number] = packet.metadata
        try:
            pictures = self._backend.decode(data, self._number)
        except FrameError:
            del self._pending[self._number]  # told by the error
            self._wait("a packet before it could not be decoded")
            self._given_up += len(ended)
            raise
        frames = self._named(pictures)
        self._check_delay(bool(frames))
        return [*ended, *frames]

    def flush(self) -> Sequence[Frame]:
        """Return the pictures that waited for later ones; a keyframe must follow."""
        frames = self._named(self._backend.flush())
        self._wait("the stream was at its end")
        return frames

    def lost(self) -> None:
        """Wait for the next keyframe."""
        if not self._waiting:
            self._wait("packets before it were lost")

    def given_up(self) -> int:
        """Return how many packets gave no Frame, as one before them was lost or damaged."""
        count, self._given_up = self._given_up, 0
        return count

    def close(self) -> None:
        """Let go of the backend; the pictures that are still held back are given up."""
        self._given_up += len(self._pending)
        self._pending.clear()
        self._backend.close()

    def _named(self, pictures: Sequence[tuple[int, Frame]]) -> Sequence[Frame]:
        """Give the pictures the metadata of their packets."""
        return [
            replace(frame, **self._pending.pop(number))
            for number, frame in pictures
            if number in self._pending
        ]

    def _wait(self, why: str) -> None:
        self._waiting = why
        self._given_up += len(self._pending)
        self._pending.clear()
        self._allowed = self._last = None
        self._backend.reset()

    def _end_sequence(self, header: PacketHeader) -> Sequence[Frame]:
        """Return the pictures that wait where a keyframe begins another sequence.

        The decoder begins anew for it: FFmpeg's goes on to hold back as many pictures as the one
        before it asked for, and one damaged SPS would delay all that comes.
        """
        if not header.sequence:
            return ()
        before, self._sequence = self._sequence, header.sequence
        if not header.key or before in (b"", header.sequence):
            return ()
        try:
            return self.flush()
        except FrameError:
            self._wait("another stream began")
            return ()

    def _check_order(self, header: PacketHeader) -> None:
        """Refuse a packet whose pictures could be wrong."""
        last, number = self._last, header.number
        if self._waiting and header.key and self._size is not None:
            self._waiting = ""
        elif not (self._waiting or header.key or last is None or number is None) and (
            number != (last + 1) % header.frames and (number != last or header.whole)
        ):
            # One that came twice would refer to itself, and all that follow to that.
            self._wait(f"packets before it were lost or repeated: picture {last}, then {number}")
        if header.key:  # its number is 0 (7.4.3); that of a keyframe before the first SPS is unread
            self._last = 0 if header.frames > 1 else None
        elif number is not None and header.reference:
            self._last = number
        if self._waiting:
            self._last = None
            what = "a keyframe without an SPS" if header.key else "a packet"
            raise FrameError(
                f"{what} of {self._codec} that cannot be decoded, as {self._waiting}",
                expected="a keyframe with its headers (SPS, PPS), and each packet after it",
                fix="wait for the next keyframe, or have the encoder send them more often; "
                "against lost packets: a reliable publisher, and `qos_reliability` reliable",
            )

    def _check_delay(self, came: bool) -> None:
        """Wait for a keyframe where the decoder holds back more than it did at the last one."""
        held = len(self._pending)
        if came and self._allowed is None:
            self._allowed = held + _PATIENCE
        if held > (_DEEPEST if self._allowed is None else self._allowed):
            self._given_up -= 1  # this packet, which the error tells
            self._wait("packets before it were lost")
            raise FrameError(
                f"{held} packets of {self._codec} without a picture from {self.name}",
                expected="a picture for each packet: those before it were lost, or are damaged",
                fix="wait for the next keyframe; against lost packets: a reliable publisher, and "
                "`qos_reliability` reliable",
            )


def jpeg_reduction(size: tuple[int, int], input_size: tuple[int, int], most: int) -> int:
    """Return the largest of 1, 2, 4 and 8 by which an image may be decoded smaller.

    Args:
        size: (height, width) of the image.
        input_size: (height, width) of the network's input: smaller than what is resized to it
            (Letterbox, aspect kept) the image must not become.
        most: the largest that is allowed.

    Examples:
        >>> jpeg_reduction((1280, 1920), (608, 960), 8)
        2
    """
    (height, width), (rows, columns) = size, input_size
    reduction = 1
    # The scale is that of the axis which fills the input: the smaller one.
    while 2 * reduction <= most and (
        height >= 2 * reduction * rows or width >= 2 * reduction * columns
    ):
        reduction *= 2
    return reduction


def codec_of(name: str) -> str:
    """Return "h264" or "hevc" for a message's name of a codec.

    Raises:
        FrameError: another codec.
    """
    codec = CODECS.get(name.lower())
    if codec is None:
        raise FrameError.unknown(
            "video codec", name, ("h264", "hevc (h265)"), fix="set the encoder to one of them"
        )
    return codec


def mosaic_of(encoding: str) -> str:
    """Return the Bayer encoding that a format names, "" for another one."""
    known = encoding.startswith("bayer_") and encoding in encodings.ENCODINGS
    return encoding if known else ""
