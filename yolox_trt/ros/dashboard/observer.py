# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Observer: a node that listens to multi_camera, and to its cameras while somebody looks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import QoSProfile, ReliabilityPolicy
from vision_msgs.msg import Detection2DArray

from yolox_trt.core.limits import LIMITS, ImageLimits, clean_text
from yolox_trt.kernels.reference.preprocess import to_bgr
from yolox_trt.ros.dashboard.history import History
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.messages.images import stamp_to_ns
from yolox_trt.ros.messages.transports import BY_TYPE, FrameReader, Transport
from yolox_trt.ros.tools.bag_types import make_typestore

#: What the page may change. The nodes check the values.
SETTINGS = ("enabled", "score_threshold", "nms_threshold")
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 75)
_BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_VIDEO = QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT)
#: Seconds after which a parameter service is taken for absent, and requests under way at once.
_SERVICE_TIMEOUT = 3.0
_MOST_REQUESTS = 32
#: Boxes of an image that are shown.
_MOST_BOXES = 300
#: Seconds between two looks at which nodes have gone.
_LOOK_PERIOD = 1.0

#: tell(kind, content): see Observer.
Tell = Callable[[str, Any], None]


@dataclass
class _Watch:
    """What is subscribed to for a camera.

    Attributes:
        node: the camera's.
        topic: of its images.
        transport: how they come on it, None while nobody sends any.
        reader: of its messages.
        entities: the subscriptions.
        due: time.monotonic() from which the next image is shown.
    """

    node: str
    topic: str
    transport: Transport | None
    reader: FrameReader | None = None
    entities: list[Any] = field(default_factory=list)
    due: float = 0.0


