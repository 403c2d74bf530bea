# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/Image and CompressedImage -> Frame."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from yolox_trt.core import encodings
from yolox_trt.core.errors import FrameError
from yolox_trt.core.frame import Frame

if TYPE_CHECKING:
    from sensor_msgs.msg import CompressedImage, Image

#: 16-bit encodings -> the 8-bit one with the same layout. Their high bytes are taken, as
#: cv_bridge's scaling by 1/256 does; this copies the image once more.
WIDE_ENCODINGS: dict[str, str] = {
    **{name[:-1] + "16": name for name in encodings.ENCODINGS if name.endswith("8")},
    **{"16uc1": "mono8", "16uc3": "bgr8", "16uc4": "bgra8"},
}


def stamp_to_ns(stamp: Any) -> int:
    """Return a builtin_interfaces/Time as nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def frame_from_image(message: Image, *, stream_id: str = "", received_ns: int = 0) -> Frame:
    """View a sensor_msgs/Image as a Frame, in place.

    8-bit encodings are viewed without a copy (the big-endian flag says nothing about single
    bytes). 16-bit ones are reduced to their high bytes, whichever end they are at. Any other
    encoding goes through cv_bridge, where that is installed.

    Args:
        message: the image; it must stay unchanged while the Frame is in use.
        stream_id: the Stream that the Frame belongs to.
        received_ns: time.monotonic_ns() of arrival.

    Raises:
        FrameError: unknown encoding, or sizes that do not fit the data.
    """
    # Each look at a message's field is a call: as few as possible, for each image of each camera.
    encoding, metadata = message.encoding, _metadata(message.header, stream_id, received_ns)
    if encoding in encodings.ENCODINGS or encodings.lookup(encoding) is not None:
        height, step = message.height, message.step
        if step == 0 and height:
            raise FrameError(
                f"{encoding} image with step 0",
                expected="the bytes from one row to the next",
                fix="set Image.step in the camera driver",
            )
        return Frame.view(
            message.data,
            height=height,
            width=message.width,
            encoding=encoding,
            step=step,
            **metadata,
        )
    narrow = WIDE_ENCODINGS.get(encoding.lower())
    if narrow is not None:
        return Frame.from_array(_high_bytes(message, narrow), narrow, **metadata)
    return Frame.from_array(_through_cv_bridge(message), "bgr8", **metadata)


def frame_from_compressed(
    message: CompressedImage, *, stream_id: str = "", received_ns: int = 0
) -> Frame:
    """Decode a sensor_msgs/CompressedImage (JPEG, PNG, ...) into a Frame.

    Colour images come out as bgr8. Bayer mosaics that image_transport compressed as grey images
    (format "bayer_rggb8; jpeg compressed ...") keep their pattern. EXIF rotation is ignored, as
    boxes refer to the pixels that are stored.

    Raises:
        FrameError: OpenCV cannot decode the data.
    """
    encoding = message.format.split(";")[0].strip().lower()
    mosaic = encoding if encoding.startswith("bayer_") and encoding in encodings.ENCODINGS else None
    flags = cv2.IMREAD_GRAYSCALE if mosaic else cv2.IMREAD_COLOR
    data = np.frombuffer(message.data, np.uint8)
    try:
        image = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    except cv2.error:
        image = None
    if image is None:
        raise FrameError(
            f"compressed image of {data.size} bytes, format '{message.format}', that cannot be "
            "decoded",
            expected="a whole JPEG, PNG or other image that OpenCV reads",
            fix="check the camera driver or the compressed transport's publisher",
        )
    return Frame.from_array(
        image, mosaic or "bgr8", **_metadata(message.header, stream_id, received_ns)
    )


def _metadata(header: Any, stream_id: str, received_ns: int) -> dict[str, Any]:
    """Return what a Frame holds beside its pixels."""
    stamp = header.stamp
    return {
        "stamp_ns": stamp.sec * 1_000_000_000 + stamp.nanosec,
        "frame_id": header.frame_id,
        "stream_id": stream_id,
        "received_ns": received_ns,
        "header": header,
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
    refusal = FrameError(
        f"image encoding '{message.encoding}'",
        expected="one of " + ", ".join(sorted({*encodings.ENCODINGS, *WIDE_ENCODINGS})),
        fix="set the encoding in the camera driver, or install cv_bridge for others "
        "(apt install ros-$ROS_DISTRO-cv-bridge)",
    )
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
        image = bridge.imgmsg_to_cv2(message, desired_encoding="bgr8")
    # ImportError, CvBridgeError, cv2.error, ValueError: all mean the same here
    except Exception as error:
        raise refusal from error
    return np.ascontiguousarray(image, dtype=np.uint8)
