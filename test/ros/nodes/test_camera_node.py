# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""One camera's fault, remapping or change, beside cameras that go on."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import LifecyclePublisher
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool
from support.ros import RELIABLE, Client, RosProcess, image_message, stream_snapshot
from vision_msgs.msg import Detection2DArray

from yolox_trt.core import ConfigurationError, Device, HeadLayout, ModelSpec, Roi
from yolox_trt.executor import StreamSnapshot
from yolox_trt.ros.latest_worker import LatestWorker
from yolox_trt.ros.messages.images import frame_from_image
from yolox_trt.ros.messages.transports import FrameReader
from yolox_trt.ros.nodes import diagnostics
from yolox_trt.ros.nodes.camera_counters import CameraCounters
from yolox_trt.ros.nodes.camera_node import CameraNode
from yolox_trt.ros.nodes.node_parameters import unused_qos_overrides
from yolox_trt.ros.nodes.parameter_values import check_topic

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]
PICTURE = np.kron(
    np.random.default_rng(3).integers(0, 256, (15, 20, 3)), np.ones((8, 8, 1))
).astype(np.uint8)
SPEC = ModelSpec(
    *("images", 64, 96, None, 3, HeadLayout.UNDECODED, ("output",), ()),
    class_names=("class0", "class1", "class2"),
)


class Service:
    """What a camera is connected to, as far as a camera sees it."""

    def __init__(self, ingest: Any = None) -> None:
        self.ingest = ingest
        self.executor = self
        self.devices = (Device("cpu"),)
        self.frames: list[Any] = []
        self.models: list[str] = []
        self.chosen: list[Any] = []
        self.updates: list[Any] = []

    def find(self, model: str) -> tuple[str, Any]:
        return "small", SPEC

    def add_stream(self, config: Any, on_result: Any) -> None: ...

    def remove_stream(self, name: str) -> StreamSnapshot:
        return stream_snapshot(name, received=len(self.frames), in_flight=len(self.frames))

    def update_stream(self, name: str, **changes: Any) -> None:
        self.updates.append(changes)

    def choose(self, parameters: Any, picture: Any, on_chosen: Any) -> None:
        self.chosen.append((picture, on_chosen))

    def submit(self, frame: Any, age: float, model: str) -> None:
        self.frames.append(frame)
        self.models.append(model)


