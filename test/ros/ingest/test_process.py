# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Ingest processes: images through shared memory give the same results; slots come back."""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image
from support.ros import Client, RosProcess, detections_from_message, image_message, is_running
from vision_msgs.msg import Detection2DArray

from yolox_trt.core import PostprocessOptions
from yolox_trt.core.device import Device
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.frame_ring import FrameRing
from yolox_trt.ros.messages.images import frame_from_image, stamp_to_ns

Start = Callable[..., RosProcess]
CLASSES = ("class0", "class1", "class2")
LOSSLESS = {
    "qos_reliability": "reliable",
    "qos_depth": 100,
    "queue_depth": 100,
    "score_threshold": 0.26,
}


def test_a_slot_is_free_again_when_its_view_has_gone() -> None:
    writer = FrameRing(2, 5000)
    reader = FrameRing(2, writer.slot_bytes, writer.fd)
    writer.close_fd()
    first, second = np.arange(5000, dtype=np.uint8), np.full(10, 7, np.uint8)
    slots = [writer.write(first), writer.write(second)]
    assert slots == [0, 1]
    assert writer.write(first) is None
    views = [reader.view(0, 5000), reader.view(1, 10)]
    np.testing.assert_array_equal(views[0], first)
    np.testing.assert_array_equal(views[1], second)
    with pytest.raises(ValueError, match="read-only"):
        views[0][0] = 1
    views.pop(0)
    gc.collect()
    assert writer.write(second) == 0
    assert writer.write(second) is None
    views.clear()
    gc.collect()
    assert writer.write(first) == 1


def test_a_ring_keeps_its_size_whatever_its_writer_does() -> None:
    """Memory that shrinks would end the process that reads it."""
    ring = FrameRing(2, 5000)
    with pytest.raises(PermissionError):
        os.ftruncate(ring.fd, 0)
    before = psutil.Process().num_fds()
    unsealed = os.memfd_create("unsealed")
    os.ftruncate(unsealed, 1 << 20)
    for fd in (unsealed, os.open("/dev/zero", os.O_RDWR)):
        with pytest.raises(ValueError, match="shared memory whose size may change"):
            FrameRing(2, 5000, fd)
        os.close(fd)
    with pytest.raises(ValueError, match="0 slots"):
        FrameRing(0, 5000, ring.fd)
    with pytest.raises(ValueError, match="length is greater than file size"):
        FrameRing(20, 5000, ring.fd)
    assert psutil.Process().num_fds() == before
    ring.close_fd()


def test_views_outlive_their_ring() -> None:
    writer = FrameRing(1, 100)
    reader = FrameRing(1, writer.slot_bytes, writer.fd)
    writer.close_fd()
    writer.write(np.full(100, 9, np.uint8))
    view = reader.view(0, 100)
    del writer, reader
    gc.collect()
    assert view.sum() == 900


def test_channel_carries_messages_and_descriptors() -> None:
    here, other = IngestChannel.pair()
    there = IngestChannel(other)
    ring = FrameRing(1, 10)
    assert here.send("ring", fd=ring.fd, slots=1)
    assert here.send("plain", text="x" * 3000)
    message, fd = there.receive() or ({}, None)
    assert message == {"kind": "ring", "slots": 1}
    assert fd is not None
    assert os.fstat(fd).st_ino == os.fstat(ring.fd).st_ino
    os.close(fd)
    assert there.receive() == ({"kind": "plain", "text": "x" * 3000}, None)
    here.close()
    assert there.receive() is None
    assert not there.send("plain")
    there.close()
    ring.close_fd()


