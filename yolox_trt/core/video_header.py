# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What an H.264 or HEVC packet says of itself: keyframe or not, size, place in its sequence.

Read before anything is decoded. The packets are in the byte stream format (ITU-T H.264 and H.265,
annex B): NAL units behind start codes 00 00 01.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from yolox_trt.core.errors import FrameError
from yolox_trt.core.limits import LIMITS

#: Names of the codecs as FFmpeg has them, and as Foxglove and others do.
CODECS: dict[str, str] = {"h264": "h264", "avc": "h264", "h265": "hevc", "hevc": "hevc"}

_START = b"\x00\x00\x01"
#: profile_idc of H.264 whose SPS tells chroma format and bit depth (7.3.2.1.1).
_CHROMA_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_H264_SLICE, _H264_KEY, _H264_SPS = 1, 5, 7
_HEVC_FIRST_KEY, _HEVC_LAST_KEY, _HEVC_SPS = 16, 21, 33
#: Samples a chroma sample stands for, (across, down), by chroma_format_idc (table 6-1 of both).
_CHROMA = {0: (1, 1), 1: (2, 2), 2: (2, 1), 3: (1, 1)}


@dataclass(frozen=True)
class PacketHeader:
    """What a packet says of itself.

    Attributes:
        key: whether decoding may begin here: an IDR picture of H.264, an IRAP picture of HEVC.
        size: (height, width) in pixels of its SPS, None where the packet has none.
        frames: how many values frame_num of H.264 has; 0 where the packet does not tell.
        number: frame_num of its picture; None with HEVC, and in a packet without a picture.
        reference: whether later pictures may refer to it.
        whole: whether an H.264 picture begins here that is no field: no other one that is referred
            to has its number.
        sequence: its SPS, b"" where it has none.
    """

    key: bool = False
    size: tuple[int, int] | None = None
    frames: int = 0
    number: int | None = None
    reference: bool = True
    whole: bool = False
    sequence: bytes = b""


class VideoHeader:
    """Reads the packets of one stream: H.264's slices cannot be read without the last SPS.

    Args:
        codec: "h264" or "hevc".
    """

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._number_bits = 0
        self._separate_planes = False
        self._fields = False

    def read(self, data: bytes | memoryview) -> PacketHeader:
        """Read a packet.

        Raises:
            FrameError: no start code, more NAL units than LIMITS allows, or a damaged SPS.
        """
        packet = bytes(data)
        with FrameError.instead_of(
            (ValueError, LookupError),
            f"a packet of {len(packet)} bytes that is no {self._codec}",
            expected="whole NAL units behind start codes (annex B)",
            fix="set the encoder to the byte stream format, without a container",
        ):
            return self._h264(packet) if self._codec == "h264" else self._hevc(packet)

    def _h264(self, packet: bytes) -> PacketHeader:
        size = number = None
        key, reference, whole, sequence = False, True, False, b""
        for start, end in _units(packet):
            kind = packet[start] & 0x1F
            if kind == _H264_SPS:
                size = self._h264_size(_Bits(packet[start + 1 : end]))
                sequence += packet[start:end]
            elif kind in (_H264_SLICE, _H264_KEY) and number is None:
                key, reference = kind == _H264_KEY, bool(packet[start] >> 5 & 3)
                number, whole = self._h264_number(_Bits(packet[start + 1 : min(end, start + 33)]))
        frames = 1 << self._number_bits
        return PacketHeader(key, size, frames, number, reference, whole, sequence)

    def _h264_number(self, bits: _Bits) -> tuple[int | None, bool]:
        """7.3.3, slice_header, up to field_pic_flag; return frame_num, and PacketHeader.whole."""
        if not self._number_bits:  # no SPS yet
            return None, False
        first = bits.unsigned()  # first_mb_in_slice
        bits.unsigned()  # slice_type
        bits.unsigned()  # pic_parameter_set_id
        bits.take(2 * self._separate_planes)
        number = bits.take(self._number_bits)
        return number, not first and not (self._fields and bits.take(1))

    def _h264_size(self, bits: _Bits) -> tuple[int, int]:
        """7.3.2.1.1, seq_parameter_set_data, up to the cropping."""
        profile = bits.take(8)
        bits.take(16)  # constraints and level
        bits.unsigned()  # seq_parameter_set_id
        chroma, separate = 1, 0
        if profile in _CHROMA_PROFILES:
            chroma = bits.unsigned()
            separate = bits.take(1) if chroma == 3 else 0
            bits.unsigned()  # bit_depth_luma_minus8
            bits.unsigned()
            bits.take(1)  # qpprime_y_zero_transform_bypass_flag
            if bits.take(1):
                for index in range(8 if chroma != 3 else 12):
                    if bits.take(1):
                        bits.skip_scaling_list(16 if index < 6 else 64)
        number_bits = bits.unsigned() + 4
        if number_bits > 16:
            raise ValueError(f"frame_num of {number_bits} bits")
        order = bits.unsigned()  # pic_order_cnt_type
        if order == 0:
            bits.unsigned()
        elif order == 1:
            bits.take(1)
            bits.unsigned()
            bits.unsigned()
            for _ in range(min(bits.unsigned(), 255)):
                bits.unsigned()
        bits.unsigned()  # max_num_ref_frames
        gaps = bits.take(1)  # gaps_in_frame_num_value_allowed_flag
        width = 16 * (bits.unsigned() + 1)
        rows = 16 * (bits.unsigned() + 1)
        whole_frames = bits.take(1)  # frame_mbs_only_flag
        if not whole_frames:
            bits.take(1)
        bits.take(1)
        across, down = _CHROMA[chroma]
        height = rows * (2 - whole_frames)
        size = bits.cropped(height, width, down * (2 - whole_frames), across)
        # Temporal layers that were taken out leave gaps on purpose: numbers then tell nothing.
        self._number_bits = 0 if gaps else number_bits
        self._separate_planes, self._fields = bool(separate), not whole_frames
        return size

    def _hevc(self, packet: bytes) -> PacketHeader:
        size, key, picture, sequence = None, False, False, b""
        for start, end in _units(packet):
            kind = packet[start] >> 1 & 0x3F
            if kind == _HEVC_SPS:
                size = _hevc_size(_Bits(packet[start + 2 : end]))
                sequence += packet[start:end]
            elif kind < 32 and not picture:
                picture, key = True, _HEVC_FIRST_KEY <= kind <= _HEVC_LAST_KEY
        return PacketHeader(key, size, sequence=sequence)


