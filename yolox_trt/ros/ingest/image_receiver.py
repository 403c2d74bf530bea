# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ImageReceiver: a subscription to a camera's topic; its messages become Frames here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from yolox_trt.core.frame import Frame
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.latest_worker import LatestWorker
from yolox_trt.ros.messages.images import frame_from_compressed, frame_from_image
from yolox_trt.ros.subscription_events import SubscriptionEvents


@dataclass(frozen=True)
class ImageTopic:
    """What to subscribe to.

    Attributes:
        name: the topic's name.
        compressed: whether it carries CompressedImage.
        reliable: reliability of the subscription.
        depth: depth of the subscription.
    """

    name: str
    compressed: bool
    reliable: bool
    depth: int


class ImageSink(Protocol):
    """Where a camera's images go. Each image that arrives ends in one of the first three calls."""

    def on_frame(self, frame: Frame) -> None:
        """Take an image."""

    def on_refused(self, reason: str) -> None:
        """Count an image that could not be read."""

    def on_full(self) -> None:
        """Count an image that found no room, or that a newer one has replaced."""

    def on_lost(self, count: int) -> None:
        """Count images that the middleware lost on their way."""


class ImageReceiver:
    """One camera's subscription, in this process or in an ingest process.

    Args:
        node: the node that subscribes.
        camera: name of the camera, and id of its Stream.
        topic: what to subscribe to.
        sink: where the Frames go.
        decode_apart: whether compressed images are decoded, and handed to `sink`, in a thread of
            their own, the newest first; OpenCV decodes without Python's lock. Otherwise, and with
            raw images, all happens in rclpy's thread.
    """

    def __init__(
        self,
        node: Node,
        camera: str,
        topic: ImageTopic,
        sink: ImageSink,
        *,
        decode_apart: bool = False,
    ) -> None:
        self._node = node
        self._camera = camera
        self._sink = sink
        self._closed = False
        apart = decode_apart and topic.compressed
        self._decoder = LatestWorker(f"decode {camera}") if apart else None
        self._convert = frame_from_compressed if topic.compressed else frame_from_image
        policy = ReliabilityPolicy
        self._subscription = node.create_subscription(
            CompressedImage if topic.compressed else Image,
            topic.name,
            self._take if self._decoder is None else self._decode_later,
            QoSProfile(
                depth=topic.depth,
                reliability=policy.RELIABLE if topic.reliable else policy.BEST_EFFORT,
            ),
        )
        try:
            self._events = SubscriptionEvents(
                self._subscription, sink.on_lost, node.get_logger().warning
            )
        except BaseException:
            node.destroy_subscription(self._subscription)
            raise

    def poll_events(self) -> None:
        """Count the images that the middleware has lost; to be called often, looks seldom."""
        self._events.poll()

    def close(self) -> None:
        """End the subscription; a compressed image that still waits is given up."""
        self._closed = True
        self._events.close()
        self._node.destroy_subscription(self._subscription)
        if self._decoder is not None:
            waited = self._decoder.discard(self._camera)
            self._decoder.close()
            if waited:
                self._sink.on_full()

    def _take(self, message: Any, received_ns: int = 0) -> None:
        if self._closed:  # the message was queued when the subscription ended
            if self._decoder is not None:
                self._sink.on_full()
            return
        try:
            received_ns = received_ns or time.monotonic_ns()
            frame = self._convert(message, stream_id=self._camera, received_ns=received_ns)
        except Exception as error:
            self._sink.on_refused(error_text(error))
            return
        self._sink.on_frame(frame)

    def _decode_later(self, message: Any) -> None:
        assert self._decoder is not None
        if not self._closed and self._decoder.offer(
            self._camera, self._take, message, time.monotonic_ns()
        ):
            self._sink.on_full()
