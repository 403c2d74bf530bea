# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CameraNode: one camera's parameters, images and results."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from std_srvs.srv import SetBool

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.frame import Frame
from yolox_trt.core.input_size import Size, format_size
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.detectors.auto_size import picture_of
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.latest_worker import LatestWorker
from yolox_trt.ros.messages.autoware import label_table
from yolox_trt.ros.messages.transports import TRANSPORTS
from yolox_trt.ros.nodes import diagnostics
from yolox_trt.ros.nodes.camera_counters import CameraCounters
from yolox_trt.ros.nodes.camera_outputs import CameraOutputs
from yolox_trt.ros.nodes.camera_subscription import CameraSubscription, topic_of
from yolox_trt.ros.nodes.detection_service import (
    DetectionService,
    check_model_file,
    refuse_foreign_device,
)
from yolox_trt.ros.nodes.node_parameters import (
    NodeParameters,
    ProcessParameters,
    TypedParameters,
    check_ros_parameters,
)
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS, EXECUTOR_OPTIONS, CameraParameters
from yolox_trt.ros.nodes.stamp_age import StampAge
from yolox_trt.ros.rclpy_versions import NoEventHandlers

#: Reasons to refuse images that are logged: a driver may send images that are wrong in many ways.
_MOST_REFUSALS = 10

#: Shapes of images for which a model is asked: a publisher decides how many there are.
_MOST_SHAPES = 16

_NUMBERS = itertools.count(1)


