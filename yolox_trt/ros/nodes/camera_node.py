# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CameraNode: one camera's topics, parameters and Stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray, VisionInfo

from yolox_trt.core.errors import FrameError, YoloxTrtError
from yolox_trt.core.frame import Frame
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.executor.stream_result import StreamResult
from yolox_trt.ros.image_qos import image_qos
from yolox_trt.ros.ingest.pool import IngestPool
from yolox_trt.ros.messages.annotated_image import AnnotatedImage
from yolox_trt.ros.messages.autoware import ObjectMessageBuilder, label_table
from yolox_trt.ros.messages.compressed import CompressedDecoder
from yolox_trt.ros.messages.detections import DetectionMessageBuilder
from yolox_trt.ros.messages.images import check_roi, frame_from_compressed, frame_from_image
from yolox_trt.ros.nodes.annotator import Annotator
from yolox_trt.ros.nodes.camera_counters import CameraCounters
from yolox_trt.ros.nodes.node_parameters import NodeParameters
from yolox_trt.ros.nodes.parameters import (
    CAMERA_PARAMETERS,
    EXECUTOR_PARAMETERS,
    class_thresholds_by_id,
    parse_class_thresholds,
    parse_pairs,
    parse_roi,
)
from yolox_trt.ros.rclpy_versions import NoEventHandlers
from yolox_trt.ros.subscription_events import SubscriptionEvents

#: Reasons to refuse images that are logged: a driver may send images that are wrong in many ways.
_MOST_REFUSALS = 10

#: Results are few and small: a late subscriber or a hiccup on the network loses none of the last.
OUTPUT_DEPTH = 10


class StreamOwner(Protocol):
    """What a CameraNode asks of the process that it lives in."""

    @property
    def ingest(self) -> IngestPool | None:
        """The processes that receive images; None where the node does so itself."""
        ...

    def submit(self, frame: Frame) -> object:
        """Give a frame to the executor."""
        ...

    def update_stream(self, config: StreamConfig) -> None:
        """Change the camera's stream; raises ConfigurationError."""
        ...


