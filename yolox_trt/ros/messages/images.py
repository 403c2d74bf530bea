# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/Image -> Frame; transports.py makes Frames of encoded images."""

from __future__ import annotations

import functools
import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core import encodings
from yolox_trt.core.errors import FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.limits import LIMITS, ImageLimits, clean_text, is_name

if TYPE_CHECKING:
    from sensor_msgs.msg import Image

#: 16-bit encodings -> the 8-bit one with the same layout. Their high bytes are taken, as
#: cv_bridge's scaling by 1/256 does; this copies the image once more.
WIDE_ENCODINGS: dict[str, str] = {
    **{name[:-1] + "16": name for name in encodings.ENCODINGS if name.endswith("8")},
    **{"16uc1": "mono8", "16uc3": "bgr8", "16uc4": "bgra8"},
}


def stamp_to_ns(stamp: Any) -> int:
    """Return a builtin_interfaces/Time as nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def write_header(header: Any, frame: Frame) -> None:
    """Write a Frame's stamp and frame_id into a std_msgs/Header."""
    header.frame_id, stamp = frame.frame_id, header.stamp
    stamp.sec, stamp.nanosec = divmod(frame.stamp_ns, 1_000_000_000)


def frame_from_image(
    message: Image,
    *,
    stream_id: str = "",
    received_ns: int = 0,
    limits: ImageLimits | None = None,
) -> Frame:
    """View a sensor_msgs/Image as a Frame, in place.

    8-bit encodings are viewed without a copy (the big-endian flag says nothing about single
    bytes). 16-bit ones are reduced to their high bytes, whichever end they are at. Any other
    encoding goes through cv_bridge, where that is installed.

    Args:
        message: the image; it must stay unchanged while the Frame is in use.
        stream_id: the Stream that the Frame belongs to.
        received_ns: time.monotonic_ns() of arrival.
        limits: how large it may be; ImageLimits.of_environment() by default.

    Raises:
        FrameError: unknown encoding, too large, or sizes that do not fit the data.
    """
    # Each look at a message's field is a call: as few as possible, for each image of each camera.
    encoding, metadata = message.encoding, frame_metadata(message.header, stream_id, received_ns)
    height, width, data = message.height, message.width, message.data
    most = (limits or ImageLimits.of_environment()).max_megapixels
    step = message.step
    canonical = _checked_layout(encoding, height, width, step, len(data), most)
    if canonical:
        pixels = np.frombuffer(data, np.uint8)
        return Frame(pixels, height, width, canonical, step, **metadata)
    narrow = WIDE_ENCODINGS.get(encoding.lower())
    if narrow is not None:
        return Frame.from_array(_high_bytes(message, narrow), narrow, **metadata)
    return Frame.from_array(_through_cv_bridge(message), "bgr8", **metadata)


@functools.lru_cache(maxsize=256)
def _checked_layout(
    encoding: str, height: int, width: int, step: int, size: int, max_megapixels: float
) -> str:
    """Return the canonical name of an encoding whose images are viewed; "" if it is another one.

    A camera sends the same layout again and again: it is checked once. What is refused is not
    remembered, so that nothing large from outside stays.

    `size` counts the bytes of its data; `max_megapixels` is that of ImageLimits.

    Raises:
        FrameError: too large, or sizes that do not fit the data.
    """
    ImageLimits(max_megapixels=max_megapixels).check(size=size, height=height, width=width)
    if not is_name(encoding):
        raise _unknown_encoding(encoding)
    layout = encodings.lookup(encoding)
    if layout is None:
        return ""
    if step == 0 and height:
        raise FrameError(
            f"{encoding} image with step 0",
            expected="the bytes from one row to the next",
            fix="set Image.step in the camera driver",
        )
    encodings.check_buffer(layout, height, width, step, size)
    return layout.name


def frame_metadata(header: Any, stream_id: str, received_ns: int) -> dict[str, Any]:
    """Return what a Frame holds beside its pixels, of a std_msgs/Header.

    Raises:
        FrameError: a frame_id or a stamp that is none, which no result could repeat.
    """
    stamp, frame_id = header.stamp, header.frame_id
    nanosec = stamp.nanosec
    if nanosec >= 1_000_000_000:
        raise FrameError(
            f"a stamp of {nanosec} ns beside its seconds",
            expected="less than 10^9",
            fix="set Image.header.stamp in the camera driver",
        )
    if not is_name(frame_id):  # every result would repeat it, for each detection
        raise FrameError(
            f"frame_id '{clean_text(frame_id, LIMITS.name_characters)}'",
            expected=f"{LIMITS.name_characters} printable characters at most",
            fix="set Image.header.frame_id in the camera driver",
        )
    return {
        "stamp_ns": stamp.sec * 1_000_000_000 + nanosec,
        "frame_id": frame_id,
        "stream_id": stream_id,
        "received_ns": received_ns,
    }


def _high_bytes(message: Image, narrow: str) -> npt.NDArray[np.uint8]:
    """Return the high bytes of a 16-bit image, uint8 (H, W) or (H, W, C)."""
    layout = encodings.ENCODINGS[narrow]
    data = np.frombuffer(message.data, np.uint8)
    doubled = replace(layout, name=message.encoding, bytes_per_pixel=2 * layout.bytes_per_pixel)
    encodings.check_buffer(doubled, message.height, message.width, message.step, data.size)
    samples = np.lib.stride_tricks.as_strided(
        data[0 if message.is_bigendian else 1 :],
        (message.height, message.width, layout.channels),
        (message.step, doubled.bytes_per_pixel, 2),
        writeable=False,
    )
    high = np.ascontiguousarray(samples)
    return high[:, :, 0] if layout.channels == 1 else high


def _through_cv_bridge(message: Image) -> npt.NDArray[np.uint8]:
    """Return an image in any encoding that cv_bridge knows, as bgr8 (H, W, 3)."""
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
        image = bridge.imgmsg_to_cv2(message, desired_encoding="bgr8")
    # ImportError, CvBridgeError, cv2.error, ValueError: all mean the same here
    except Exception as error:
        raise _unknown_encoding(message.encoding) from error
    return np.ascontiguousarray(image, dtype=np.uint8)


def _unknown_encoding(name: str) -> FrameError:
    return FrameError(
        f"image encoding '{clean_text(name, LIMITS.name_characters)}'",
        expected="one of " + ", ".join(sorted({*encodings.ENCODINGS, *WIDE_ENCODINGS})),
        fix="set the encoding in the camera driver, or install cv_bridge for others "
        "(apt install ros-$ROS_DISTRO-cv-bridge)",
    )
