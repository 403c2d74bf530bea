# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The size that an encoded image claims, read from its header: known before anything is decoded."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from yolox_trt.core.errors import FrameError
from yolox_trt.core.limits import LIMITS

#: The formats whose headers are read here; nothing else is given to OpenCV's decoders.
FORMATS = "JPEG, PNG, WebP, BMP, TIFF, PGM or PPM"

# As libjpeg finds the next marker: it skips what is none, and fill bytes (each 0xff but the last).
_JPEG_MARKER = re.compile(rb"\xff([^\xff\x00])", re.DOTALL)
#: Bytes in which the next marker must come; a segment is no longer.
_JPEG_GAP = 1 << 16
#: Side of a tile that may be larger than its image.
_TIFF_TILE = 1024
#: Chunks of an animated PNG (PNG, third edition, 11.3.6).
_PNG_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_JPEG_SCAN = re.compile(rb"\xff\xda")
# For OpenCV a carriage return ends a comment, too.
_BLANK = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PNM = re.compile(rb"P[1-6]" + _BLANK + rb"(\d{1,9})" + _BLANK + rb"(\d{1,9})\s")
_PNM_LONGEST = 4096


def image_size(data: memoryview) -> tuple[int, int]:
    """Return (height, width) in pixels, as the header says.

    Args:
        data: the encoded image, single bytes.

    Raises:
        FrameError: none of FORMATS, or a header that is damaged or cut off.
    """
    with FrameError.instead_of(
        (LookupError, ValueError, struct.error),
        "an image that cannot be decoded, as its header is damaged",
        expected=f"a whole {FORMATS} image",
    ):
        for magic, read in _READERS:
            if magic.match(data):
                height, width = read(data)
                if height < 1 or width < 1:
                    raise ValueError(f"a size of {width}x{height}")
                return height, width
    found = f"{data.nbytes} bytes that cannot be decoded and start with {bytes(data[:4])!r}"
    raise FrameError(found, expected=f"a whole {FORMATS} image")


def is_jpeg(data: memoryview) -> bool:
    """Tell whether an encoded image begins as a JPEG does."""
    return bytes(data[:2]) == b"\xff\xd8"


def is_whole_jpeg(data: bytes) -> bool:
    """Tell whether a JPEG's last scan is ended, as it is not where an image was cut off.

    Neither marker occurs within a scan's data (ITU-T T.81, B.1.1.5), and a thumbnail in the header
    comes before the image's own scan.
    """
    end = data.rfind(b"\xff\xd9")  # of a whole image the search begins at its last bytes
    return end >= 0 and data.find(b"\xff\xda", end) < 0


def _jpeg(data: memoryview) -> tuple[int, int]:
    """ITU-T T.81, annex B: the frame header, and the first scan's.

    libjpeg decodes each further scan of a progressive image, and of one whose first scan has not
    all components.
    """
    at, size, components, progressive = 2, None, 0, False
    for _ in range(LIMITS.jpeg_segments):
        found = _JPEG_MARKER.search(data, at, at + _JPEG_GAP)
        if found is None:
            break
        at, marker = found.end(), found[1][0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            height, width, components = struct.unpack_from(">HHB", data, at + 3)
            size, progressive = (height, width), marker & 3 == 2
        elif marker == 0xDA and size is not None:
            if progressive or data[at + 2] < components:
                _count_scans(data)
            return size
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # no length follows
            continue
        if marker in (0xD8, 0xD9, 0xDA):  # another image, its end, or pixels
            break
        at += struct.unpack_from(">H", data, at)[0]
    raise ValueError("no frame header, or no scan")


def _count_scans(data: memoryview) -> None:
    scans = sum(1 for _ in _JPEG_SCAN.finditer(data))
    if scans > LIMITS.jpeg_scans:
        raise ValueError(f"{scans} scans; {LIMITS.jpeg_scans} at most")


def _png(data: memoryview) -> tuple[int, int]:
    """RFC 2083, section 3: the first chunk; and that each chunk ends within the image.

    OpenCV takes the memory for a chunk, up to 4 GB of it, before it looks whether it is there; and
    5.0 ends the process at some animations whose frames are not told in order.
    """
    name, width, height = struct.unpack_from(">4sII", data, 12)
    if name != b"IHDR":
        raise ValueError("no IHDR chunk")
    at = 8
    for _ in range(LIMITS.png_chunks):
        length, name = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if at > data.nbytes:
            raise ValueError(f"a chunk of {length} bytes, which are not there")
        if name in _PNG_ANIMATION:
            raise FrameError(
                "an animated PNG that cannot be decoded", expected="a still image", fix="convert it"
            )
        if name == b"IEND":
            return height, width
    raise ValueError(f"more than {LIMITS.png_chunks} chunks")


def _webp(data: memoryview) -> tuple[int, int]:
    """RFC 9649: the canvas, or the only frame."""
    chunk = bytes(data[12:16])
    if chunk == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return height, width


def _bmp(data: memoryview) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(height), width  # a negative height: rows from top to bottom


def _tiff(data: memoryview) -> tuple[int, int]:
    """TIFF 6.0: tags 256 and 257 of the first directory, and 322 and 323, the size of its tiles."""
    order = "<" if data[0] == ord("I") else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    sizes: dict[int, int] = {}
    if count > LIMITS.tiff_tags:
        raise ValueError(f"{count} tags; {LIMITS.tiff_tags} at most")
    for index in range(count):
        entry = at + 2 + 12 * index
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag in (256, 257, 322, 323):
            (value,) = struct.unpack_from(order + {3: "H", 4: "I"}[kind], data, entry + 8)
            sizes.setdefault(tag, value)  # libtiff, too, lets the first one count
    height, width = sizes[257], sizes[256]
    # A tile is decoded whole, however small the image is.
    if sizes.get(322, 0) > max(width, _TIFF_TILE) or sizes.get(323, 0) > max(height, _TIFF_TILE):
        raise ValueError(f"tiles of {sizes.get(322)}x{sizes.get(323)}")
    return height, width


def _pnm(data: memoryview) -> tuple[int, int]:
    found = _PNM.match(data[:_PNM_LONGEST])
    if found is None:
        raise ValueError("no size")
    return int(found[2]), int(found[1])


_READERS: tuple[tuple[re.Pattern[bytes], Callable[[memoryview], tuple[int, int]]], ...] = tuple(
    (re.compile(magic, re.DOTALL), read)
    for magic, read in (
        (rb"\xff\xd8", _jpeg),
        (rb"\x89PNG\r\n\x1a\n", _png),
        (rb"RIFF....WEBPVP8[ LX]", _webp),
        (rb"BM", _bmp),
        (rb"II\*\x00|MM\x00\*", _tiff),
        (rb"P[1-6]\s", _pnm),
    )
)