class CameraNode(NoEventHandlers, Node):
    """One camera: subscribes to its images, publishes its detections.

    Its life follows the process's managed node: configure(), activate(), deactivate(), cleanup().
    Everything but `deliver` runs in rclpy's thread; `deliver` runs in a Device's worker thread.

    Args:
        name: name of the node, and id of the Stream.
        owner: the process's executor.
        annotator: draws ~/annotated.
        overrides: parameter overrides beside those of the process, which they go before.
        remap_rules: remappings `from:=to` of this node alone.

    Raises:
        ConfigurationError: a parameter's override is wrong.
    """

    def __init__(
        self,
        name: str,
        *,
        owner: StreamOwner,
        annotator: Annotator,
        overrides: Sequence[Parameter] = (),
        remap_rules: Sequence[str] = (),
    ) -> None:
        # A process-wide `__node:=` (as launch's Node(name=...) passes it) means the managed node;
        # a rule of this node's own goes before it.
        rules = [part for rule in (f"__node:={name}", *remap_rules) for part in ("-r", rule)]
        super().__init__(name, cli_args=["--ros-args", *rules], parameter_overrides=list(overrides))
        self.counters = CameraCounters()
        self._refusals: set[str] = set()
        self._owner = owner
        self._annotator = annotator
        self._active = False
        self._configured = False
        # Values of parameters that apply at configure, as they were then.
        self._fixed: dict[str, Any] = {}
        self._subscribed_to = ""
        self._subscribed_depth = 0
        self._fault = ""
        self._subscription: Subscription | None = None
        self._events: SubscriptionEvents | None = None
        self._decoder: CompressedDecoder | None = None
        self._outputs: dict[str, Publisher] = {}
        self._builder = DetectionMessageBuilder()
        self._objects: ObjectMessageBuilder | None = None
        self._annotated: AnnotatedImage | None = None
        self._spec: ModelSpec | None = None
        self._class_names: tuple[str, ...] = ()
        try:
            self.parameters = NodeParameters(
                self,
                CAMERA_PARAMETERS,
                foreign=[spec.name for spec in EXECUTOR_PARAMETERS],
                on_change=self._on_change,
            )
            self._roi = parse_roi(self.parameters["roi"])
        except BaseException:
            self.destroy_node()
            raise

    @property
    def subscribed(self) -> bool:
        """Whether the camera's images are subscribed to."""
        return bool(self._subscribed_to)

    @property
    def fault(self) -> str:
        """Why the camera cannot be subscribed to, "" where it can."""
        return self._fault

    @property
    def image_topic(self) -> str:
        """Topic of the camera's images, resolved and with remappings applied.

        A name that ROS 2 cannot resolve is returned as it is.
        """
        try:
            return str(self.resolve_topic_name(self._topic))
        except Exception:  # RCLError or InvalidTopicNameException, by distribution
            return str(self._values["image_topic"])

    @property
    def _values(self) -> dict[str, Any]:
        return self._fixed or self.parameters.as_dict()

    @property
    def _topic(self) -> str:
        """The name to subscribe to, which remappings still apply to."""
        topic = str(self._values["image_topic"])
        if self._values["transport"] != "compressed":
            return topic
        # A remapping of the very name of the compressed topic goes before one of the raw topic,
        # which image_transport applies before it appends the transport.
        own = f"{topic}/compressed"
        if self.resolve_topic_name(own) != self.resolve_topic_name(own, only_expand=True):
            return own
        return f"{self.resolve_topic_name(topic)}/compressed"

    def stream_config(
        self, model: str, *, changes: dict[str, Any] | None = None, spec: ModelSpec | None = None
    ) -> StreamConfig:
        """Return the configuration of the camera's Stream.

        Args:
            model: the executor's name of the model that serves it.
            changes: parameter values that go before the present ones.
            spec: the model, where it is known already: class thresholds are checked against it.

        Raises:
            ConfigurationError: a value that does not fit, such as a threshold for a class that
                the model does not have.
        """
        values = self.parameters.as_dict() | (changes or {})
        spec = spec or self._spec
        thresholds: dict[int, float] = {}
        if spec is not None:
            names = self._class_names or spec.class_names
            thresholds = class_thresholds_by_id(
                parse_class_thresholds(values["class_thresholds"]), names, spec.num_classes
            )
        return StreamConfig(
            id=self.get_name(),
            model=model,
            device=values["device"] or "auto",
            queue_depth=values["queue_depth"],
            overflow=values["overflow"],
            stale_after=values["stale_after"],
            priority=values["priority"],
            weight=values["weight"],
            max_rate=values["max_rate"],
            deadline=values["deadline"],
            expected_rate=values["expected_rate"],
            enabled=values["enabled"],
            allow_model_change=values["allow_model_change"],
            options=PostprocessOptions(
                score_threshold=values["score_threshold"],
                nms_threshold=values["nms_threshold"],
                class_thresholds=thresholds,
                max_detections=values["max_detections"],
                class_agnostic=values["class_agnostic"],
            ),
        )

    def configure(self, model: str, spec: ModelSpec, class_names: Sequence[str]) -> StreamConfig:
        """Create the outputs for a model and return the Stream's configuration.

        Args:
            model: the executor's name of the model.
            spec: what its network takes and gives.
            class_names: names of its classes, () where they are unknown.

        Raises:
            ConfigurationError: a parameter does not fit the model.
            MissingDependencyError: ~/objects is asked for without Autoware's messages.
        """
        self._fixed = self.parameters.as_dict()
        self._class_names = tuple(class_names)
        config = self.stream_config(model, spec=spec)
        self._builder = DetectionMessageBuilder(self._class_names)
        if self.parameters["publish_objects"]:
            remap = parse_pairs("class_remap", self.parameters["class_remap"])
            self._objects = ObjectMessageBuilder(label_table(self._class_names, remap))
        self._spec, self._model = spec, model
        self._outputs["detections"] = self.create_publisher(
            Detection2DArray, "~/detections", OUTPUT_DEPTH
        )
        # Reliable, as RViz asks for by default; the annotator's own thread publishes, so that a
        # slow listener holds up nothing else.
        self._outputs["annotated"] = self.create_publisher(Image, "~/annotated", 1)
        if self._objects is not None:
            self._outputs["objects"] = self.create_publisher(
                self._objects.message_type, "~/objects", OUTPUT_DEPTH
            )
        self._publish_vision_info(model)
        self._annotated = AnnotatedImage(self._class_names)
        self._configured = True
        return config

    def activate(self) -> None:
        """Begin to subscribe, on demand or at once."""
        self._active = True
        self.update_subscription()

    def deactivate(self) -> None:
        """End the subscription."""
        self._active = False
        self.update_subscription()

    def cleanup(self) -> None:
        """Remove the outputs; the counters stay."""
        self.deactivate()
        self._configured = False
        self._fixed = {}
        self._annotator.discard(self.get_name())
        for publisher in self._outputs.values():
            self.destroy_publisher(publisher)
        self._outputs.clear()
        self._objects = None
        self._annotated = None
        self._spec = None

    def update_subscription(self) -> None:
        """Subscribe or unsubscribe, as the parameters and the listeners ask for.

        A camera that cannot be subscribed to says so in `fault` and in the log, and the next call
        tries again: the other cameras go on.
        """
        try:
            wanted = self._active and self._configured and self.parameters["enabled"]
            if wanted and self.parameters["on_demand"]:
                wanted = self._has_listeners()
            if self.subscribed and not (wanted and self._ring_fits()):
                self._unsubscribe()
            if wanted and not self.subscribed:
                self._subscribe()
            self._fault = ""
        except Exception as error:
            text = (
                str(error)
                if isinstance(error, YoloxTrtError)
                else f"{type(error).__name__}: {error}"
            )
            self._fault = f"{self._values['image_topic']} cannot be subscribed to: {text}"
            self.get_logger().error(self._fault, throttle_duration_sec=10.0)

    def poll_events(self) -> None:
        """Count the images that the middleware has lost; to be called now and then."""
        if self._events is not None:
            self._events.poll()

    def _ring_fits(self) -> bool:
        """Whether the subscription suits the queue: a ring's slots are fixed when it is made."""
        depth = self.parameters["queue_depth"]
        return self._owner.ingest is None or bool(self._subscribed_depth == depth)

    def _has_listeners(self) -> bool:
        return any(
            publisher.get_subscription_count() > 0
            for output, publisher in self._outputs.items()
            if output in ("detections", "objects")
            or (output == "annotated" and self.parameters["publish_annotated"])
        )

    def _subscribe(self) -> None:
        reliable = self._fixed["qos_reliability"] == "reliable"
        compressed = self._fixed["transport"] == "compressed"
        depth = self._fixed["qos_depth"]
        topic = str(self.resolve_topic_name(self._topic))
        queue_depth = self.parameters["queue_depth"]
        self.counters.subscribed_at = time.monotonic()
        try:
            if self._owner.ingest is not None:
                self._owner.ingest.subscribe(
                    self.get_name(),
                    self,
                    topic=topic,
                    compressed=compressed,
                    reliable=reliable,
                    depth=depth,
                    queue_depth=queue_depth,
                )
            else:
                if compressed:
                    self._decoder = CompressedDecoder(
                        self.get_name(), self._decode, self._count_replaced
                    )
                self._subscription = self.create_subscription(
                    CompressedImage if compressed else Image,
                    self._topic,
                    self._on_compressed if compressed else self._on_image,
                    image_qos(reliable, depth),
                )
                self._events = SubscriptionEvents(
                    self._subscription, self.on_lost, self.get_logger().warning
                )
        except BaseException:
            self._end_subscription()
            raise
        self._subscribed_to, self._subscribed_depth = topic, queue_depth
        self.get_logger().info(f"subscribed to {topic}")

    def _unsubscribe(self) -> None:
        topic, self._subscribed_to = self._subscribed_to, ""
        self._end_subscription()
        self.get_logger().info(f"unsubscribed from {topic}")

    def _end_subscription(self) -> None:
        if self._owner.ingest is not None:
            self._owner.ingest.unsubscribe(self.get_name())
        events, self._events = self._events, None
        if events is not None:
            events.close()
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    # IngestSink: called in the threads of the IngestPool.

    def on_frame(self, frame: Frame) -> None:
        """Take an image that an ingest process has received."""
        self.counters.messages += 1
        self.counters.last_message = frame.received_ns * 1e-9
        roi = self._roi
        if roi is not None:
            try:
                check_roi(roi, frame.height, frame.width)
            except FrameError as error:
                self._refuse(error)
                return
            frame = replace(frame, roi=roi)
        self._owner.submit(frame)

    def on_refused(self, reason: str) -> None:
        """Count an image that an ingest process could not read."""
        self.counters.messages += 1
        self._count_malformed(reason)

    def on_full(self) -> None:
        """Count an image that found no free slot in shared memory."""
        self.counters.messages += 1
        self.counters.replaced += 1

    def on_lost(self, count: int) -> None:
        """Count images that the middleware lost on their way."""
        self.counters.lost += count

    # Callbacks of rclpy, where this process receives the images itself.

    def _on_image(self, message: Image) -> None:
        if self._subscription is None:  # it was queued when the subscription ended
            return
        received_ns = self._arrived()
        try:
            frame = frame_from_image(
                message, stream_id=self.get_name(), received_ns=received_ns, roi=self._roi
            )
        except Exception as error:
            self._refuse(error)
            return
        self._owner.submit(frame)

    def _on_compressed(self, message: CompressedImage) -> None:
        if self._decoder is None:  # it was queued when the subscription ended
            return
        self._decoder.offer(message, self._arrived())

    def _decode(self, message: CompressedImage, received_ns: int) -> None:
        try:
            frame = frame_from_compressed(
                message, stream_id=self.get_name(), received_ns=received_ns, roi=self._roi
            )
        except Exception as error:
            self._refuse(error)
            return
        self._owner.submit(frame)

    def _arrived(self) -> int:
        received_ns = time.monotonic_ns()
        self.counters.messages += 1
        self.counters.last_message = received_ns * 1e-9
        return received_ns

    def _count_replaced(self) -> None:
        self.counters.replaced += 1

    def _refuse(self, error: Exception) -> None:
        """Count an image that cannot be used."""
        self._count_malformed(
            str(error) if isinstance(error, FrameError) else f"{type(error).__name__}: {error}"
        )

    def _count_malformed(self, reason: str) -> None:
        """Say why an image cannot be used, once for each reason."""
        self.counters.malformed += 1
        self.counters.last_refusal = reason
        if reason in self._refusals or len(self._refusals) >= _MOST_REFUSALS:
            return
        self._refusals.add(reason)
        self.get_logger().warning(f"image refused: {reason}")
        if len(self._refusals) == _MOST_REFUSALS:
            self.get_logger().warning("further reasons to refuse images are on /diagnostics only")

    def deliver(self, result: StreamResult) -> None:
        """Publish a result; called in a Device's worker thread."""
        header = result.frame.header
        try:
            self._outputs["detections"].publish(self._builder.build(header, result.detections))
            if self._objects is not None:
                self._outputs["objects"].publish(self._objects.build(header, result.detections))
            self.counters.add_latency(
                (time.monotonic_ns() - result.frame.received_ns) * 1e-9, result.timing.service
            )
            if (
                self.parameters["publish_annotated"]
                and self._outputs["annotated"].get_subscription_count()
            ):
                self._annotator.offer(self.get_name(), self._draw, result)
        except (KeyError, InvalidHandle):
            # The camera was removed, or the process is going down, while its image was in work.
            pass

    def _draw(self, result: StreamResult) -> None:
        """Draw and publish ~/annotated; called in the annotator's thread."""
        annotated, publisher = self._annotated, self._outputs.get("annotated")
        if annotated is None or publisher is None:
            return
        try:
            publisher.publish(annotated.draw(result.frame, result.detections))
        except InvalidHandle:
            pass
        except Exception as error:
            self.get_logger().error(
                f"~/annotated could not be drawn: {error}", throttle_duration_sec=10.0
            )

    def _publish_vision_info(self, method: str) -> None:
        """Publish the latched VisionInfo and the parameter that it points to."""
        self.parameters.publish("class_names", list(self._class_names))
        info = VisionInfo()
        info.header.stamp = self.get_clock().now().to_msg()
        info.method = method
        info.database_location = f"{self.get_fully_qualified_name()}/class_names"
        latched = QoSProfile(
            depth=1,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
            reliability=ReliabilityPolicy.RELIABLE,
        )
        self._outputs["vision_info"] = self.create_publisher(VisionInfo, "~/vision_info", latched)
        self._outputs["vision_info"].publish(info)

    def _on_change(self, changes: dict[str, Any]) -> None:
        """Take over parameters that apply at once; refuses by ConfigurationError."""
        roi = parse_roi(changes["roi"]) if "roi" in changes else self._roi
        if self._configured:
            self._owner.update_stream(self.stream_config(self._model, changes=changes))
        self._roi = roi
        # The values are stored after this callback; the next look at the listeners sees them.