class Ingest:
    """The ingest processes, as far as a camera sees them."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.topics: list[Any] = []

    def subscribe(self, camera: str, sink: Any, topic: Any, *, queue_depth: int) -> None:
        self.calls.append(queue_depth)
        self.topics.append(topic)

    def unsubscribe(self, camera: str) -> None:
        self.calls.append("end")


@pytest.fixture
def make_camera(domain: int) -> Iterator[Callable[..., CameraNode]]:
    """Make a camera node that is configured and active; it is subscribed without listeners."""
    rclpy.init(args=[], domain_id=domain)
    annotator, cameras = LatestWorker("annotate"), []

    def make(service: Any = None, rules: tuple[str, ...] = (), **values: Any) -> CameraNode:
        values = {"on_demand": False, **values}
        cameras.append(
            CameraNode(
                "front",
                annotator=annotator,
                overrides=[Parameter(name, value=value) for name, value in values.items()],
                remap_rules=rules,
            )
        )
        cameras[-1].configure(service or Service())
        cameras[-1].activate()
        return cameras[-1]

    yield make
    for camera in cameras:
        camera.cleanup()
        camera.destroy_node()
    annotator.close()
    rclpy.try_shutdown()


def subscription_of(camera: CameraNode) -> Any:
    (found,) = [each for each in camera.subscriptions if "parameter" not in each.topic_name]
    return found


@pytest.mark.parametrize(
    ("rules", "topic"),
    [
        ((), "/front/image_raw/compressed"),
        (("~/image_raw:=/cam/image_raw",), "/cam/image_raw/compressed"),
        (("~/image_raw/compressed:=/jpeg",), "/jpeg"),
        (("~/image_raw:=/cam/image_raw", "~/image_raw/compressed:=/jpeg"), "/jpeg"),
        # As with image_transport, which subscribes to the name that it has made.
        (("~/image_raw:=/cam", "/cam/compressed:=/jpeg"), "/jpeg"),
    ],
)
def test_compressed_images_follow_a_remapping_of_the_image_topic(
    make_camera: Callable[..., CameraNode], rules: tuple[str, ...], topic: str
) -> None:
    camera = make_camera(rules=rules, transport="compressed")
    assert camera.counters.topic
    assert camera.image_topic == topic
    assert subscription_of(camera).topic_name == topic


def test_a_remapping_of_raw_images_is_applied_once(make_camera: Callable[..., CameraNode]) -> None:
    camera = make_camera(rules=("/a:=/b", "/b:=/a"), image_topic="/a")
    assert subscription_of(camera).topic_name == camera.image_topic == "/b"


def test_a_subscription_that_fails_is_tried_again(
    make_camera: Callable[..., CameraNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = make_camera(transport="compressed", enabled=False)
    assert camera.set_parameters([Parameter("enabled", value=True)])[0].successful
    before = threading.active_count()

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no room for another subscription")

    with monkeypatch.context() as patch:
        patch.setattr(camera, "create_subscription", fail)
        for _ in range(2):
            camera.update_subscription()
            assert not camera.counters.topic
            assert "no room for another subscription" in camera.counters.fault
            assert "~/image_raw" in camera.counters.fault
    assert threading.active_count() == before
    camera.update_subscription()
    assert camera.counters.topic
    assert camera.counters.fault == ""


@pytest.mark.parametrize("name", ["/{foo}/image", "/{}/image", "/a{node", "/a}b", "{nodes}/x"])
def test_a_topic_with_an_unknown_substitution_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\{node\}, \{ns\} and \{namespace\}"):
        check_topic(name)


def test_a_camera_that_cannot_be_subscribed_to_leaves_the_others_alone(
    start_cameras: Start, client: Client
) -> None:
    # {ns} is / here, and ROS 2 takes no empty part of a name.
    process = start_cameras(
        {
            "multi_camera": {"cameras": ["bad", "front"]},
            "bad": {"image_topic": "/{ns}/image_raw", "on_demand": False},
        }
    )
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    results = client.collect(Detection2DArray, "/front/detections")
    publisher = client.publisher(Image, "/front/image_raw")
    client.publish_until(publisher, image_message(PICTURE), lambda: results, what="a result")

    def of_bad() -> list[Any]:
        return [s for m in diagnostics for s in m.status if s.name.endswith("stream bad")]

    client.spin_until(lambda: of_bad() and of_bad()[-1].level == DiagnosticStatus.ERROR, 60)
    assert "cannot be subscribed to" in of_bad()[-1].message
    assert "/{ns}/image_raw" in of_bad()[-1].message
    assert "Traceback" not in process.output
    assert process.stop()[0] == 0


def test_annotated_reaches_a_reliable_listener(start_cameras: Start, client: Client) -> None:
    """RViz's image display asks for reliable delivery by default."""
    start_cameras({"multi_camera": {"cameras": ["front"]}})
    pictures = client.collect(Image, "/front/annotated", RELIABLE)
    publisher = client.publisher(Image, "/front/image_raw")
    client.publish_until(publisher, image_message(PICTURE), lambda: pictures, what="~/annotated")
    assert (pictures[0].height, pictures[0].width) == PICTURE.shape[:2]


def test_another_queue_depth_makes_another_ring(make_camera: Callable[..., CameraNode]) -> None:
    ingest = Ingest()
    camera = make_camera(Service(ingest), queue_depth=2)
    camera.update_subscription()
    assert ingest.calls == [2]
    assert camera.set_parameters([Parameter("queue_depth", value=7)])[0].successful
    camera.update_subscription()
    camera.update_subscription()
    assert ingest.calls == [2, "end", 7]


