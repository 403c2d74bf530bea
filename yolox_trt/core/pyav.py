# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""H.264 and HEVC on the CPU: FFmpeg's decoders, through PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yolox_trt.core.errors import FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.limits import ImageLimits
from yolox_trt.core.optional import require

# AVColorSpace and AVColorRange of FFmpeg (libavutil/pixfmt.h), which repeat ISO/IEC 23091-2.
_BT601 = (2, 5, 6)  # unspecified, BT.470 BG, SMPTE 170M
_FULL_RANGE = 2
#: AVColorSpace -> the constant of libswscale (swscale.h); others are taken for BT.601.
_SWSCALE = {1: 1, 7: 7, 9: 9, 10: 9}
_SWSCALE_BT601 = 5


class PyAvBackend:
    """FFmpeg's decoder of one stream; one thread, as each camera has its own.

    Pictures with 8 bits, 4:2:0 and BT.601's limited range (or none named) come out as nv12, which
    the preprocessing kernels read as it is. Others are converted to bgr8 by their own colour space.

    Args:
        codec: "h264" or "hevc".
        limits: how large a picture may be; FFmpeg, too, refuses a larger one.

    Raises:
        MissingDependencyError: PyAV is not installed.
    """

    name = "PyAV"

    def __init__(self, codec: str, limits: ImageLimits | None = None) -> None:
        self._av = require("av", purpose="decoding H.264 and HEVC on the CPU")
        self._codec = codec
        self._most = int((limits or ImageLimits.of_environment()).max_megapixels * 1e6)
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._context: Any = self._av.CodecContext.create(self._codec, "r")
        self._context.thread_count = 1
        # What the sizes in the headers are checked for, once more where they are acted on; FFmpeg
        # counts the padding of the rows, too.
        self._context.options = {"max_pixels": str(2 * self._most)}
        if self._codec == "hevc":  # it marks no damaged picture, but can refuse what it cannot read
            self._context.options |= {"err_detect": "explode"}

    def decode(self, data: bytes, number: int) -> Sequence[tuple[int, Frame]]:
        """Take a packet; return the pictures that are ready, without metadata."""
        packet = self._av.Packet(data)
        packet.pts = packet.dts = number
        return self._decode(packet, len(data))

    def flush(self) -> Sequence[tuple[int, Frame]]:
        """Return the pictures that wait for their turn."""
        return self._decode(None, 0)

    def _decode(self, packet: Any, size: int) -> Sequence[tuple[int, Frame]]:
        try:
            pictures = self._context.decode(packet)
        except (self._av.FFmpegError, ValueError, MemoryError) as error:
            raise FrameError(
                f"a packet of {size} bytes that FFmpeg cannot decode ({error})",
                expected=f"the NAL units of one picture of {self._codec}",
                fix="check the encoder",
            ) from error
        if any(picture.is_corrupt for picture in pictures):
            raise FrameError(
                f"a damaged picture of {self._codec}: FFmpeg has filled up what is missing of it",
                expected=f"whole pictures of {self._codec}",
                fix="check the encoder, and what the packets went through: a network that loses "
                "packets, or a buffer that is too small",
            )
        return [(picture.pts, _frame_of(picture)) for picture in pictures]

    def close(self) -> None:
        """Let go of the decoder."""
        self._context = None


def _frame_of(picture: Any) -> Frame:
    """Copy a picture of PyAV into a Frame."""
    height, width = picture.height, picture.width
    space, full = int(picture.colorspace), int(picture.color_range) == _FULL_RANGE
    fits = picture.format.name in ("yuv420p", "nv12") and not (height % 2 or width % 2)
    if fits and space in _BT601 and not full:
        pixels = picture.to_ndarray(format="nv12")
        return Frame.view(pixels.reshape(-1), height=height, width=width, encoding="nv12")
    converted = picture.reformat(
        format="bgr24",
        src_colorspace=_SWSCALE.get(space, _SWSCALE_BT601),
        src_color_range=_FULL_RANGE if full else 1,
        dst_color_range=_FULL_RANGE,
    )
    return Frame.from_array(converted.to_ndarray(), "bgr8")
