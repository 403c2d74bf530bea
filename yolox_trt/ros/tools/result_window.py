# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ResultWindow: lets a source send as fast as the consumer gives results."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from vision_msgs.msg import Detection2DArray

from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.option import options_of
from yolox_trt.ros.messages.images import stamp_to_ns
from yolox_trt.ros.tools.options import SourceOptions


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

    def wait_for_consumer(self, timeout: float) -> None:
        """Wait until every topic of results has a publisher.

        Raises:
            YoloxTrtError: nobody publishes one of them after `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while silent := [t for t in self._topics if not self._node.count_publishers(t)]:
            if time.monotonic() > end:
                named = options_of(SourceOptions)
                raise YoloxTrtError(
                    f"nobody publishes {', '.join(silent)}",
                    expected=("a consumer, whose results set the pace with ", named["max"]),
                    fix=("start multi_camera first, or name its topics with ", named["results"]),
                )
            self._executor.spin_once(timeout_sec=0.05)

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

    @property
    def summary(self) -> str:
        """What came back, in words."""
        return f"{self.results} results, {self.missed} missed"

    def _give_up(self, waiting: dict[int, float]) -> None:
        now = time.monotonic()
        for stamp in [stamp for stamp, sent in waiting.items() if now - sent > self._timeout]:
            del waiting[stamp]
            self.missed += 1

    def _on_result(self, image: str, message: Detection2DArray) -> None:
        if self._under_way[image].pop(stamp_to_ns(message.header.stamp), None) is not None:
            self.results += 1