class CameraNode(TypedParameters, NoEventHandlers, Node):
    """One camera: gives its images to the executor; CameraOutputs publishes the results.

    Its life follows the process's managed node: configure(), activate(), deactivate(), cleanup().
    All of it runs in rclpy's thread, but for the calls of an ImageSink.

    Args:
        name: name of the node, and id of the Stream.
        annotator: draws ~/annotated.
        overrides: parameter overrides beside those of the process, which they go before; they came
            in a message.
        process: what its parameters have in common with those of the process's other nodes.
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
        process: ProcessParameters | None = None,
        remap_rules: Sequence[str] = (),
    ) -> None:
        check_ros_parameters(overrides)
        # A process-wide `__node:=` (as launch's Node(name=...) passes it) means the managed node;
        # a rule of this node's own goes before it.
        rules = [part for rule in (f"__node:={name}", *remap_rules) for part in ("-r", rule)]
        super().__init__(name, cli_args=["--ros-args", *rules], parameter_overrides=list(overrides))
        self.number = next(_NUMBERS)
        self.counters = CameraCounters(StampAge())
        self.report = diagnostics.StreamReport()
        self._refusals: set[str] = set()
        self._counting = threading.Lock()
        self._annotator = annotator
        self._active = False
        # From configure() to cleanup(); what applies at configure stays in `_configured`.
        self._service: DetectionService | None = None
        self._configured: CameraParameters | None = None
        self._model: tuple[str, ModelSpec] | None = None
        self._outputs: CameraOutputs | None = None
        self._subscription: CameraSubscription | None = None
        #: (height, width) of images -> the executor's name of the model at the size that fits them;
        #: "" while it is not there: they are served by the Stream's.
        self._models: dict[Size, str] = {}
        self._many_shapes = False
        try:
            self.parameters = NodeParameters(
                self,
                CAMERA_OPTIONS,
                functools.partial(CameraParameters.of, name),
                foreign=EXECUTOR_OPTIONS,
                process=process or ProcessParameters(),
                sent=[each.name for each in overrides],
                on_change=self._on_change,
            )
            self._roi = self.parameters.current.roi
            self.create_service(SetBool, "~/enable", self._on_enable)
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
            MissingDependencyError: outputs for Autoware are asked for without its messages.
        """
        parameters = self.parameters.current
        model, spec = service.find(parameters)
        spec = parameters.named(spec)
        self._model = model, spec
        config = self._stream_config(parameters, service)
        self._configured = parameters
        self._outputs = CameraOutputs(self, model, spec, parameters, self.counters, self._annotator)
        self.parameters.publish("class_names", list(spec.class_names))
        # A mask tells the class of each pixel of the source; stretched, one axis may be enlarged.
        whole = spec.segmentation is not None or spec.preprocessing.resize == "stretch"
        input_size = None if whole else (spec.input_height, spec.input_width)
        self._subscription = CameraSubscription(
            *(self, self, parameters, service.ingest, self.counters, input_size),
            devices=service.executor.devices,
        )
        service.executor.add_stream(config, self._outputs.publish)
        self._service = service

    def activate(self) -> None:
        """Let the outputs publish, and begin to subscribe, on demand or at once."""
        self._active = True
        if self._outputs is not None:
            self._outputs.activate()
        self.update_subscription()

    def deactivate(self) -> None:
        """End the subscription."""
        self._active = False
        self.update_subscription()

    def mute(self) -> None:
        """Let the outputs publish no more, after the last result."""
        if self._outputs is not None:
            self._outputs.deactivate()

    def cleanup(self) -> None:
        """Remove the outputs and the Stream; the counters stay."""
        self.deactivate()
        service, self._service = self._service, None
        if service is not None:
            self.counters.retire(service.executor.remove_stream(self.get_name()))
        outputs, self._outputs = self._outputs, None
        if outputs is not None:
            outputs.close()
        self._subscription = self._configured = self._model = None
        self._models, self._many_shapes = {}, False

    def update_subscription(self) -> None:
        """Subscribe or unsubscribe, as the parameters and the listeners ask for; count lost images.

        A camera that cannot be subscribed to says so in `counters.fault` and in the log, and the
        next call tries again.
        """
        if self._outputs is None or self._subscription is None:
            return
        # ROS time is the system's but with `use_sim_time`; rclpy makes seven calls of it.
        simulated = self.get_clock().ros_time_is_active
        self.counters.stamps.clock = self._ros_time if simulated else time.time_ns
        parameters = self.parameters.current
        masks = self._outputs.masks_wanted
        heard = self._outputs.look_for_listeners(annotated=parameters.publish_annotated)
        if self._outputs.masks_wanted != masks and self._service is not None:
            config = self._stream_config(parameters, self._service)
            self._service.executor.update_stream(config.id, options=config.options)
        wanted = self._active and parameters.stream.enabled
        wanted = wanted and (heard or not parameters.on_demand)
        self._subscription.update(wanted, parameters.stream.queue_depth)

    def _ros_time(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def why_silent(self) -> tuple[bytes, str]:
        """Return why no image arrives, as far as the graph tells, and how bad that is."""
        parameters = self._configured or self.parameters.current
        topic = self.counters.topic
        kind = TRANSPORTS[parameters.transport].message_type
        publishers = self.get_publishers_info_by_topic(topic)
        fitting = [each for each in publishers if each.topic_type == kind]
        best_effort = ReliabilityPolicy.BEST_EFFORT
        if not publishers:
            return diagnostics.WARN, f"nobody publishes {topic}"
        if not fitting:
            return diagnostics.ERROR, (
                f"{topic} carries {publishers[0].topic_type}; expected {kind}; "
                "fix: the parameters `image_topic` and `transport`"
            )
        assert self._subscription is not None
        if self._subscription.qos.reliability == ReliabilityPolicy.RELIABLE and all(
            each.qos_profile.reliability == best_effort for each in fitting
        ):
            return diagnostics.ERROR, (
                f"{topic} is published best-effort; expected reliable; fix: set the parameter "
                "`qos_reliability` to best_effort, or the publisher to reliable"
            )
        return diagnostics.WARN, ""

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
        counters = self.counters
        counters.last_message = frame.received_ns * 1e-9
        if service is not None:
            model = self._models.get(picture_of(frame))
            if model is None:
                model = self._choose(service, picture_of(frame))
            age = counters.stamps.judge(frame.stamp_ns, frame.received_ns)
            service.executor.submit(frame, age, model)

    def _choose(self, service: DetectionService, picture: Size) -> str:
        """Ask for the model at the size that fits images of another shape; it may take minutes."""
        if self._configured is None:
            return ""
        if len(self._models) >= _MOST_SHAPES:
            if not self._many_shapes:
                self._many_shapes = True
                self.get_logger().warning(
                    f"images of {format_size(picture)} (H x W) after {_MOST_SHAPES} other shapes: "
                    "further ones run at the input size of this moment; fix: one shape a topic, or "
                    "another `input_size` than auto"
                )
            return ""
        self._models[picture] = ""
        on_size = functools.partial(self._on_size, service, picture)
        service.choose(self._configured, picture, on_size)
        return ""

    def _on_size(self, service: DetectionService, picture: Size, model: str) -> None:
        """Take the model at the size that fits images of a shape, in rclpy's thread."""
        if self._service is not service or self._model is None:
            return
        self._models[picture] = model
        if self._model[0] == model:
            return
        self._model = model, self._model[1]
        service.executor.update_stream(self.get_name(), model=model)
        if self._subscription is not None:
            self._subscription.decode_whole()
        height, width = picture
        self.get_logger().info(
            f"images of {height}x{width} (H x W) are served by {model}", throttle_duration_sec=10.0
        )

    def on_refused(self, reason: str) -> None:
        """Count an image that cannot be used; say why, once for each reason."""
        with self._counting:
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
        with self._counting:
            self.counters.replaced += 1
        self.counters.last_message = time.monotonic()

    def on_lost(self, count: int) -> None:
        """Count images that the middleware lost on their way."""
        self.counters.lost += count

    # Parameters and services -------------------------------------------------------------------

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """Set the parameter `enabled`; the service ~/enable."""
        enabled = [Parameter("enabled", value=request.data)]
        result = self.set_parameters_atomically(enabled)
        response.success = result.successful
        response.message = result.reason or ("enabled" if request.data else "disabled")
        return response

    def _on_change(self, parameters: CameraParameters) -> None:
        """Check what changes, and take over what applies at once; raises ConfigurationError."""
        current = self.parameters.current
        if parameters.model and parameters.model != current.model:
            check_model_file(parameters.model)
        labels = parameters.class_remap, parameters.roi_remap_path
        if self._model is not None and labels != (current.class_remap, current.roi_remap_path):
            label_table(self._model[1].class_names, *labels)
        if self._service is not None:
            config = self._stream_config(parameters, self._service)
            self._service.executor.update_stream(config.id, **vars(config))
        self._roi = parameters.roi
        if self._outputs is not None:
            self._outputs.zones = parameters.zones
        # The next look at the listeners sees the others.

    def _stream_config(
        self, parameters: CameraParameters, service: DetectionService
    ) -> StreamConfig:
        """Return the Stream's configuration; raises ConfigurationError for what does not fit."""
        assert self._model is not None
        config = parameters.stream_config(*self._model)
        masks = self._outputs is not None and self._outputs.masks_wanted
        config = replace(config, options=replace(config.options, masks=masks))
        refuse_foreign_device(config, service.executor.devices)
        return config
