# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ResultWindow: lets a source send as fast as the consumer gives results."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from vision_msgs.msg import Detection2DArray

from yolox_trt.core.errors import ConfigurationError, YoloxTrtError
from yolox_trt.core.option import options_of
from yolox_trt.ros.messages.images import stamp_to_ns
from yolox_trt.ros.tools.bag import detection_topics
from yolox_trt.ros.tools.bag_types import DETECTIONS_TYPE
from yolox_trt.ros.tools.options import SourceOptions

_NAMED = options_of(SourceOptions)
#: Seconds that results get to be published.
_PATIENCE = 10.0


class ResultWindow:
    """With --max, keeps the images that are under way within a limit, by the results' stamps.

    Without, it lets every image pass.

    Args:
        node: the source's node.
        executor: spins the node.
        images: topics of the images.
        options: whether results set the pace, on which topics, and how many images of one topic
            may be under way. A camera node with its default depths takes one without loss; more
            need a larger qos_depth and queue_depth.
        timeout: seconds after which an image is given up and counted as missed.

    Raises:
        ConfigurationError: fewer topics of results than of images.
        YoloxTrtError: nobody publishes the results.
    """

    def __init__(
        self,
        node: Node,
        executor: SingleThreadedExecutor,
        images: Sequence[str],
        options: SourceOptions,
        *,
        timeout: float = 5.0,
    ) -> None:
        self._executor = executor
        self._depth = options.window
        self._timeout = timeout
        self._results = 0
        self._missed = 0
        self._under_way: dict[str, dict[int, float]] = {}
        if not options.max:
            return
        topics = dict(zip(images, options.results, strict=False)) or detection_topics(images)
        if len(topics) < len(images):
            raise ConfigurationError(
                f"{len(options.results)} topics of results for {len(images)} image topics",
                expected=f"one for each of {', '.join(images)}",
                fix=("give ", _NAMED["results"], " once for each image topic"),
            )
        self._under_way = {image: {} for image in topics}
        for image, results in topics.items():
            node.create_subscription(
                Detection2DArray,
                results,
                lambda message, image=image: self._on_result(image, message),
                10,
            )
        end = time.monotonic() + (_PATIENCE if options.wait is None else options.wait)
        while silent := [t for t in topics.values() if not node.count_publishers(t)]:
            if time.monotonic() > end:
                raise _nobody(silent, _published_results(node))
            executor.spin_once(timeout_sec=0.05)

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
        """What came back, in words, to be put behind others; empty without --max."""
        return f", {self._results} results, {self._missed} missed" if self._under_way else ""

    def _give_up(self, waiting: dict[int, float]) -> None:
        now = time.monotonic()
        for stamp in [stamp for stamp, sent in waiting.items() if now - sent > self._timeout]:
            del waiting[stamp]
            self._missed += 1

    def _on_result(self, image: str, message: Detection2DArray) -> None:
        if self._under_way[image].pop(stamp_to_ns(message.header.stamp), None) is not None:
            self._results += 1


def _published_results(node: Node) -> list[str]:
    """Return the topics of detections that somebody publishes."""
    return [
        topic
        for topic, types in node.get_topic_names_and_types()
        if DETECTIONS_TYPE in types and node.count_publishers(topic)
    ]


def _nobody(silent: Sequence[str], published: Sequence[str]) -> YoloxTrtError:
    found = f"nobody publishes {', '.join(silent)}"
    if published:  # a camera's name need not be the one of its images' topic
        return YoloxTrtError(
            f"{found}; there are detections on {', '.join(published)}",
            expected="the topic of the results of each image topic",
            fix=("give ", _NAMED["results"], f" once for each, such as {published[0]}"),
        )
    return YoloxTrtError(
        found,
        expected=("a consumer, whose results set the pace with ", _NAMED["max"]),
        fix=("start multi_camera first, or name its topics with ", _NAMED["results"]),
    )
