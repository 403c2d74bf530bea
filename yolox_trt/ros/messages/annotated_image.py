# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""AnnotatedImage: a camera's picture with its detections, as a sensor_msgs/Image."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from sensor_msgs.msg import Image

from yolox_trt.core.detections import Detections
from yolox_trt.core.frame import Frame
from yolox_trt.kernels.draw import draw_detections
from yolox_trt.kernels.reference.preprocess import to_bgr


class AnnotatedImage:
    """Fills one bgr8 Image message again and again: drawing happens in the message's own bytes.

    Args:
        class_names: names of the classes; a class without a name is called by its number.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = tuple(class_names)
        self._message = Image(encoding="bgr8")

    def draw(self, frame: Frame, detections: Detections) -> Image:
        """Return the picture; valid until the next call.

        Args:
            frame: the image, in any encoding.
            detections: what was found in it.
        """
        message = self._message
        message.header = frame.header
        size = frame.height * frame.width * 3
        if len(message.data) != size:
            message.data = array("B", bytes(size))
        message.height, message.width, message.step = frame.height, frame.width, frame.width * 3
        canvas = np.frombuffer(message.data, np.uint8).reshape(frame.height, frame.width, 3)
        np.copyto(canvas, frame.rows if frame.encoding == "bgr8" else to_bgr(frame))
        draw_detections(canvas, detections, self._class_names)
        return message
