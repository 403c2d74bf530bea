# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A camera's subscription: buffers that became large, and images that take long to decode."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from sensor_msgs.msg import CompressedImage, Image
from support.ros import Client, image_message
from support.video import packets

from yolox_trt.core.limits import LIMITS
from yolox_trt.ros.ingest import image_receiver
from yolox_trt.ros.ingest.image_receiver import ImageReceiver
from yolox_trt.ros.ingest.image_topic import ImageTopic
from yolox_trt.ros.messages.transports import TRANSPORTS, FrameReader

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]


class Sink:
    """Keeps what a camera gets."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self.refused: list[str] = []
        self.full = self.lost = 0

    def on_frame(self, frame: Any) -> None:
        self.frames.append(frame)

    def on_refused(self, reason: str) -> None:
        self.refused.append(reason)

    def on_full(self) -> None:
        self.full += 1

    def on_lost(self, count: int) -> None:
        self.lost += count


def test_the_buffers_of_one_large_image_are_given_back(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middleware's are as large as the largest image until the subscription ends."""
    monkeypatch.setattr(image_receiver, "KEPT_BUFFER", 100_000)
    sink = Sink()
    topic = ImageTopic(name="/image", transport="raw", reliability="reliable", depth=200)
    receiver = ImageReceiver(client.node, "front", topic, sink)
    publisher = client.publisher(Image, "/image")
    client.spin_until(lambda: publisher.get_subscription_count() == 1)
    large, small = (image_message(np.zeros((n, n, 3), np.uint8)) for n in (300, 8))
    for message in (large, *[small] * image_receiver.SMALL_IMAGES):
        publisher.publish(message)
    client.spin_until(lambda: len(sink.frames) == 1 + image_receiver.SMALL_IMAGES)
    receiver.poll_events()
    client.spin_until(lambda: publisher.get_subscription_count() == 0)
    for _ in range(3):
        publisher.publish(small)
    client.spin_for(image_receiver.UNSUBSCRIBED)
    receiver.poll_events()
    client.spin_until(lambda: publisher.get_subscription_count() == 1)
    client.publish_until(
        publisher, small, lambda: len(sink.frames) > 102, what="images of the new subscription"
    )
    receiver.poll_events()
    assert publisher.get_subscription_count() == 1
    receiver.close()
    assert sink.lost == 3