def _hevc_size(bits: _Bits) -> tuple[int, int]:
    """7.3.2.2 of H.265, seq_parameter_set_rbsp, up to the conformance window."""
    bits.take(4)  # sps_video_parameter_set_id
    layers = bits.take(3)  # sps_max_sub_layers_minus1
    bits.take(1)
    bits.take(96)  # profile_tier_level: 88 bits of the profile, 8 of the level
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for profile, level in present:
        bits.take(88 * profile + 8 * level)
    bits.unsigned()  # sps_seq_parameter_set_id
    chroma = bits.unsigned()
    if chroma == 3:
        bits.take(1)
    width, height = bits.unsigned(), bits.unsigned()
    across, down = _CHROMA[chroma]
    return bits.cropped(height, width, down, across)


def _units(packet: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each NAL unit lies, without its start code."""
    found = packet.find(_START)
    if found < 0 or packet[:found].strip(b"\0"):
        raise ValueError("it does not begin with a start code")
    for _ in range(LIMITS.video_units):
        start = found + len(_START)
        found = packet.find(_START, start)
        end = len(packet) if found < 0 else found
        if start < end:
            yield start, end
        if found < 0:
            return
    raise ValueError(f"more than {LIMITS.video_units} NAL units")


class _Bits:
    """Bits of a NAL unit, whose emulation prevention bytes are taken out (7.4.1.1).

    Raises ValueError where they end too early.
    """

    def __init__(self, unit: bytes) -> None:
        data = unit[: LIMITS.video_header_bytes].replace(b"\x00\x00\x03", b"\x00\x00")
        self._length = 8 * len(data)
        self._value = int.from_bytes(data, "big")
        self._at = 0

    def take(self, count: int) -> int:
        """Read an unsigned number of `count` bits."""
        self._at += count
        if self._at > self._length:
            raise ValueError("a header that is cut off")
        return self._value >> (self._length - self._at) & ((1 << count) - 1)

    def unsigned(self) -> int:
        """Read ue(v) (9.1). The code of a signed number has the same length."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 31:
                raise ValueError("a damaged number")
        return (1 << zeros) - 1 + self.take(zeros)

    def skip_scaling_list(self, count: int) -> None:
        """7.3.2.1.1.1: what follows depends on the values."""
        last = following = 8
        for _ in range(count):
            if following:
                code = self.unsigned()
                delta = (code + 1) // 2 if code % 2 else -(code // 2)
                following = (last + delta) % 256
            last = following or last

    def cropped(self, height: int, width: int, down: int, across: int) -> tuple[int, int]:
        """Read the cropping, in units of `down` rows and `across` columns; return the size."""
        if self.take(1):
            left, right, top, bottom = (self.unsigned() for _ in range(4))
            height, width = height - down * (top + bottom), width - across * (left + right)
        if height < 1 or width < 1:
            raise ValueError(f"a size of {width}x{height}")
        return height, width