def test_another_queue_depth_keeps_a_subscription_of_its_own(
    make_camera: Callable[..., CameraNode],
) -> None:
    camera = make_camera()
    former = subscription_of(camera)
    assert camera.set_parameters([Parameter("queue_depth", value=7)])[0].successful
    camera.update_subscription()
    assert subscription_of(camera) is former


def test_an_image_that_comes_after_the_subscription_is_left_out(
    make_camera: Callable[..., CameraNode],
) -> None:
    service = Service()
    camera = make_camera(service)
    on_image = subscription_of(camera).callback
    on_image(image_message(PICTURE), {})
    assert len(service.frames) == 1
    camera.deactivate()
    on_image(image_message(PICTURE), {})
    counters = camera.counters
    assert (len(service.frames), counters.malformed, counters.replaced) == (1, 0, 0)


@pytest.mark.parametrize("ingest", [False, True])
def test_the_roi_is_checked_and_counted_alike_on_both_ways(
    make_camera: Callable[..., CameraNode], ingest: bool
) -> None:
    service = Service(Ingest() if ingest else None)
    camera = make_camera(service, roi=[8, 8, 32, 16])

    def give(picture: np.ndarray) -> None:
        message = image_message(picture)
        if ingest:
            camera.on_frame(frame_from_image(message, stream_id="front", received_ns=1))
        else:
            subscription_of(camera).callback(message, {})

    give(PICTURE)
    give(PICTURE[:20].copy())
    (frame,) = service.frames
    assert (frame.stream_id, frame.roi) == ("front", Roi(8, 8, 32, 16))
    assert camera.counters.malformed == 1
    assert "a rectangle inside the 160x20 image" in camera.counters.last_refusal
    assert "fix: set the parameter `roi`" in camera.counters.last_refusal
    assert camera.set_parameters([Parameter("roi", value=[0, 0, 0, 0])])[0].successful
    give(PICTURE[:20].copy())
    assert service.frames[-1].roi is None


def test_a_network_that_changes_its_size_gets_whole_images(
    make_camera: Callable[..., CameraNode],
) -> None:
    pool = Ingest()
    camera = make_camera(Service(pool), transport="compressed", jpeg_scale="1/2")
    assert (pool.topics[-1].jpeg_scale, pool.topics[-1].input_size) == ("1/2", (64, 96))
    service: Any = camera._service
    camera._on_size(service, (64, 64), "another")
    camera.update_subscription()
    assert pool.calls[-2] == "end" and pool.topics[-1].input_size is None


def test_images_of_two_shapes_are_each_served_at_their_size(
    make_camera: Callable[..., CameraNode],
) -> None:
    """A size is asked for once, and what a publisher alternates between changes nothing else."""
    service = Service()
    camera = make_camera(service)
    wide, upright = image_message(PICTURE), image_message(PICTURE.transpose(1, 0, 2).copy())

    def give(*messages: Image) -> list[str]:
        del service.models[:]
        for message in messages:
            subscription_of(camera).callback(message, {})
        return service.models

    assert give(wide, upright, wide, upright) == [""] * 4
    (first, on_first), (second, on_second) = service.chosen
    assert (first, second) == ((120, 160), (160, 120))
    on_second("small@96x64")
    on_first("small")
    assert give(wide, upright, wide, upright) == ["small", "small@96x64"] * 2
    assert len(service.chosen) == 2
    assert [each["model"] for each in service.updates] == ["small@96x64", "small"]
    assert [each["model"] for each in service.updates] == ["small@96x64", "small"]


def test_a_publisher_of_ever_new_shapes_costs_no_more_and_is_told_once(
    make_camera: Callable[..., CameraNode], capfd: pytest.CaptureFixture[str]
) -> None:
    """What came first keeps its size; the others are served as they come."""
    service = Service()
    camera = make_camera(service)
    callback = subscription_of(camera).callback
    for height in range(2, 102, 2):
        callback(image_message(PICTURE[:height].copy()), {})
        if height == 2:
            service.chosen[0][1]("small@96x64")
    assert len(service.models) == 50
    assert [picture for picture, _ in service.chosen] == [(n, 160) for n in range(2, 34, 2)]
    callback(image_message(PICTURE[:2].copy()), {})
    assert service.models[-1] == "small@96x64"
    lines = capfd.readouterr().err.splitlines()
    (told,) = (line for line in lines if "after 16 other shapes" in line)
    assert "images of 34x160 (H x W)" in told and "`input_size`" in told


