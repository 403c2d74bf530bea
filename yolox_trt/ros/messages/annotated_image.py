# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""AnnotatedImage: a camera's picture with its detections, as a sensor_msgs/Image."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from yolox_trt.core.detections import Detections
from yolox_trt.core.frame import Frame
from yolox_trt.core.zones import Zones
from yolox_trt.kernels.draw import draw_detections, draw_zones
from yolox_trt.kernels.reference.preprocess import to_bgr
from yolox_trt.ros.messages.images import write_header

_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 85)


class AnnotatedImage:
    """Fills one bgr8 Image message again and again: drawing happens in the message's own bytes.

    Args:
        class_names: names of the classes; a class without a name is called by its number.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = tuple(class_names)
        self._message = Image(encoding="bgr8")

    def draw(self, frame: Frame, detections: Detections, zones: Zones | None = None) -> Image:
        """Return the picture; valid until the next call.

        Args:
            frame: the image, in any encoding.
            detections: what was found in it.
            zones: where detections count; None to draw none.
        """
        message = self._message
        write_header(message.header, frame)
        height, width = frame.source_size
        size = height * width * 3
        if len(message.data) != size:
            message.data = array("B", bytes(size))
        message.height, message.width, message.step = height, width, width * 3
        canvas = np.frombuffer(message.data, np.uint8).reshape(height, width, 3)
        frame = frame.on_host()
        picture = frame.rows if frame.encoding == "bgr8" else to_bgr(frame)
        if frame.reduction == 1:
            np.copyto(canvas, picture)
        else:
            cv2.resize(picture, (width, height), canvas)
        if zones is not None:
            draw_zones(canvas, zones)
        draw_detections(canvas, detections, self._class_names)
        return message


def compressed(message: Image) -> CompressedImage:
    """Return a bgr8 picture as a JPEG."""
    canvas = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
    _, jpeg = cv2.imencode(".jpg", canvas, _JPEG)
    # The setter takes an array as it is, and looks at each element of anything else.
    data = array("B", jpeg.tobytes())
    return CompressedImage(header=message.header, format="bgr8; jpeg compressed bgr8", data=data)
