# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CameraOutputs: what a camera node publishes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rclpy.exceptions import InvalidHandle
from rclpy.lifecycle import LifecyclePublisher
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import VisionInfo

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.mask import Mask
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.zones import Zones
from yolox_trt.executor.stream_result import StreamResult
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.latest_worker import LatestWorker
from yolox_trt.ros.messages.annotated_image import AnnotatedImage, compressed
from yolox_trt.ros.messages.annotations import AnnotationMessageBuilder
from yolox_trt.ros.messages.autoware import ObjectMessageBuilder, label_table
from yolox_trt.ros.messages.debug_times import DebugTimes
from yolox_trt.ros.messages.detections import DetectionMessageBuilder
from yolox_trt.ros.messages.masks import MaskMessages
from yolox_trt.ros.nodes.camera_counters import CameraCounters
from yolox_trt.ros.nodes.parameters import CameraParameters
from yolox_trt.tracking.tracker import make_tracker

#: Results are few and small: a late subscriber or a hiccup on the network loses none of the last.
OUTPUT_DEPTH = 10


class CameraOutputs:
    """~/detections, ~/annotated, ~/vision_info, masks, and for Autoware ~/objects and ~/debug/*.

    Their publishers are lifecycle publishers: nothing is published before activate().

    Args:
        node: the camera node.
        model: name of the model that serves the camera.
        spec: what it gives; its class names are this camera's.
        parameters: what the camera is configured with.
        counters: counts the results.
        annotator: draws ~/annotated.

    Attributes:
        zones: where detections count; may be set at any time.

    Raises:
        ConfigurationError: `class_remap` or a file that a parameter names does not fit the model.
        MissingDependencyError: outputs for Autoware are asked for without its messages, or tracking
            without its library.
    """

    def __init__(
        self,
        node: Node,
        model: str,
        spec: ModelSpec,
        parameters: CameraParameters,
        counters: CameraCounters,
        annotator: LatestWorker,
    ) -> None:
        self._node = node
        self._camera = node.get_name()
        self._counters = counters
        self._annotator = annotator
        self._annotated_wanted = False
        self.zones = parameters.zones
        self._checked_zones: Zones | None = None
        # Those of them that were found to select nothing: most cameras have none.
        self._no_zones: Zones | None = None
        self._tracker = make_tracker(parameters.tracking, self._camera)
        self._masks: MaskMessages | None = None
        self.masks_wanted = False
        """Whether somebody listens to masks, which the model can give."""
        self._publishers: list[LifecyclePublisher[Any]] = []
        class_names = spec.class_names
        self._drawing = AnnotatedImage(class_names)
        self._info = VisionInfo(method=model)
        self._info.database_location = f"{node.get_fully_qualified_name()}/class_names"
        self._debug: DebugTimes | None = None
        builders: list[tuple[str, Any]] = [
            (parameters.detections_topic, DetectionMessageBuilder(class_names))
        ]
        if parameters.publish_image_annotations:
            builders.append(("~/image_annotations", AnnotationMessageBuilder(class_names)))
        dropped: list[int] = []
        if parameters.publish_objects:
            remap = parameters.class_remap
            labels = label_table(class_names, remap, parameters.roi_remap_path)
            builders.append((parameters.objects_topic, ObjectMessageBuilder(labels)))
            dropped = [class_id for class_id, label in enumerate(labels) if label < 0]
        if spec.segmentation is not None:
            self._masks = MaskMessages(spec, parameters, dropped)
        try:
            self._results = [
                (builder, self._publisher(builder.message_type, topic))
                for topic, builder in builders
            ]
            # Reliable, as RViz asks for by default; the annotator's own thread publishes, so that
            # a slow listener holds up nothing else.
            topic = parameters.annotated_topic
            self._annotated = self._publisher(Image, topic, depth=1)
            # As image_transport names it; RViz, Foxglove and rqt read it.
            self._jpeg = self._publisher(CompressedImage, f"{topic}/compressed", depth=1)
            if self._masks is not None:
                self._mask = self._publisher(Image, parameters.mask_topic)
                self._color_mask = self._publisher(Image, parameters.color_mask_topic, depth=1)
            # Who comes late gets the last message.
            latched = DurabilityPolicy.TRANSIENT_LOCAL
            self._vision_info = self._publisher(
                VisionInfo, "~/vision_info", depth=1, durability=latched
            )
            if parameters.publish_debug:
                clock = node.get_clock()
                self._debug = DebugTimes(self._publisher, lambda: clock.now().nanoseconds)
        except BaseException:
            self.close()
            raise

    def activate(self) -> None:
        """Let the publishers publish."""
        for publisher in self._publishers:
            publisher.on_activate(None)
        self._info.header.stamp = self._node.get_clock().now().to_msg()
        self._vision_info.publish(self._info)

    def deactivate(self) -> None:
        """Let the publishers publish no more."""
        for publisher in self._publishers:
            publisher.on_deactivate(None)

    def publish(self, result: StreamResult) -> None:
        """Publish a result; called in a Device's worker thread, in the order of the images."""
        if self._tracker is not None or self.zones is not self._no_zones:
            result = self._selected(result)
        frame = result.frame
        try:
            for builder, publisher in self._results:
                publisher.publish(builder.build(frame, result.detections))
            if self._masks is not None and result.detections.mask is not None:
                self._publish_mask(self._masks, result)
            done = time.monotonic_ns()
            if self._debug is not None:
                self._debug.publish(frame.stamp_ns, frame.received_ns, done)
        except InvalidHandle:
            # The camera was removed, or the process is going down, while its image was in work.
            return
        timing = result.timing
        service = timing.finished - timing.started
        self._counters.add_latency((done - frame.received_ns) * 1e-9, service)
        if self._annotated_wanted:
            self._annotator.offer(self._camera, self._draw, result)

    def _selected(self, result: StreamResult) -> StreamResult:
        """Return a result with track ids, and without what the zones leave out."""
        detections = result.detections
        if self._tracker is not None:
            # A driver that sets no stamps leaves the time of arrival.
            stamp = result.frame.stamp_ns or result.frame.received_ns
            detections = self._tracker.update(detections, stamp)
        zones = self.zones
        if zones is not self._checked_zones:
            self._checked_zones = zones
            self._no_zones = None if zones else zones
            try:
                zones.check_inside(*result.frame.source_size)
            except ConfigurationError as error:
                self._node.get_logger().warning(error_text(error))
        detections = zones.select(detections)
        if detections is result.detections:
            return result
        return replace(result, detections=detections)

    def _publish_mask(self, masks: MaskMessages, result: StreamResult) -> None:
        """Publish ~/mask, and have ~/color_mask drawn if somebody looks."""
        mask = masks.overlapped(result.detections)
        self._mask.publish(masks.build(result.frame, mask))
        if self._color_mask.get_subscription_count() > 0:
            self._annotator.offer(f"{self._camera}/color_mask", self._paint, masks, result, mask)

    def look_for_listeners(self, *, annotated: bool) -> bool:
        """Return whether somebody listens; ~/annotated is drawn, and masks are made, if so.

        Args:
            annotated: whether ~/annotated may be drawn.
        """
        self._annotated_wanted = annotated and any(
            each.get_subscription_count() > 0 for each in (self._annotated, self._jpeg)
        )
        self.masks_wanted = self._masks is not None and any(
            publisher.get_subscription_count() > 0 for publisher in (self._mask, self._color_mask)
        )
        heard = (publisher.get_subscription_count() > 0 for _, publisher in self._results)
        return self._annotated_wanted or self.masks_wanted or any(heard)

    def close(self) -> None:
        """Remove the outputs."""
        self._annotator.discard(self._camera)
        self._annotator.discard(f"{self._camera}/color_mask")
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)

    def _publisher(
        self, message_type: type, topic: str, depth: int = OUTPUT_DEPTH, **qos: Any
    ) -> LifecyclePublisher[Any]:
        resolved = str(self._node.resolve_topic_name(topic))
        if resolved in (each.topic_name for each in self._publishers):
            raise ConfigurationError(
                f"two outputs of camera '{self._camera}' on {resolved}",
                expected="a topic for each",
                fix="set another of its parameters whose names end in `_topic`, or remap one",
            )
        publisher = self._node.create_publisher(
            message_type,
            topic,
            QoSProfile(depth=depth, **qos),  # a new one: qos_overrides change it
            publisher_class=LifecyclePublisher,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        assert isinstance(publisher, LifecyclePublisher)
        self._publishers.append(publisher)
        return publisher

    def _draw(self, result: StreamResult) -> None:
        """Draw and publish ~/annotated; called in the annotator's thread."""
        with self._drawn("~/annotated"):
            picture = self._drawing.draw(result.frame, result.detections, self.zones)
            if self._annotated.get_subscription_count() > 0:
                self._annotated.publish(picture)
            if self._jpeg.get_subscription_count() > 0:
                self._jpeg.publish(compressed(picture))

    def _paint(self, masks: MaskMessages, result: StreamResult, mask: Mask) -> None:
        """Publish ~/color_mask; called in the annotator's thread."""
        with self._drawn("~/color_mask"):
            self._color_mask.publish(masks.build_color(result.frame, mask))

    @contextlib.contextmanager
    def _drawn(self, topic: str) -> Iterator[None]:
        """Report what fails in the annotator's thread, which goes on."""
        try:
            yield
        except InvalidHandle:  # as above
            pass
        except Exception as error:
            self._node.get_logger().error(
                f"{topic} could not be drawn: {error_text(error)}", throttle_duration_sec=10.0
            )