def test_compressed_images_are_decoded_newest_first(
    make_camera: Callable[..., CameraNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image that arrives is counted once: given on, replaced, or refused."""
    started, gate = threading.Event(), threading.Event()
    decode = FrameReader.read

    def slow(*args: Any, **kwargs: Any) -> Any:
        started.set()
        assert gate.wait(60)
        return decode(*args, **kwargs)

    monkeypatch.setattr(FrameReader, "read", slow)
    service = Service()
    camera = make_camera(service, transport="compressed")
    on_image = subscription_of(camera).callback
    jpeg = cv2.imencode(".jpg", PICTURE)[1].tobytes()
    on_image(CompressedImage(format="jpeg", data=jpeg), {})
    assert started.wait(60)
    for stamp, data in ((1, jpeg), (2, b"no jpeg"), (3, jpeg)):
        message = CompressedImage(format="jpeg", data=data)
        message.header.stamp.nanosec = stamp
        on_image(message, {})
    gate.set()
    end = time.monotonic() + 60
    while len(service.frames) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert [frame.stamp_ns for frame in service.frames] == [0, 3]
    assert (camera.counters.replaced, camera.counters.malformed) == (2, 0)


@pytest.mark.parametrize(
    ("last_message", "subscribed_at", "now", "level"),
    [
        (10.0, 50.0, 51.0, diagnostics.OK),
        (0.0, 50.0, 51.0, diagnostics.OK),
        (10.0, 50.0, 53.0, diagnostics.WARN),
        (52.0, 50.0, 53.0, diagnostics.OK),
    ],
)
def test_a_new_subscription_gets_time_for_its_first_image(
    last_message: float, subscribed_at: float, now: float, level: bytes
) -> None:
    counters = CameraCounters(
        topic="/front/image_raw", last_message=last_message, subscribed_at=subscribed_at
    )
    report = diagnostics.StreamReport()
    entry = report.make("stream front", counters.topic, counters, stream_snapshot("front"), now)
    assert entry.level == level


@pytest.mark.parametrize(
    ("kind", "reliable", "level", "reason"),
    [
        (None, True, diagnostics.WARN, ": nobody publishes /front/image_raw"),
        (CompressedImage, True, diagnostics.ERROR, ": /front/image_raw carries sensor_msgs/.*"),
        (Image, False, diagnostics.ERROR, ": /front/image_raw is published best-effort.*"),
        (Image, True, diagnostics.WARN, ""),
    ],
)
def test_silence_is_explained_as_far_as_the_graph_tells(
    make_camera: Callable[..., CameraNode],
    client: Client,
    kind: type | None,
    reliable: bool,
    level: bytes,
    reason: str,
) -> None:
    camera = make_camera(qos_reliability="reliable")
    if kind is not None:
        qos = RELIABLE if reliable else qos_profile_sensor_data
        client.publisher(kind, "/front/image_raw", qos)
        client.spin_until(lambda: camera.count_publishers("/front/image_raw"))
    entry = diagnostics.StreamReport().make(
        *("", "", camera.counters, stream_snapshot("front"), time.monotonic() + 60),
        why_silent=camera.why_silent,
    )
    assert entry.level == level
    assert re.fullmatch(f"no image arrives{reason}", entry.message)


def test_a_subscription_notes_its_time(make_camera: Callable[..., CameraNode]) -> None:
    camera = make_camera()
    first = camera.counters.subscribed_at
    assert first > 0.0
    camera.deactivate()
    camera.activate()
    assert camera.counters.subscribed_at > first


@pytest.mark.parametrize("ingest", [False, True])
def test_the_qos_can_be_overridden(make_camera: Callable[..., CameraNode], ingest: bool) -> None:
    pool = Ingest()
    topic = "qos_overrides./front/image_raw.subscription."
    camera = make_camera(
        Service(pool) if ingest else None,
        **{
            f"{topic}depth": 7,
            f"{topic}reliability": "reliable",
            "qos_overrides./front/detections.publisher.depth": 3,
            "qos_overrides./elsewhere.subscription.depth": 3,
            "qos_overrides./clock.subscription.depth": 3,
        },
    )
    if ingest:
        found = [pool.topics[0].depth, pool.topics[0].reliability]
    else:
        (endpoint,) = camera.get_subscriptions_info_by_topic("/front/image_raw")
        policy = endpoint.qos_profile.reliability
        found = [camera.get_parameter(f"{topic}depth").value, policy.name.lower()]
    assert found == [7, "reliable"]
    assert camera.get_parameter("qos_overrides./front/detections.publisher.depth").value == 3
    assert unused_qos_overrides([camera]) == ["qos_overrides./elsewhere.subscription.depth"]


def test_a_qos_that_ros_does_not_take_is_refused(make_camera: Callable[..., CameraNode]) -> None:
    with pytest.raises(ConfigurationError, match="reliable, best_effort or system_default"):
        make_camera(**{"qos_overrides./front/image_raw.subscription.reliability": "sure"})


def test_the_reliability_can_be_that_of_the_system(
    make_camera: Callable[..., CameraNode],
) -> None:
    camera = make_camera(qos_reliability="system_default")
    assert camera.counters.topic
    assert camera.counters.fault == ""


def test_outputs_publish_while_the_camera_is_active(
    make_camera: Callable[..., CameraNode], client: Client
) -> None:
    camera = make_camera(detections_topic="/elsewhere", annotated_topic="~/drawn")
    names = {each.topic_name for each in camera.publishers}
    drawn = {"/front/drawn", "/front/drawn/compressed"}
    assert {"/elsewhere", "/front/vision_info", *drawn} <= names
    assert not names & {"/front/detections", "/front/annotated"}
    outputs = [each for each in camera.publishers if isinstance(each, LifecyclePublisher)]
    assert len(outputs) == 4
    assert all(each.is_activated for each in outputs)
    camera.deactivate()
    camera.mute()
    assert not any(each.is_activated for each in outputs)


def test_a_service_switches_the_camera_off_and_on(
    make_camera: Callable[..., CameraNode],
) -> None:
    camera = make_camera()
    (service,) = [each for each in camera.services if each.srv_name.endswith("enable")]
    for wanted in (False, True):
        response = service.callback(SetBool.Request(data=wanted), SetBool.Response())
        assert (response.success, response.message) == (True, "enabled" if wanted else "disabled")
        assert camera.get_parameter("enabled").value is wanted
        camera.update_subscription()
        assert bool(camera.counters.topic) is wanted


def test_labels_are_checked_when_they_are_set(make_camera: Callable[..., CameraNode]) -> None:
    """What would be refused at the next configure leaves the node unconfigured then."""
    camera = make_camera()

    def remap(entry: str) -> Any:
        return camera.set_parameters_atomically([Parameter("class_remap", value=[entry])])

    assert "`class_remap` for class 'zebra'" in remap("zebra:CAR").reason
    assert "expected one of UNKNOWN, CAR" in remap("class0:10").reason
    assert remap("class0:-1").successful


@pytest.mark.parametrize("name", ["~/image_annotations", "image_annotations", "~/vision_info"])
def test_two_outputs_on_one_topic_are_refused(
    make_camera: Callable[..., CameraNode], name: str
) -> None:
    """Else one of them would be missing without a word."""
    rules = ("image_annotations:=/front/image_annotations",)
    with pytest.raises(ConfigurationError, match="two outputs of camera 'front' on /front/"):
        make_camera(rules=rules, publish_image_annotations=True, detections_topic=name)
