# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CameraOutputs: what a camera node publishes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from vision_msgs.msg import VisionInfo

from yolox_trt.executor.stream_result import StreamResult
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.latest_worker import LatestWorker
from yolox_trt.ros.messages.annotated_image import AnnotatedImage
from yolox_trt.ros.messages.autoware import ObjectMessageBuilder, label_table
from yolox_trt.ros.messages.detections import DetectionMessageBuilder
from yolox_trt.ros.nodes.camera_counters import CameraCounters
from yolox_trt.ros.nodes.parameters import CameraParameters

#: Results are few and small: a late subscriber or a hiccup on the network loses none of the last.
OUTPUT_DEPTH = 10

#: Who comes late gets the last message.
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class CameraOutputs:
    """~/detections, ~/annotated, ~/vision_info and, for Autoware, ~/objects.

    Args:
        node: the camera node.
        model: name of the model that serves the camera.
        class_names: names of its classes, () where they are unknown.
        parameters: what the camera is configured with.
        counters: counts the results.
        annotator: draws ~/annotated.

    Raises:
        ConfigurationError: `class_remap` does not fit the model.
        MissingDependencyError: ~/objects is asked for without Autoware's messages.
    """

    def __init__(
        self,
        node: Node,
        model: str,
        class_names: Sequence[str],
        parameters: CameraParameters,
        counters: CameraCounters,
        annotator: LatestWorker,
    ) -> None:
        self._node = node
        self._camera = node.get_name()
        self._counters = counters
        self._annotator = annotator
        self._annotated_wanted = False
        self._publishers: list[Publisher] = []
        builders: dict[str, Any] = {"~/detections": DetectionMessageBuilder(class_names)}
        if parameters.publish_objects:
            labels = label_table(class_names, parameters.class_remap)
            builders["~/objects"] = ObjectMessageBuilder(labels)
        self._drawing = AnnotatedImage(class_names)
        self._results = [
            (builder, self._publisher(builder.message_type, topic, OUTPUT_DEPTH))
            for topic, builder in builders.items()
        ]
        # Reliable, as RViz asks for by default; the annotator's own thread publishes, so that a
        # slow listener holds up nothing else.
        self._annotated = self._publisher(Image, "~/annotated", 1)
        info = VisionInfo(method=model)
        info.header.stamp = node.get_clock().now().to_msg()
        info.database_location = f"{node.get_fully_qualified_name()}/class_names"
        self._publisher(VisionInfo, "~/vision_info", LATCHED).publish(info)

    def publish(self, result: StreamResult) -> None:
        """Publish a result; called in a Device's worker thread."""
        header, detections = result.frame.header, result.detections
        try:
            for builder, publisher in self._results:
                publisher.publish(builder.build(header, detections))
        except InvalidHandle:
            # The camera was removed, or the process is going down, while its image was in work.
            return
        self._counters.add_latency(
            (time.monotonic_ns() - result.frame.received_ns) * 1e-9, result.timing.service
        )
        if self._annotated_wanted:
            self._annotator.offer(self._camera, self._draw, result)

    def look_for_listeners(self, *, annotated: bool) -> bool:
        """Return whether somebody listens; ~/annotated is drawn if so.

        Args:
            annotated: whether ~/annotated may be drawn.
        """
        self._annotated_wanted = annotated and self._annotated.get_subscription_count() > 0
        return self._annotated_wanted or any(
            publisher.get_subscription_count() > 0 for _, publisher in self._results
        )

    def close(self) -> None:
        """Remove the outputs."""
        self._annotator.discard(self._camera)
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)

    def _publisher(self, message_type: type, topic: str, qos: QoSProfile | int) -> Publisher:
        self._publishers.append(self._node.create_publisher(message_type, topic, qos))
        return self._publishers[-1]

    def _draw(self, result: StreamResult) -> None:
        """Draw and publish ~/annotated; called in the annotator's thread."""
        try:
            self._annotated.publish(self._drawing.draw(result.frame, result.detections))
        except InvalidHandle:  # as above
            pass
        except Exception as error:
            self._node.get_logger().error(
                f"~/annotated could not be drawn: {error_text(error)}", throttle_duration_sec=10.0
            )
