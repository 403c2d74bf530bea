# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The size of an encoded image, before anything is decoded."""

from __future__ import annotations

import resource
import struct
import zlib

import cv2
import numpy as np
import pytest

from yolox_trt.core.errors import FrameError
from yolox_trt.core.image_header import image_size, is_whole_jpeg
from yolox_trt.core.images import decode_image
from yolox_trt.core.limits import LIMITS

PICTURE = np.random.default_rng(3).integers(0, 256, (37, 53, 3)).astype(np.uint8)
WRITTEN = {
    "baseline": (".jpg", ()),
    "progressive": (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    "png": (".png", ()),
    "webp": (".webp", (cv2.IMWRITE_WEBP_QUALITY, 80)),
    "lossless webp": (".webp", (cv2.IMWRITE_WEBP_QUALITY, 101)),
    "bmp": (".bmp", ()),
    "tiff": (".tiff", ()),
    "ppm": (".ppm", ()),
}


def written(name: str, picture: np.ndarray = PICTURE) -> bytes:
    suffix, options = WRITTEN[name]
    return bytes(cv2.imencode(suffix, picture, options)[1].tobytes())


def png_chunk(name: bytes, data: bytes, length: int | None = None) -> bytes:
    length = len(data) if length is None else length
    return struct.pack(">I", length) + name + data + struct.pack(">I", zlib.crc32(name + data))


PNG = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 53, 37, 8, 2, 0, 0, 0))


def test_a_chunk_of_a_png_that_is_not_there_takes_no_memory() -> None:
    """OpenCV would take 4 GB for it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FrameError, match="cannot be decoded"):
        decode_image(PNG + png_chunk(b"IDAT", bytes(20), length=0xFF00009B))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000  # KiB


@pytest.mark.parametrize("name", WRITTEN)
def test_the_size_is_that_of_the_decoded_image(name: str) -> None:
    data = written(name)
    assert image_size(memoryview(data)) == (37, 53)
    assert decode_image(data).shape == (37, 53, 3)
    for length in range(0, len(data), len(data) // 15):
        with pytest.raises(FrameError, match="cannot be decoded"):
            decode_image(data[:length])


def test_forms_that_opencv_does_not_write() -> None:
    extended = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + bytes((52, 0, 0, 36, 0, 0))
    assert image_size(memoryview(extended)) == (37, 53)
    top_down = b"BM" + bytes(12) + struct.pack("<Iii", 40, 53, -37)
    assert image_size(memoryview(top_down)) == (37, 53)
    old = b"BM" + bytes(12) + struct.pack("<IHH", 12, 53, 37)
    assert image_size(memoryview(old)) == (37, 53)
    assert image_size(memoryview(b"P4 # a comment\n# 9 9\n53\t37\n")) == (37, 53)
    big_endian = b"MM\0*\0\0\0\x08\0\x02" + b"".join(
        struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in ((256, 53), (257, 37))
    )
    assert image_size(memoryview(big_endian)) == (37, 53)
    # Fill bytes, a marker without length and a thumbnail in front of the frame header.
    baseline = written("baseline")
    thumbnail = written("baseline", PICTURE[:8, :8])
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    data = baseline[:2] + b"\xff\xff\xff\x01" + segment + baseline[2:]
    assert image_size(memoryview(data)) == (37, 53)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xd8\xff\xda\0\x02", "no frame header"),
        (b"\xff\xd8" + b"\xff" * (16 << 20), "no frame header"),  # at once: not in square time
        (b"\xff\xd8" + b"\xff\xfe\0\x02" * (LIMITS.jpeg_segments + 1), "no frame header"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "no IHDR"),
        (PNG + png_chunk(b"IDAT", b"", length=0xFF00009B), "4278190235 bytes, which are not there"),
        (PNG + png_chunk(b"acTL", struct.pack(">II", 2, 0)), "an animated PNG that cannot"),
        (PNG + png_chunk(b"tEXt", b"k\0v") * LIMITS.png_chunks, "more than 100000 chunks"),
        (b"BM" + bytes(12) + struct.pack("<Iii", 40, 0, 5), "size of 0x5"),
        (b"II*\0\xff\xff\xff\xff", "header is damaged"),
        (b"II*\0\x08\0\0\0" + struct.pack("<H", LIMITS.tiff_tags + 1), "1001 tags; 1000 at most"),
        (b"P5 " + b"#" * 5000, "no size"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "expected a whole JPEG, PNG"),
    ],
)
def test_damaged_and_foreign_headers_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match="cannot be decoded") as error:
        image_size(memoryview(data))
    assert reason in str(error.value)


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    data = written("progressive")
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(FrameError, match=f"scans; {LIMITS.jpeg_scans} at most"):
        image_size(memoryview(data[:-2] + scan * LIMITS.jpeg_scans + b"\xff\xd9"))


def test_a_baseline_jpeg_of_very_many_scans_is_refused() -> None:
    data = written("baseline")
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    assert data[frame + 9] == 3  # components
    one = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"  # a scan of the first of them
    assert image_size(memoryview(data[:scan] + one)) == (37, 53)
    with pytest.raises(FrameError, match=f"scans; {LIMITS.jpeg_scans} at most"):
        image_size(memoryview(data[:scan] + one * (LIMITS.jpeg_scans + 1)))


def test_what_a_decoder_reads_otherwise_hides_no_size() -> None:
    """Two sizes in one header: that of the decoder counts."""
    pixels = bytes(37 * 53)
    graymap = b"P5 #\r53 37\n 1 1 255\n" + pixels
    twice = b"II*\0\x08\0\0\0\x04\0" + b"".join(
        struct.pack("<HHIHH", tag, 3, 1, value, 0)
        for tag, value in ((256, 53), (256, 1), (257, 37), (257, 1))
    )
    assert image_size(memoryview(graymap)) == (37, 53)
    assert decode_image(graymap, mono=True).shape == (37, 53)
    assert image_size(memoryview(twice)) == (37, 53)


@pytest.mark.parametrize(("side", "taken"), [(64, True), (1024, True), (16000, False)])
def test_a_small_tiff_has_no_large_tiles(side: int, taken: bool) -> None:
    tags = ((256, 53), (257, 37), (322, side), (323, 64))
    data = b"II*\0\x08\0\0\0\x04\0" + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags
    )
    if taken:
        assert image_size(memoryview(data)) == (37, 53)
        return
    with pytest.raises(FrameError, match="tiles of 16000x64"):
        image_size(memoryview(data))


@pytest.mark.parametrize("kind", ["baseline", "progressive"])
def test_a_jpeg_that_was_cut_off_is_known(kind: str) -> None:
    suffix, options = WRITTEN[kind]
    data = cv2.imencode(suffix, PICTURE, options)[1].tobytes()
    assert is_whole_jpeg(data) and is_whole_jpeg(data + bytes(7))  # cameras fill up
    assert not any(is_whole_jpeg(data[:end]) for end in range(len(data) // 3, len(data) - 1))
    # A whole thumbnail in the header does not make the image whole.
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data
    assert is_whole_jpeg(data[:2] + thumbnail + data[2:])
    assert not is_whole_jpeg(data[:2] + thumbnail + data[2 : len(data) // 2])
