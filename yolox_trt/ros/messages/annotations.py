# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Detections -> foxglove_msgs/ImageAnnotations: boxes that Foxglove draws over the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builtin_interfaces.msg import Time

from yolox_trt.core.detections import Detections
from yolox_trt.core.frame import Frame
from yolox_trt.core.optional import require
from yolox_trt.kernels.draw import class_color


class AnnotationMessageBuilder:
    """Makes the message of an image: a rectangle and a text for each detection.

    Foxglove matches it with the image by its stamp.

    Args:
        class_names: names of the classes; a class without a name is called by its number.

    Raises:
        MissingDependencyError: foxglove_msgs is not installed.
    """

    def __init__(self, class_names: Sequence[str] = ()) -> None:
        self._messages = require("foxglove_msgs.msg", purpose="`publish_image_annotations`")
        self.message_type = self._messages.ImageAnnotations
        self._class_names = tuple(class_names)

    def build(self, frame: Frame, detections: Detections) -> Any:
        """Return the message of one image.

        Args:
            frame: the image; its stamp is used as it is.
            detections: boxes in source pixels.
        """
        make = self._messages
        seconds, nanoseconds = divmod(frame.stamp_ns, 1_000_000_000)
        stamp = Time(sec=seconds, nanosec=nanoseconds)
        size = max(12.0, frame.width / 60)
        black = make.Color(r=0.0, g=0.0, b=0.0, a=1.0)
        message = make.ImageAnnotations()
        ids = detections.track_ids
        for index, (x1, y1, x2, y2) in enumerate(detections.boxes.tolist()):
            class_id = int(detections.class_ids[index])
            known = class_id < len(self._class_names)
            name = self._class_names[class_id] if known else str(class_id)
            track = f" #{ids[index]}" if ids is not None and ids[index] else ""
            blue, green, red = (part / 255 for part in class_color(class_id))
            color = make.Color(r=red, g=green, b=blue, a=1.0)
            corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
            message.points.append(
                make.PointsAnnotation(
                    timestamp=stamp,
                    type=make.PointsAnnotation.LINE_LOOP,
                    points=[make.Point2(x=x, y=y) for x, y in corners],
                    outline_color=color,
                    thickness=size / 8,
                )
            )
            message.texts.append(
                make.TextAnnotation(
                    timestamp=stamp,
                    position=make.Point2(x=x1, y=y1),
                    text=f"{name}{track} {detections.scores[index]:.2f}",
                    font_size=size,
                    text_color=black,
                    background_color=color,
                )
            )
        return message
