# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ImagePublisher: pictures as sensor_msgs/Image or CompressedImage, with little copying."""

from __future__ import annotations

from array import array

import cv2
import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from yolox_trt.core.errors import FrameError

#: Of the JPEGs, 1 to 100.
_QUALITY = 90


class ImagePublisher:
    """Publishes bgr8 pictures; the message and its bytes are used again and again.

    Args:
        node: the node that publishes.
        topic: image topic; with `compressed` the messages go to topic/compressed.
        frame_id: coordinate frame in the headers.
        qos: quality of service of the publisher.
        compressed: whether JPEGs are sent.

    Attributes:
        publisher: the ROS publisher.
        published: pictures published so far.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        *,
        frame_id: str,
        qos: QoSProfile,
        compressed: bool = False,
    ) -> None:
        self._node = node
        self._compressed = compressed
        self.published = 0
        if compressed:
            self._message = CompressedImage(format="bgr8; jpeg compressed bgr8")
            self.publisher = node.create_publisher(CompressedImage, f"{topic}/compressed", qos)
        else:
            self._message = Image(encoding="bgr8")
            self.publisher = node.create_publisher(Image, topic, qos)
        self._message.header.frame_id = frame_id

    @property
    def topic(self) -> str:
        """The topic, resolved."""
        return str(self.publisher.topic_name)

    def canvas(self, height: int, width: int) -> npt.NDArray[np.uint8]:
        """Return the next message's own pixels, uint8 (height, width, 3), to be drawn into."""
        size = height * width * 3
        if self._compressed:
            raise FrameError("a canvas of a compressed image", expected="transport raw")
        message = self._message
        if len(message.data) != size:
            message.data = array("B", bytes(size))
        message.height, message.width, message.step = height, width, width * 3
        return np.frombuffer(message.data, np.uint8).reshape(height, width, 3)

    def publish(self, image: npt.NDArray[np.uint8] | None, *, frame_id: str | None = None) -> int:
        """Publish a picture with the present time of the node's clock.

        Args:
            image: bgr8, uint8 (H, W, 3); may be the canvas itself. None: the last one again.
            frame_id: another one from now on.

        Returns:
            The stamp of the header, in nanoseconds.
        """
        if image is None:
            pass
        elif self._compressed:
            done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
            if not done:
                raise FrameError(f"image of shape {image.shape} that cannot be encoded as JPEG")
            self._message.data = array("B", data.tobytes())
        else:
            canvas = self.canvas(*image.shape[:2])
            if not np.shares_memory(canvas, image):
                np.copyto(canvas, image)
        if frame_id is not None:
            self._message.header.frame_id = frame_id
        stamp_ns = int(self._node.get_clock().now().nanoseconds)
        self._message.header.stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        self.publisher.publish(self._message)
        self.published += 1
        return stamp_ns
