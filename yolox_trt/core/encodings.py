# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Image encodings: names, memory layout and the checks of a buffer against them.

Names follow sensor_msgs/image_encodings.hpp (ROS 2); `nv12` follows Isaac ROS (height rows of
luma, then height / 2 rows of interleaved chroma, all `step` bytes apart).
"""

from __future__ import annotations

from dataclasses import dataclass

from yolox_trt.core.errors import FrameError


@dataclass(frozen=True)
class Encoding:
    """Memory layout of one encoding.

    Attributes:
        name: canonical name, used in Frame.encoding and by every kernel.
        bytes_per_pixel: bytes of one pixel in a row (nv12: of one luma sample).
        channels: interleaved samples a pixel in the buffer's row (uyvy, yuy2: 2).
        rows_per_height: buffer rows for each image row (nv12: 1.5).
        even_width: whether the width must be even (chroma shared by two columns).
        even_height: whether the height must be even (chroma shared by two rows).
    """

    name: str
    bytes_per_pixel: int
    channels: int
    rows_per_height: float = 1.0
    even_width: bool = False
    even_height: bool = False


ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding
    for encoding in (
        Encoding("bgr8", 3, 3),
        Encoding("rgb8", 3, 3),
        Encoding("bgra8", 4, 4),
        Encoding("rgba8", 4, 4),
        Encoding("mono8", 1, 1),
        Encoding("uyvy", 2, 2, even_width=True),
        Encoding("yuy2", 2, 2, even_width=True),
        Encoding("nv12", 1, 1, rows_per_height=1.5, even_width=True, even_height=True),
        Encoding("bayer_rggb8", 1, 1, even_width=True, even_height=True),
        Encoding("bayer_bggr8", 1, 1, even_width=True, even_height=True),
        Encoding("bayer_gbrg8", 1, 1, even_width=True, even_height=True),
        Encoding("bayer_grbg8", 1, 1, even_width=True, even_height=True),
    )
}

#: Other names for the same memory layout.
ALIASES: dict[str, str] = {
    "yuv422": "uyvy",  # deprecated name of UYVY in sensor_msgs
    "yuv422_yuy2": "yuy2",
    "yuyv": "yuy2",
    "8uc1": "mono8",
    "8uc3": "bgr8",
    "8uc4": "bgra8",
}


def lookup(name: str) -> Encoding | None:
    """Return the Encoding of a ROS encoding name (aliases included), or None if unknown."""
    key = name.lower()
    return ENCODINGS.get(ALIASES.get(key, key))


def lookup_on_device(name: str) -> Encoding:
    """Return the Encoding of an image on a CUDA device; mosaics are read on the CPU alone.

    Raises:
        FrameError: the kernels do not read it.
    """
    layout = lookup(name)
    if layout is None or layout.name.startswith("bayer_"):
        known = [each for each in ENCODINGS if not each.startswith("bayer_")]
        raise FrameError.unknown(
            "encoding of an image on a GPU", name, known, fix="copy the image to the host first"
        )
    return layout


def check_planes(rows: int, width: int) -> None:
    """Check the shape of an nv12 array, whose rows are those of both planes.

    Raises:
        FrameError: it holds no whole planes.
    """
    if rows < 3 or rows % 3 or width < 2 or width % 2:
        raise FrameError(
            f"an nv12 array of {rows} rows and {width} columns",
            expected="3 rows for each 2 of the image, and an even width",
        )


def check_buffer(encoding: Encoding, height: int, width: int, step: int, size: int) -> None:
    """Check that a buffer can hold an image.

    Args:
        encoding: the layout.
        height: image rows.
        width: image columns.
        step: bytes from one row to the next.
        size: bytes in the buffer.

    Raises:
        FrameError: a size is not positive, odd where it must be even, the step is shorter than
            a row, or the buffer is shorter than the image.
    """
    if height <= 0 or width <= 0:
        raise FrameError(
            f"an image of {width}x{height}",
            expected="positive width and height",
            fix="set Image.width and Image.height in the camera driver",
        )
    if (encoding.even_width and width % 2) or (encoding.even_height and height % 2):
        raise FrameError(
            f"{encoding.name} image of {width}x{height}",
            expected="even sizes where chroma is shared by neighbouring pixels",
            fix="set an even size in the camera driver, or send bgr8",
        )
    row_bytes = width * encoding.bytes_per_pixel
    if step < row_bytes:
        raise FrameError(
            f"{encoding.name} image with step {step}",
            expected=f"at least width x bytes per pixel = {row_bytes}",
            fix="set Image.step in the camera driver",
        )
    rows = int(height * encoding.rows_per_height)
    # The padding behind the last row may be missing: some drivers trim it.
    needed = (rows - 1) * step + row_bytes
    if size < needed:
        raise FrameError(
            f"{encoding.name} image of {width}x{height}, step {step}, with {size} bytes of data",
            expected=f"at least {needed} bytes",
            fix="check the camera driver's Image.data, .step and .height",
        )