def test_an_image_that_takes_long_to_decode_holds_up_its_camera_only(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = threading.Event()

    def read(reader: Any, message: Any, received_ns: int) -> Any:
        if message.format == "slow":
            blocked.wait(60.0)
        return (message,)

    monkeypatch.setattr(FrameReader, "read", read)
    sinks, receivers, publishers = [], [], []
    for name in ("slow", "fast"):
        topic = ImageTopic(name=f"/{name}", transport="compressed", reliability="reliable", depth=1)
        sinks.append(Sink())
        receivers.append(ImageReceiver(client.node, name, topic, sinks[-1]))
        publishers.append(client.publisher(CompressedImage, f"/{name}"))
    for name, publisher in zip(("slow", "fast"), publishers, strict=True):
        client.spin_until(lambda publisher=publisher: publisher.get_subscription_count() == 1)
        publisher.publish(CompressedImage(format=name))
    client.spin_until(lambda: sinks[1].frames, what="the other camera's image")
    assert not sinks[0].frames
    blocked.set()
    end = time.monotonic() + 60.0
    while not sinks[0].frames and time.monotonic() < end:
        time.sleep(0.01)
    assert sinks[0].frames
    for receiver in receivers:
        receiver.close()


def test_each_packet_of_a_video_is_decoded_in_its_turn(client: Client) -> None:
    """Packets that come faster than they are decoded wait, with the middleware and here."""
    kind = TRANSPORTS["foxglove"].message_class()
    sink = Sink()
    topic = ImageTopic(name="/video", transport="foxglove", reliability="reliable", depth=1)
    receiver = ImageReceiver(client.node, "front", topic, sink)
    publisher = client.publisher(kind, "/video")
    client.spin_until(lambda: publisher.get_subscription_count() == 1)
    data = packets("h264")
    for number in (*range(8), *range(9, 12)):  # one is lost before it is published
        message = kind(format="h264", data=data[number])
        message.timestamp.nanosec = number
        publisher.publish(message)
    client.spin_until(lambda: len(sink.frames) + len(sink.refused) == 11)
    assert [frame.stamp_ns for frame in sink.frames] == [*range(8)]
    assert len(sink.refused) == 3 and "lost" in sink.refused[0]
    assert sink.full == 0
    receiver.close()


def test_what_a_decoder_holds_back_when_the_subscription_ends_is_counted(client: Client) -> None:
    kind = TRANSPORTS["foxglove"].message_class()
    sink = Sink()
    topic = ImageTopic(name="/video", transport="foxglove", reliability="reliable", depth=1)
    receiver = ImageReceiver(client.node, "front", topic, sink)
    for data in packets("h264", b_frames=2)[:5]:
        receiver._on_message(kind(format="h264", data=data), {})
    client.spin_until(lambda: sink.frames)
    receiver.close()
    client.spin_until(lambda: len(sink.frames) + sink.full == 5)
    assert len(sink.frames) < 5
    assert not sink.refused


def test_a_video_that_comes_too_fast_goes_on_at_a_keyframe(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for too long is given up, and no picture comes of what refers to it."""
    changed = dataclasses.replace(LIMITS, video_packets=3)
    monkeypatch.setattr(image_receiver, "LIMITS", changed)
    started, gate = threading.Event(), threading.Event()
    read = FrameReader.read

    def slow(*args: Any, **kwargs: Any) -> Any:
        started.set()
        assert gate.wait(60)
        return read(*args, **kwargs)

    monkeypatch.setattr(FrameReader, "read", slow)
    kind = TRANSPORTS["foxglove"].message_class()
    sink = Sink()
    topic = ImageTopic(name="/video", transport="foxglove", reliability="reliable", depth=1)
    receiver = ImageReceiver(client.node, "front", topic, sink)
    data = packets("h264")

    def arrive(number: int) -> None:
        message = kind(format="h264", data=data[number])
        message.timestamp.nanosec = number
        receiver._on_message(message, {})

    arrive(0)
    assert started.wait(60)
    for number in range(1, 8):  # 1 to 3 wait, and give way to 4 to 6, and those to 7
        arrive(number)
    gate.set()
    client.spin_until(lambda: len(sink.frames) + len(sink.refused) + sink.full == 8)
    assert [frame.stamp_ns for frame in sink.frames] == [0]
    assert sink.full == 6 and "lost" in sink.refused[0]
    receiver.close()


def test_the_end_of_a_subscription_does_not_wait_for_a_decoder(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold up the other cameras of rclpy's thread."""
    started, gate, ended = threading.Event(), threading.Event(), threading.Event()

    def read(reader: Any, message: Any, received_ns: int) -> Any:
        started.set()
        assert gate.wait(60)
        return (message,)

    monkeypatch.setattr(FrameReader, "read", read)
    monkeypatch.setattr(FrameReader, "close", lambda reader: ended.set())
    sink = Sink()
    topic = ImageTopic(name="/image", transport="compressed", reliability="reliable", depth=1)
    receiver = ImageReceiver(client.node, "front", topic, sink)
    for _ in range(2):
        receiver._on_message(CompressedImage(), {})
        assert started.wait(60)
    receiver.close()
    assert sink.full == 1  # what waited
    assert not ended.is_set()
    gate.set()
    assert ended.wait(60)
    assert sink.full == 2 and not sink.frames
    receiver._on_message(CompressedImage(), {})
    assert sink.full == 2


def test_the_packet_behind_a_gap_is_decoded_after_it_is_known(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However soon the decoder's thread comes to it."""
    monkeypatch.setattr(image_receiver, "LIMITS", dataclasses.replace(LIMITS, video_packets=1))
    started, gate, last = threading.Event(), threading.Event(), threading.Event()
    order: list[Any] = []

    def read(reader: FrameReader, message: Any, received_ns: int) -> Any:
        order.append(message.timestamp.nanosec)
        started.set()
        assert gate.wait(60)
        if message.timestamp.nanosec == 2:
            last.set()
        return ()

    monkeypatch.setattr(FrameReader, "read", read)
    monkeypatch.setattr(FrameReader, "lost", lambda reader: order.append("lost"))
    offer = image_receiver.LatestWorker.offer

    def offer_and_wait(*args: Any) -> int:
        replaced = offer(*args)
        if replaced:
            gate.set()
            assert last.wait(60)
        return replaced

    monkeypatch.setattr(image_receiver.LatestWorker, "offer", offer_and_wait)
    topic = ImageTopic(name="/video", transport="foxglove", reliability="reliable", depth=1)
    receiver = ImageReceiver(client.node, "front", topic, Sink())
    kind = TRANSPORTS["foxglove"].message_class()
    for number in range(3):
        message = kind(format="h264")
        message.timestamp.nanosec = number
        receiver._on_message(message, {})
        assert started.wait(60)
    receiver.close()
    assert order == [0, "lost", 2]
