# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CameraNode: one camera's parameters, images and results."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

from rclpy.node import Node
from rclpy.parameter import Parameter

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.frame import Frame
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.latest_worker import LatestWorker
from yolox_trt.ros.nodes.camera_counters import CameraCounters
from yolox_trt.ros.nodes.camera_outputs import CameraOutputs
from yolox_trt.ros.nodes.camera_subscription import CameraSubscription, topic_of
from yolox_trt.ros.nodes.detection_service import DetectionService, refuse_foreign_device
from yolox_trt.ros.nodes.diagnostics import StreamReport
from yolox_trt.ros.nodes.node_parameters import NodeParameters
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS, EXECUTOR_OPTIONS, CameraParameters
from yolox_trt.ros.rclpy_versions import NoEventHandlers

#: Reasons to refuse images that are logged: a driver may send images that are wrong in many ways.
_MOST_REFUSALS = 10

_NUMBERS = itertools.count(1)


class CameraNode(NoEventHandlers, Node):
    """One camera: gives its images to the executor; CameraOutputs publishes the results.

    Its life follows the process's managed node: configure(), activate(), deactivate(), cleanup().
    All of it runs in rclpy's thread, but for the calls of an ImageSink.

    Args:
        name: name of the node, and id of the Stream.
        annotator: draws ~/annotated.
        overrides: parameter overrides beside those of the process, which they go before.
        remap_rules: remappings `from:=to` of this node alone.

    Attributes:
        number: tells it from all other cameras that the process has had.
        parameters: the present parameters.
        counters: what has become of its images so far.
        report: makes its entries of /diagnostics.

    Raises:
        ConfigurationError: a parameter's override is wrong.
    """

    def __init__(
        self,
        name: str,
        *,
        annotator: LatestWorker,
        overrides: Sequence[Parameter] = (),
        remap_rules: Sequence[str] = (),
    ) -> None:
        # A process-wide `__node:=` (as launch's Node(name=...) passes it) means the managed node;
        # a rule of this node's own goes before it.
        rules = [part for rule in (f"__node:={name}", *remap_rules) for part in ("-r", rule)]
        super().__init__(name, cli_args=["--ros-args", *rules], parameter_overrides=list(overrides))
        self.number = next(_NUMBERS)
        self.counters = CameraCounters()
        self.report = StreamReport()
        self._refusals: set[str] = set()
        self._annotator = annotator
        self._active = False
        # From configure() to cleanup(); what applies at configure stays in `_configured`.
        self._service: DetectionService | None = None
        self._configured: CameraParameters | None = None
        self._model: tuple[str, ModelSpec] | None = None
        self._outputs: CameraOutputs | None = None
        self._subscription: CameraSubscription | None = None
        try:
            self.parameters = NodeParameters(
                self,
                CAMERA_OPTIONS,
                functools.partial(CameraParameters.of, name),
                foreign=EXECUTOR_OPTIONS,
                on_change=self._on_change,
            )
            self._roi = self.parameters.current.roi
        except BaseException:
            self.destroy_node()
            raise

    @property
    def image_topic(self) -> str:
        """Topic of the camera's images, resolved and with remappings applied.

        A name that ROS 2 cannot resolve is returned as it is.
        """
        parameters = self._configured or self.parameters.current
        try:
            return str(self.resolve_topic_name(topic_of(self, parameters)))
        except Exception:  # RCLError or InvalidTopicNameException, by distribution
            return parameters.image_topic

    # Life cycle --------------------------------------------------------------------------------

    def configure(self, service: DetectionService) -> None:
        """Create the outputs and the Stream.

        Args:
            service: the executor with its models, and who receives the images.

        Raises:
            ConfigurationError: a parameter does not fit the model or the devices.
            MissingDependencyError: ~/objects is asked for without Autoware's messages.
        """
        parameters = self.parameters.current
        self._model = model, spec = service.find(parameters.model)
        config = self._stream_config(parameters, service)
        self._configured = parameters
        self._outputs = CameraOutputs(
            self, model, spec.class_names, parameters, self.counters, self._annotator
        )
        self.parameters.publish("class_names", list(spec.class_names))
        self._subscription = CameraSubscription(
            self, self, parameters, service.ingest, self.counters
        )
        service.executor.add_stream(config, self._outputs.publish)
        self._service = service

    def activate(self) -> None:
        """Begin to subscribe, on demand or at once."""
        self._active = True
        self.update_subscription()

    def deactivate(self) -> None:
        """End the subscription."""
        self._active = False
        self.update_subscription()

    def cleanup(self) -> None:
        """Remove the outputs and the Stream; the counters stay."""
        self.deactivate()
        service, self._service = self._service, None
        if service is not None:
            service.executor.remove_stream(self.get_name())
        outputs, self._outputs = self._outputs, None
        if outputs is not None:
            outputs.close()
        self._subscription = self._configured = self._model = None

    def update_subscription(self) -> None:
        """Subscribe or unsubscribe, as the parameters and the listeners ask for; count lost images.

        A camera that cannot be subscribed to says so in `counters.fault` and in the log, and the
        next call tries again.
        """
        if self._outputs is None or self._subscription is None:
            return
        parameters = self.parameters.current
        heard = self._outputs.look_for_listeners(annotated=parameters.publish_annotated)
        wanted = self._active and parameters.stream.enabled
        wanted = wanted and (heard or not parameters.on_demand)
        self._subscription.update(wanted, parameters.stream.queue_depth)

    # ImageSink: on rclpy's thread, that of the decoder, or those of the ingest pool --------------

    def on_frame(self, frame: Frame) -> None:
        """Give an image to the executor."""
        service, roi = self._service, self._roi
        if roi is not None:
            try:
                roi.check_inside(frame.height, frame.width)
                frame = replace(frame, roi=roi)
            except ConfigurationError as error:
                found, expected, _ = error.parts
                fix = ("set ", CAMERA_OPTIONS["roi"], " to fit the camera's resolution")
                refusal = ConfigurationError(found, expected=expected, fix=fix)
                self.on_refused(error_text(refusal))
                return
        self.counters.submitted += 1
        self.counters.last_message = frame.received_ns * 1e-9
        if service is not None:
            service.executor.submit(frame)

    def on_refused(self, reason: str) -> None:
        """Count an image that cannot be used; say why, once for each reason."""
        self.counters.malformed += 1
        self.counters.last_message = time.monotonic()
        self.counters.last_refusal = reason
        if reason in self._refusals or len(self._refusals) >= _MOST_REFUSALS:
            return
        self._refusals.add(reason)
        self.get_logger().warning(f"image refused: {reason}")
        if len(self._refusals) == _MOST_REFUSALS:
            self.get_logger().warning("further reasons to refuse images are on /diagnostics only")

    def on_full(self) -> None:
        """Count an image that found no room, or that a newer one has replaced."""
        self.counters.replaced += 1
        self.counters.last_message = time.monotonic()

    def on_lost(self, count: int) -> None:
        """Count images that the middleware lost on their way."""
        self.counters.lost += count

    # Parameters --------------------------------------------------------------------------------

    def _on_change(self, parameters: CameraParameters) -> None:
        """Take over parameters that apply at once; raises ConfigurationError to refuse them."""
        if self._service is not None:
            config = self._stream_config(parameters, self._service)
            self._service.executor.update_stream(config.id, **vars(config))
        self._roi = parameters.roi
        # The next look at the listeners sees the others.

    def _stream_config(
        self, parameters: CameraParameters, service: DetectionService
    ) -> StreamConfig:
        """Return the Stream's configuration; raises ConfigurationError for what does not fit."""
        assert self._model is not None
        config = parameters.stream_config(*self._model)
        refuse_foreign_device(config, service.executor.devices)
        return config
