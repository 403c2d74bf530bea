# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""One camera's fault, remapping or change, beside cameras that go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from support.ros import RELIABLE, Client, RosProcess, image_message
from vision_msgs.msg import Detection2DArray

from yolox_trt.core import ConfigurationError, ModelSpec
from yolox_trt.ros.nodes import diagnostics
from yolox_trt.ros.nodes.annotator import Annotator
from yolox_trt.ros.nodes.camera_counters import CameraCounters
from yolox_trt.ros.nodes.camera_node import CameraNode
from yolox_trt.ros.nodes.parameters import check_topic

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]
PICTURE = np.kron(
    np.random.default_rng(3).integers(0, 256, (15, 20, 3)), np.ones((8, 8, 1))
).astype(np.uint8)


class Owner:
    """The process that a camera lives in, as far as a camera sees it."""

    def __init__(self, ingest: Any = None) -> None:
        self.ingest = ingest
        self.frames: list[Any] = []

    def submit(self, frame: Any) -> None:
        self.frames.append(frame)

    def update_stream(self, config: Any) -> None: ...


class Ingest:
    """The ingest processes, as far as a camera sees them."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def subscribe(self, camera: str, sink: Any, **settings: Any) -> None:
        self.calls.append(settings["queue_depth"])

    def unsubscribe(self, camera: str) -> None:
        self.calls.append("end")


@pytest.fixture
def make_camera(domain: int, small_model: Path) -> Iterator[Callable[..., CameraNode]]:
    """Make a camera node that is configured and active; it is subscribed without listeners."""
    from yolox_trt.core.device import Device
    from yolox_trt.detectors.factory import create_detector
    from yolox_trt.detectors.options import DetectorOptions

    detector = create_detector(DetectorOptions(model=small_model, device=Device("cpu"), threads=1))
    spec: ModelSpec = detector.spec
    detector.close()
    rclpy.init(args=[], domain_id=domain)
    annotator, cameras = Annotator(), []

    def make(owner: Any = None, rules: tuple[str, ...] = (), **values: Any) -> CameraNode:
        values = {"on_demand": False, **values}
        cameras.append(
            CameraNode(
                "front",
                owner=owner or Owner(),
                annotator=annotator,
                overrides=[Parameter(name, value=value) for name, value in values.items()],
                remap_rules=rules,
            )
        )
        cameras[-1].configure("small", spec, ("class0", "class1", "class2"))
        cameras[-1].activate()
        return cameras[-1]

    yield make
    for camera in cameras:
        camera.cleanup()
        camera.destroy_node()
    annotator.close()
    rclpy.try_shutdown()


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
    assert camera.subscribed
    assert camera.image_topic == topic
    (subscription,) = [each for each in camera.subscriptions if "parameter" not in each.topic_name]
    assert subscription.topic_name == topic


def test_a_remapping_of_raw_images_is_applied_once(make_camera: Callable[..., CameraNode]) -> None:
    camera = make_camera(rules=("/a:=/b", "/b:=/a"), image_topic="/a")
    (subscription,) = [each for each in camera.subscriptions if "parameter" not in each.topic_name]
    assert subscription.topic_name == camera.image_topic == "/b"


def test_a_subscription_that_fails_is_tried_again(
    make_camera: Callable[..., CameraNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = make_camera(transport="compressed", enabled=False)
    monkeypatch.setattr(camera.parameters, "_values", camera.parameters.as_dict())
    camera.parameters._values["enabled"] = True
    before = threading.active_count()

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no room for another subscription")

    with monkeypatch.context() as patch:
        patch.setattr(camera, "create_subscription", fail)
        for _ in range(2):
            camera.update_subscription()
            assert not camera.subscribed
            assert "no room for another subscription" in camera.fault
            assert "~/image_raw" in camera.fault
    assert threading.active_count() == before
    camera.update_subscription()
    assert camera.subscribed
    assert camera.fault == ""


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
    camera = make_camera(Owner(ingest), queue_depth=2)
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
    former = camera._subscription
    assert camera.set_parameters([Parameter("queue_depth", value=7)])[0].successful
    camera.update_subscription()
    assert camera._subscription is former


def test_an_image_that_comes_after_the_subscription_is_left_out(
    make_camera: Callable[..., CameraNode],
) -> None:
    owner = Owner()
    camera = make_camera(owner)
    camera._on_image(image_message(PICTURE))
    assert len(owner.frames) == 1
    camera.deactivate()
    camera._on_image(image_message(PICTURE))
    assert (len(owner.frames), camera.counters.messages) == (1, 1)


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
    counters = CameraCounters(last_message=last_message, subscribed_at=subscribed_at)
    stream: Any = SimpleNamespace(served=True, callback_blocked=0.0)
    report = diagnostics.StreamReport("multi_camera", "front")
    assert report._judge(True, True, counters, stream, {}, now)[0] == level


def test_a_subscription_notes_its_time(make_camera: Callable[..., CameraNode]) -> None:
    camera = make_camera()
    first = camera.counters.subscribed_at
    assert first > 0.0
    camera.deactivate()
    camera.activate()
    assert camera.counters.subscribed_at > first


def test_overrides_of_the_qos_that_have_no_effect_are_reported(start_cameras: Start) -> None:
    process = start_cameras(
        {
            "multi_camera": {"cameras": ["front"]},
            "front": {
                "qos_overrides./front/image_raw.subscription.depth": 5,
                "qos_overrides./clock.subscription.depth": 5,
            },
        }
    )
    line = "'qos_overrides./front/image_raw.subscription.depth' has no effect here"
    assert line in process.output
    assert "`qos_reliability` and `qos_depth`" in process.output
    assert "/clock" not in process.output
