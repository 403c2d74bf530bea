# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CameraSubscription: a camera's images, subscribed to here or by an ingest process."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from yolox_trt.core.device import Device
from yolox_trt.detectors.decoders import decoder_gpu
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.ingest.image_receiver import ImageReceiver
from yolox_trt.ros.ingest.image_topic import ImageSink, ImageTopic
from yolox_trt.ros.ingest.pool import IngestPool
from yolox_trt.ros.messages.transports import TRANSPORTS
from yolox_trt.ros.nodes.camera_counters import CameraCounters
from yolox_trt.ros.nodes.parameters import CameraParameters
from yolox_trt.ros.rclpy_versions import overridden_qos


def topic_of(node: Node, parameters: CameraParameters) -> str:
    """Return the name of the images' topic, which remappings still apply to.

    Raises whatever rclpy raises for a name that ROS 2 cannot resolve.
    """
    topic = parameters.image_topic
    suffix = TRANSPORTS[parameters.transport].suffix
    if not suffix:
        return topic
    # A remapping of the very name of the transport's topic goes before one of the raw topic,
    # which image_transport applies before it appends the transport.
    own = topic + suffix
    if node.resolve_topic_name(own) != node.resolve_topic_name(own, only_expand=True):
        return own
    return str(node.resolve_topic_name(topic)) + suffix


class CameraSubscription:
    """Subscribes while that is wanted; what fails is told, and tried again.

    Args:
        node: the camera node.
        sink: where the images go; called in rclpy's thread, that of the decoder of compressed
            images, or those of the pool.
        parameters: what the camera was configured with.
        ingest: the processes that receive images; None where this one does so itself.
        counters: is told what is subscribed to, or why nothing is.
        input_size: (height, width) of the network's input; None where it needs the whole image.
        devices: those of the detectors: images are decoded on their GPU, where they have one.

    Attributes:
        qos: of the subscription, with the overrides of `qos_overrides`.

    Raises:
        ConfigurationError: an override that ROS 2 does not take.
    """

    def __init__(
        self,
        node: Node,
        sink: ImageSink,
        parameters: CameraParameters,
        ingest: IngestPool | None,
        counters: CameraCounters,
        input_size: tuple[int, int] | None = None,
        devices: Sequence[Device] = (),
    ) -> None:
        self._node = node
        self._sink = sink
        self._parameters = parameters
        self._ingest = ingest
        self._queue_depth = 0
        self._input_size = input_size
        self._gpu, reason = decoder_gpu(parameters.decoder, devices)
        if reason and TRANSPORTS[parameters.transport].encoded:
            node.get_logger().warning(f"images are decoded on the CPU, not on the GPU: {reason}")
        self._counters = counters
        self._receiver: ImageReceiver | None = None
        self.qos = QoSProfile(
            depth=parameters.qos_depth,
            reliability=ReliabilityPolicy[parameters.qos_reliability.upper()],
        )
        try:
            resolved = node.resolve_topic_name(topic_of(node, parameters))
        except Exception:  # as when it is subscribed to, which update() tells
            return
        overridden_qos(node, resolved, self.qos)

    def update(self, wanted: bool, queue_depth: int) -> None:
        """Subscribe or unsubscribe, and count lost images; to be called now and then.

        The other cameras go on whatever fails.

        Args:
            wanted: whether images are wanted.
            queue_depth: of the camera's Stream; a ring's slots are fixed when it is made.
        """
        counters = self._counters
        try:
            fits = self._ingest is None or self._queue_depth == queue_depth
            if counters.topic and not (wanted and fits):
                self._unsubscribe()
            if wanted and not counters.topic:
                self._subscribe(queue_depth)
            if self._receiver is not None:
                self._receiver.poll_events()
            counters.fault = (
                "" if self._ingest is None else self._ingest.fault(self._node.get_name())
            )
        except Exception as error:
            name = self._parameters.image_topic
            counters.fault = f"{name} cannot be subscribed to: {error_text(error)}"
            self._node.get_logger().error(counters.fault, throttle_duration_sec=10.0)

    def decode_whole(self) -> None:
        """Decode at full size from now on: the network's input has another size than at first."""
        if self._input_size is not None:
            self._input_size = None
            if self._parameters.decoder.max_reduction > 1 and self._counters.topic:
                self._unsubscribe()  # update() subscribes again

    def _subscribe(self, queue_depth: int) -> None:
        name, camera = topic_of(self._node, self._parameters), self._node.get_name()
        resolved = str(self._node.resolve_topic_name(name))
        topic = ImageTopic(
            name=name if self._ingest is None else resolved,
            transport=self._parameters.transport,
            reliability=self.qos.reliability.name.lower(),
            depth=self.qos.depth,
            history=self.qos.history.name.lower(),
            max_megapixels=self._parameters.limits.max_megapixels,
            decoder="cpu" if self._gpu is None else "gpu",
            gpu=self._gpu or 0,
            jpeg_scale=self._parameters.decoder.jpeg_scale,
            input_size=self._input_size,
        )
        self._counters.subscribed_at = time.monotonic()
        if self._ingest is not None:
            self._ingest.subscribe(camera, self._sink, topic, queue_depth=queue_depth)
        else:
            self._receiver = ImageReceiver(self._node, camera, topic, self._sink)
        self._counters.topic, self._queue_depth = resolved, queue_depth
        self._node.get_logger().info(f"subscribed to {resolved}")

    def _unsubscribe(self) -> None:
        topic, self._counters.topic = self._counters.topic, ""
        if self._ingest is not None:
            self._ingest.unsubscribe(self._node.get_name())
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.close()
        self._node.get_logger().info(f"unsubscribed from {topic}")
