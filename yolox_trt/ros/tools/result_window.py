# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ResultWindow: lets a source send as fast as the consumer gives results."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from vision_msgs.msg import Detection2DArray

from yolox_trt.ros.messages.images import stamp_to_ns


class ResultWindow:
    """Keeps the images that are under way within a limit, by the results' stamps.

    Args:
        node: the source's node.
        executor: spins the node.
        topics: image topic -> topic of its results.
        depth: images of one topic that may be under way. A camera node with its default depths
            takes one without loss; more need a larger qos_depth and queue_depth.
        timeout: seconds after which an image is given up and counted as missed.
    """

    def __init__(
        self,
        node: Node,
        executor: SingleThreadedExecutor,
        topics: Mapping[str, str],
        *,
        depth: int = 1,
        timeout: float = 5.0,
    ) -> None:
        self._node = node
        self._executor = executor
        self._topics = list(topics.values())
        self._depth = depth
        self._timeout = timeout
        self._under_way: dict[str, dict[int, float]] = {image: {} for image in topics}
        self.results = 0
        self.missed = 0
        self._subscriptions = [
            node.create_subscription(
                Detection2DArray,
                results,
                lambda message, image=image: self._on_result(image, message),
                10,
            )
            for image, results in topics.items()
        ]

    def wait_for_consumer(self, timeout: float) -> bool:
        """Wait until every topic of results has a publisher; False after `timeout` seconds."""
        end = time.monotonic() + timeout
        while not all(self._node.count_publishers(topic) for topic in self._topics):
            if time.monotonic() > end:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True

    def sent(self, topic: str, stamp_ns: int) -> None:
        """Note that an image was sent."""
        if topic in self._under_way:
            self._under_way[topic][stamp_ns] = time.monotonic()

    def wait(self, topic: str) -> None:
        """Wait until another image of a topic may be sent."""
        waiting = self._under_way.get(topic)
        while waiting is not None and len(waiting) >= self._depth:
            self._executor.spin_once(timeout_sec=0.05)
            self._give_up(waiting)

    def drain(self) -> None:
        """Wait for the results of everything that is under way."""
        while any(self._under_way.values()):
            self._executor.spin_once(timeout_sec=0.05)
            for waiting in self._under_way.values():
                self._give_up(waiting)

    def _give_up(self, waiting: dict[int, float]) -> None:
        now = time.monotonic()
        for stamp in [stamp for stamp, sent in waiting.items() if now - sent > self._timeout]:
            del waiting[stamp]
            self.missed += 1

    def _on_result(self, image: str, message: Detection2DArray) -> None:
        if self._under_way[image].pop(stamp_to_ns(message.header.stamp), None) is not None:
            self.results += 1