class Observer(Node):
    """Tells what happens. All callbacks come in the thread that spins it.

    Args:
        tell: called with "diagnostics" and a sample of History; "detections" and their dictionary;
            "image" and (dictionary, JPEG).
        rate: images a second of a camera, at most.
        width: columns of an image, at most.
    """

    def __init__(self, tell: Tell, *, rate: float, width: int, context: Any = None) -> None:
        super().__init__("yolox_trt_dashboard", context=context, start_parameter_services=False)
        self.history = History()
        self._tell = tell
        self._period = 1.0 / rate
        self._width = width
        self._limits = ImageLimits.of_environment()
        self._types = make_typestore()
        self._watched = False
        self._watches: dict[str, _Watch] = {}
        self._askers: dict[tuple[type, str], Any] = {}
        self._requests = 0
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.create_timer(_LOOK_PERIOD, lambda: self._on_sample(self.history.forget_gone()))

    def watch(self, wanted: bool) -> None:
        """Subscribe to images and results, or end the subscriptions: nobody looks."""
        self._watched = wanted
        self._subscribe()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self._on_sample(self.history.add(message.status))

    def _on_sample(self, sample: dict[str, Any] | None) -> None:
        if sample is not None:
            self._subscribe()
            self._tell("diagnostics", sample)

    def _subscribe(self) -> None:
        """Subscribe to what is new of the cameras, and end what belongs to those that are gone."""
        topics = self.history.topics
        types = dict(self.get_topic_names_and_types()) if self._watched else {}
        wanted = {}
        for camera, (node, topic) in topics.items() if self._watched else ():
            kinds = types.get(topic, [])
            transport = next((each for name, each in BY_TYPE.items() if name in kinds), None)
            wanted[camera] = _Watch(node, topic, transport)
        for camera, watch in list(self._watches.items()):
            new = wanted.get(camera)
            if (
                new is None
                or (new.node, new.topic) != (watch.node, watch.topic)
                or (new.transport not in (None, watch.transport))
            ):
                self._end(self._watches.pop(camera))
        for camera in wanted.keys() - self._watches.keys():
            watch = self._watches[camera] = wanted[camera]
            try:
                self._begin(camera, watch)
            except Exception as error:  # a name that ROS 2 does not take: anybody may have sent it
                self.get_logger().warning(
                    f"camera {camera} cannot be shown: {error_text(error)}",
                    throttle_duration_sec=10.0,
                )
        nodes = {node for node, _ in topics.values()}
        for key in [key for key in self._askers if key[1] not in nodes]:
            self.destroy_client(self._askers.pop(key))

    def _begin(self, camera: str, watch: _Watch) -> None:
        watch.entities.append(
            self.create_subscription(
                Detection2DArray,
                f"{watch.node}/detections",
                partial(self._on_detections, camera),
                _BEST_EFFORT,
            )
        )
        if watch.transport is not None:
            watch.reader = FrameReader(watch.transport, stream_id=camera, limits=self._limits)
            watch.entities.append(
                self.create_subscription(
                    watch.transport.message_class(),
                    watch.topic,
                    partial(self._on_image, camera, watch),
                    _VIDEO if watch.transport.video else _BEST_EFFORT,
                    raw=True,  # most of them are let go unread
                )
            )

    def _end(self, watch: _Watch) -> None:
        for subscription in watch.entities:
            self.destroy_subscription(subscription)
        if watch.reader is not None:
            watch.reader.close()

    def _on_detections(self, camera: str, message: Detection2DArray) -> None:
        boxes = []
        for detection in message.detections[:_MOST_BOXES]:
            best = detection.results[0].hypothesis if detection.results else None
            centre, box = detection.bbox.center.position, detection.bbox
            score = best.score if best else 0.0
            if not math.isfinite(centre.x + centre.y + box.size_x + box.size_y + score):
                continue  # JSON has no such numbers
            boxes.append(
                {
                    "x": centre.x - box.size_x / 2,
                    "y": centre.y - box.size_y / 2,
                    "w": box.size_x,
                    "h": box.size_y,
                    "name": clean_text(best.class_id, LIMITS.name_characters) if best else "",
                    "score": score,
                    "id": clean_text(detection.id, LIMITS.name_characters),
                }
            )
        stamp = str(stamp_to_ns(message.header.stamp))
        self._tell("detections", {"camera": camera, "stamp": stamp, "boxes": boxes})

    def _on_image(self, camera: str, watch: _Watch, data: bytes) -> None:
        now, transport, reader = time.monotonic(), watch.transport, watch.reader
        assert transport is not None and reader is not None
        due = now >= watch.due
        if not due and not transport.video:  # of a video each packet is needed for the next one
            return
        try:
            # Views the pixels, where rclpy copies them: a tenth of its time for 7 MB.
            message = self._types.deserialize_cdr(data, transport.message_type)
            frames = reader.read(message)
            if not due or not frames:
                return
            # A camera of just this rate must not lose every other image to jitter.
            watch.due = now + 0.8 * self._period
            frame = frames[-1]
            picture = to_bgr(frame)
            scale = min(1.0, self._width / frame.width)
            if scale < 1.0:
                size = (self._width, max(1, round(frame.height * scale)))
                picture = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
            _, jpeg = cv2.imencode(".jpg", picture, _JPEG)
        except Exception as error:  # one image that cannot be shown; multi_camera tells why
            watch.due = now + 0.8 * self._period
            self.get_logger().warning(
                f"image of {camera}: {error_text(error)}", throttle_duration_sec=10.0
            )
            return
        about = {
            "camera": camera,
            "stamp": str(frame.stamp_ns),
            "width": frame.width,
            "height": frame.height,
        }
        self._tell("image", (about, jpeg.tobytes()))

    def read_settings(self, camera: str, answer: Callable[[Mapping[str, Any], str], None]) -> None:
        """Ask a camera's node for SETTINGS; `answer` gets those that it has, or why it has none."""

        def on_values(response: Any) -> None:
            values = map(parameter_value_to_python, response.values)
            answer({n: v for n, v in zip(SETTINGS, values, strict=False) if v is not None}, "")

        request = GetParameters.Request(names=list(SETTINGS))
        refuse = partial(answer, {})
        self._call(GetParameters, camera, "get_parameters", request, on_values, refuse)

    def change_setting(
        self, camera: str, name: str, value: Any, answer: Callable[[str], None]
    ) -> None:
        """Set a parameter of a camera's node; `answer` gets why it was refused, or ""."""
        if name not in SETTINGS or not isinstance(value, bool | int | float):
            answer(f"{name} cannot be changed here")
            return
        try:
            number = value if isinstance(value, bool) else float(value)
        except OverflowError:
            answer(f"{name} cannot be that large")
            return
        request = SetParameters.Request(
            parameters=[Parameter(name, value=number).to_parameter_msg()]
        )

        def on_result(response: Any) -> None:
            (result,) = response.results
            answer("" if result.successful else clean_text(result.reason))

        self._call(SetParameters, camera, "set_parameters", request, on_result, answer)

    def _call(
        self,
        kind: type,
        camera: str,
        service: str,
        request: Any,
        on_response: Callable[[Any], None],
        on_failure: Callable[[str], None],
    ) -> None:
        node, _ = self.history.topics.get(camera, ("", ""))
        if not node:
            on_failure(f"no camera {clean_text(camera, LIMITS.name_characters)}")
            return
        if self._requests >= _MOST_REQUESTS:
            on_failure(f"{_MOST_REQUESTS} requests are under way")
            return
        key = (kind, node)
        if key not in self._askers:
            self._askers[key] = self.create_client(kind, f"{node}/{service}")
        client = self._askers[key]
        future: Any = None
        started = time.monotonic()

        def poll() -> None:
            # Waits without holding up the thread: for the service, then for its answer.
            nonlocal future
            response = None
            try:
                if future is None and client.service_is_ready():
                    future = client.call_async(request)
                done = future is not None and future.done()
                if not done and time.monotonic() - started < _SERVICE_TIMEOUT:
                    return
                if future is not None and done:
                    response = future.result()
                elif future is not None:
                    client.remove_pending_request(future)
            except InvalidHandle:  # the node has gone meanwhile, and the client with it
                pass
            self._requests -= 1
            self.destroy_timer(timer)
            if response is None:
                on_failure(f"{node} does not answer")
            else:
                on_response(response)

        self._requests += 1
        timer = self.create_timer(0.02, poll)