def test_a_channel_with_a_high_descriptor_waits_no_longer_than_it_should() -> None:
    """select() takes none from 1024 on."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(2000, limits[0]), limits[1]))
    here, other = IngestChannel.pair()
    high = IngestChannel(socket.socket(fileno=fcntl.fcntl(other.fileno(), fcntl.F_DUPFD, 1100)))
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    other.close()
    assert not high.poll(0.0)
    here.send("plain")
    assert high.poll(60.0)
    assert high.receive() == ({"kind": "plain"}, None)
    here.close()
    assert high.poll(60.0) and high.receive() is None
    high.close()
    assert high.poll(60.0)


def pictures(count: int, size: tuple[int, int] = (120, 160)) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    height, width = size
    return [
        np.kron(rng.integers(0, 256, (height // 8, width // 8, 3)), np.ones((8, 8, 1))).astype(
            np.uint8
        )
        for _ in range(count)
    ]


def connect(client: Client, camera: str) -> tuple[Any, list[Any]]:
    results = client.collect(Detection2DArray, f"/{camera}/detections")
    publisher = client.publisher(Image, f"/{camera}/image_raw")
    client.spin_until(lambda: publisher.get_subscription_count() == 1)
    client.spin_until(lambda: client.node.count_publishers(f"/{camera}/detections") == 1)
    return publisher, results


def ingest_pids(process: RosProcess) -> list[int]:
    children = psutil.Process(process.process.pid).children(recursive=True)
    return [child.pid for child in children if "ingest.process" in " ".join(child.cmdline())]


@pytest.mark.ros
@pytest.mark.timeout(180, method="signal")
def test_results_are_the_offline_ones(
    start_cameras: Start, client: Client, small_model: Path
) -> None:
    process = start_cameras(
        {"/**": LOSSLESS, "multi_camera": {"cameras": ["front", "rear"], "ingest_processes": 2}}
    )
    children = ingest_pids(process)
    assert len(children) == 2
    cameras = {name: connect(client, name) for name in ("front", "rear")}
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    detector = create_detector(DetectorOptions(model=small_model, device=Device("cpu"), threads=1))
    options = PostprocessOptions(score_threshold=0.26)
    # The second half is larger: a new ring takes the former one's place.
    sent = [
        image_message(picture, stamp_ns=index + 1)
        for index, picture in enumerate(pictures(12) + pictures(12, (240, 320)))
    ]
    bad = [image_message(pictures(1)[0], "no_such_encoding") for _ in range(3)]
    bad[0].header.frame_id, bad[1].encoding = "x" * 70_000, "x" * 1_000_000
    for index, message in enumerate(sent):
        for publisher, _ in cameras.values():
            publisher.publish(message)
            for each in bad if index == 3 else ():
                publisher.publish(each)
        client.spin_for(0.02)
    for _, results in cameras.values():
        client.spin_until(lambda results=results: len(results) == len(sent), 60.0, "all results")
        for message, result in zip(sent, results, strict=True):
            assert serialize_message(result.header) == serialize_message(message.header)
            (expected,) = detector.detect([frame_from_image(message)], [options])
            received = detections_from_message(result, CLASSES)
            np.testing.assert_array_equal(received.boxes, expected.boxes)
            np.testing.assert_array_equal(received.scores, expected.scores)

    def counted() -> bool:
        streams = [s for s in diagnostics[-1].status if ": stream " in s.name]
        values = [{item.key: item.value for item in status.values} for status in streams]
        return len(values) == 2 and all(each["processed"] == "24" for each in values)

    client.spin_until(lambda: diagnostics and counted(), what="the counts of both cameras")
    for status in diagnostics[-1].status:
        values = {item.key: item.value for item in status.values}
        if ": stream " in status.name:
            assert (values["received"], values["processed"]) == ("27", "24")
            assert values["dropped_malformed"] == "3"
            assert "no_such_encoding" in values["last_refusal"]
        elif status.name.endswith("executor"):
            assert values["ingest_processes"] == "2"

    # The camera of a process that dies comes back with its successor.
    os.kill(children[0], signal.SIGKILL)
    process.wait_for("it is started again")
    for publisher, results in cameras.values():
        before = len(results)
        client.publish_until(
            publisher,
            sent[0],
            lambda results=results, before=before: len(results) > before,
            what="a result of the successor",
        )

    children = ingest_pids(process)
    assert len(children) == 2
    status, seconds = process.stop()
    assert status == 0, process.output
    assert seconds < 10.0 + process.startup
    assert not any(psutil.pid_exists(pid) for pid in children)
    assert "Traceback" not in process.output


@pytest.mark.ros
@pytest.mark.timeout(180, method="signal")
def test_compressed_on_demand_and_roi(start_cameras: Start, client: Client) -> None:
    import cv2

    start_cameras(
        {
            "/**": LOSSLESS | {"transport": "compressed", "roi": [0, 0, 100, 100]},
            "multi_camera": {"cameras": ["front"], "ingest_processes": 1},
        }
    )
    publisher = client.publisher(CompressedImage, "/front/image_raw/compressed")
    client.spin_for(0.5)
    assert publisher.get_subscription_count() == 0
    results = client.collect(Detection2DArray, "/front/detections")
    client.spin_until(lambda: publisher.get_subscription_count() == 1)
    client.spin_until(lambda: client.node.count_publishers("/front/detections") == 1)
    message = CompressedImage(format="jpeg")
    message.header.stamp.nanosec = 4
    message.data = cv2.imencode(".jpg", pictures(1)[0])[1].tobytes()
    publisher.publish(message)
    client.spin_until(lambda: results)
    assert stamp_to_ns(results[0].header.stamp) == 4
    assert results[0].detections
    for detection in results[0].detections:
        box = detection.bbox
        assert box.center.position.x + box.size_x / 2 <= 100.0 + 1e-3
    client.node.destroy_subscription(next(iter(client.node.subscriptions)))
    client.spin_until(lambda: publisher.get_subscription_count() == 0)


@pytest.mark.ros
@pytest.mark.timeout(180, method="signal")
def test_ingest_processes_end_with_a_killed_parent(start_cameras: Start, client: Client) -> None:
    process = start_cameras({"multi_camera": {"cameras": ["front"], "ingest_processes": 1}})
    (child,) = map(psutil.Process, ingest_pids(process))
    process.process.kill()
    end = time.monotonic() + 60.0
    while is_running(child) and time.monotonic() < end:
        time.sleep(0.05)
    left = is_running(child)
    if left:
        child.kill()
    assert not left
