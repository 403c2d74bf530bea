# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What the middleware reports of a subscription, and why rclpy's event handlers are not used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from support.ros import Client
from vision_msgs.msg import Detection2DArray

from yolox_trt.ros import subscription_events
from yolox_trt.ros.ingest.process import IngestNode
from yolox_trt.ros.nodes.camera_node import CameraNode
from yolox_trt.ros.nodes.executor_node import ExecutorNode
from yolox_trt.ros.rclpy_versions import NoEventHandlers, create_spinner
from yolox_trt.ros.subscription_events import SubscriptionEvents, lost_images

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


class PlainNode(NoEventHandlers, Node):
    """A node as the package makes them."""


@pytest.fixture
def context(domain: int) -> Iterator[None]:
    """The default context, for nodes that take no other."""
    rclpy.init(args=[], domain_id=domain)
    yield
    rclpy.try_shutdown()


def wait_until(done: Any, timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


@pytest.mark.parametrize(("change", "lost"), [(1, 1), (7, 7), (0, 0), (-3, 0), (2**31 - 1, 0)])
def test_counts_that_no_image_belongs_to_are_left_out(change: int, lost: int) -> None:
    assert lost_images(SimpleNamespace(total_count_change=change)) == lost


@pytest.mark.parametrize("kind", [CameraNode, ExecutorNode, IngestNode])
def test_the_nodes_have_no_event_handlers(kind: type) -> None:
    assert issubclass(kind, NoEventHandlers)
    # Those that rclpy.Node makes in its own constructor count as well.
    assert kind.__mro__.index(NoEventHandlers) < kind.__mro__.index(Node)


def test_a_subscription_may_be_destroyed_while_an_event_is_queued(context: None) -> None:
    node, driver = PlainNode("listener"), Node("driver")
    spinner = create_spinner()
    spinner.add_node(node)
    try:
        for _ in range(3):
            subscription = node.create_subscription(Image, "/image", lambda message: None, RELIABLE)
            assert not list(node.waitables)
            warnings: list[str] = []
            events = SubscriptionEvents(node, subscription, lambda count: None, warnings.append)
            for _ in range(5):
                spinner.spin_once(timeout_sec=0.01)
            publisher = driver.create_publisher(Image, "/image", BEST_EFFORT)

            def told() -> list[str]:
                events.poll()  # noqa: B023
                return warnings  # noqa: B023

            # The middleware's thread has queued the event when its count is there.
            wait_until(told)
            assert "incompatible QoS (RELIABILITY)" in warnings[0]
            assert "/image" in warnings[0]
            assert "`qos_reliability`" in warnings[0]
            events.close()
            node.destroy_subscription(subscription)
            for _ in range(10):
                spinner.spin_once(timeout_sec=0.01)
            driver.destroy_publisher(publisher)
    finally:
        spinner.shutdown()
        node.destroy_node()
        driver.destroy_node()


class FakeEvent:
    """What rclpy's EventHandle has, but for the counts."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def destroy_when_not_in_use(self) -> None: ...


def test_lost_images_are_counted_and_publishers_told_once(
    context: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"MESSAGE_LOST": [3, 0, 2], "INCOMPATIBLE_QOS": [0, 0, 0], "TYPE": [1, 0, 0]}

    class Event(FakeEvent):
        def __init__(self, handle: Any, kind: Any) -> None:
            self.counts = next(each for name, each in changes.items() if kind.name.endswith(name))

        def take_event(self) -> Any:
            return SimpleNamespace(total_count_change=self.counts.pop(0)) if self.counts else None

    monkeypatch.setattr(subscription_events, "EventHandle", Event)
    monkeypatch.setattr(subscription_events, "POLL_PERIOD", 0.0)
    node = PlainNode("listener")
    subscription = node.create_subscription(Image, "/image", lambda message: None, RELIABLE)
    lost: list[int] = []
    warnings: list[str] = []
    events = SubscriptionEvents(node, subscription, lost.append, warnings.append)
    events.poll()
    events.poll()
    assert lost == [3]
    # What was lost just before the end counts as well.
    events.close()
    assert lost == [3, 2]
    (warning,) = warnings
    assert "sends another type" in warning
    node.destroy_node()


@pytest.mark.parametrize("identified", [True, False])
def test_gaps_in_a_publishers_numbers_are_lost_images(
    context: None, monkeypatch: pytest.MonkeyPatch, identified: bool
) -> None:
    """What the middleware reports leaves a gap as well, and is counted once."""
    reports = [1, 0, 3]

    class Event(FakeEvent):
        def __init__(self, handle: Any, kind: Any) -> None:
            self.counts = reports if kind.name.endswith("MESSAGE_LOST") else []

        def take_event(self) -> Any:
            return SimpleNamespace(total_count_change=self.counts.pop(0)) if self.counts else None

    monkeypatch.setattr(subscription_events, "EventHandle", Event)
    monkeypatch.setattr(subscription_events, "POLL_PERIOD", 0.0)
    node = PlainNode("listener")
    publishers = [node.create_publisher(Image, "/image", RELIABLE)]
    subscription = node.create_subscription(Image, "/image", lambda message: None, RELIABLE)
    lost: list[int] = []
    events = SubscriptionEvents(node, subscription, lost.append, lambda warning: None)

    def arrive(number: int, publisher: bytes = b"a") -> None:
        gid = {"data": publisher} if identified else None
        events.arrived({"publication_sequence_number": number, "publisher_gid": gid})

    for number in (7, 8, 11, 12):
        arrive(number)
    events.poll()
    assert lost == [2]
    arrive(1, b"b")  # another publisher, or the same one started again
    arrive(13 if identified else 2)
    events.poll()
    assert lost == [2]
    if not identified:
        publishers.append(node.create_publisher(Image, "/image", RELIABLE))
        arrive(50)  # whose is it?
    events.arrived({"source_timestamp": 1})  # Humble
    events.close()
    assert lost == [2, 2]
    node.destroy_node()


def test_a_middleware_without_a_count_is_asked_once(
    context: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0

    class Event(FakeEvent):
        def __init__(self, handle: Any, kind: Any) -> None:
            nonlocal made
            made += 1

        def take_event(self) -> Any:
            raise RuntimeError("not supported")

    monkeypatch.setattr(subscription_events, "EventHandle", Event)
    monkeypatch.setattr(subscription_events, "POLL_PERIOD", 0.0)
    node = PlainNode("listener")
    subscription = node.create_subscription(Image, "/image", lambda message: None, RELIABLE)
    warnings: list[str] = []
    events = SubscriptionEvents(node, subscription, lambda count: None, warnings.append)
    events.poll()
    events.poll()
    events.close()
    assert len(warnings) == made > 0
    assert "MESSAGE_LOST of /image cannot be read" in "".join(warnings)
    node.destroy_node()


@pytest.mark.parametrize("ingest", [0, 1])
@pytest.mark.sampled(2)
def test_a_driver_that_does_not_fit_is_named_and_does_no_harm(
    start_cameras: Any, client: Client, ingest: int
) -> None:
    process = start_cameras(
        {
            "multi_camera": {"cameras": ["front"], "ingest_processes": ingest},
            "front": {"qos_reliability": "reliable"},
        }
    )
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")

    def subscribed() -> str:
        for status in diagnostics[-1].status if diagnostics else ():
            if status.name.endswith("stream front"):
                return next(item.value for item in status.values if item.key == "subscribed")
        return ""

    for _ in range(2):
        listener = client.node.create_subscription(
            Detection2DArray, "/front/detections", lambda message: None, 10
        )
        client.spin_until(lambda: subscribed() == "True", 60)
        count = process.output.count("incompatible QoS (RELIABILITY)")
        publisher = client.publisher(Image, "/front/image_raw", BEST_EFFORT)
        client.spin_until(
            lambda count=count: process.output.count("incompatible QoS (RELIABILITY)") > count, 60
        )
        client.node.destroy_subscription(listener)
        client.spin_until(lambda: subscribed() == "False", 60)
        client.node.destroy_publisher(publisher)
    assert "Traceback" not in process.output
    assert "started again" not in process.output
    assert process.stop()[0] == 0
