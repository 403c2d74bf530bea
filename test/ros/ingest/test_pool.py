# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Ingest processes that end, signals that they get, and the size of their rings."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("rclpy")

from sensor_msgs.msg import Image
from support.ros import Client, RosProcess, image_message
from vision_msgs.msg import Detection2DArray

from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.frame import Frame
from yolox_trt.ros.ingest import frame_ring
from yolox_trt.ros.ingest import pool as ingest_pool
from yolox_trt.ros.ingest import process as ingest_process
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.image_receiver import ImageTopic
from yolox_trt.ros.ingest.pool import IngestPool
from yolox_trt.ros.ingest.process import SharedMemorySink

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]
PICTURE = np.full((64, 96, 3), 128, np.uint8)

#: Ends at once.
ENDS = "pass"
#: Writes the commands that it gets into a file, one a line, until the channel ends.
LISTENS = """
import socket, sys
end = socket.socket(fileno=int(sys.argv[1]))
with open(sys.argv[2], "ab") as file:
    while data := end.recv(65536):
        file.write(data + b"\\n")
        file.flush()
"""
#: Sends one image of the camera that it is told of, and ends.
SENDS_AND_ENDS = """
import json, socket, sys
import numpy as np
from yolox_trt.ros.ingest.frame_ring import FrameRing
from yolox_trt.ros.ingest.channel import IngestChannel
channel = IngestChannel(socket.socket(fileno=int(sys.argv[1])))
command, _ = channel.receive()
ring = FrameRing(1, 12)
same = {"camera": command["camera"], "generation": command["generation"] + 1}
channel.send("ring", fd=ring.fd, slots=1, slot_bytes=ring.slot_bytes, **same)
frame = {"height": 2, "width": 2, "encoding": "bgr8", "step": 6, "stamp_ns": -1, "frame_id": "",
         "stream_id": command["camera"], "received_ns": 1}
channel.send("frame", slot=ring.write(np.zeros(12, np.uint8)), size=12, frame=frame, **same)
"""

TOPIC = ImageTopic(name="/image", compressed=False, reliable=False, depth=1)


class Sink:
    """Counts what a camera gets."""

    def __init__(self) -> None:
        self.frames: list[Any] = []

    def on_frame(self, frame: Any) -> None:
        self.frames.append(frame)

    def on_refused(self, reason: str) -> None: ...

    def on_full(self) -> None: ...

    def on_lost(self, count: int) -> None: ...


@pytest.fixture
def make_pool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Make a pool whose processes run the given programs; commands go to the file `<name>`."""
    pools: list[IngestPool] = []
    monkeypatch.setattr(ingest_pool, "FIRST_BACKOFF", 0.01)

    def make(*programs: str) -> IngestPool:
        by_name = {f"pool_ingest_{index}": code for index, code in enumerate(programs)}

        def command(self: IngestPool, member: Any, fd: int) -> list[str]:
            log = str(tmp_path / member.name)
            return [sys.executable, "-c", by_name[member.name], str(fd), log]

        monkeypatch.setattr(IngestPool, "_command", command)
        pools.append(IngestPool(len(programs), "pool", page_lock=False))
        return pools[-1]

    yield make
    for pool in pools:
        assert pool.close(timeout=60.0)


def wait_until(done: Callable[[], Any], timeout: float = 90.0) -> None:
    end = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def commands(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_process_that_ends_again_and_again_is_given_up(
    make_pool: Callable[..., IngestPool],
) -> None:
    pool = make_pool(ENDS)
    wait_until(lambda: pool.pids == [])
    assert pool.restarts == ingest_pool.MAX_RESTARTS
    with pytest.raises(YoloxTrtError, match=r"ended again and again.*`ingest_processes`"):
        pool.subscribe("front", Sink(), TOPIC, queue_depth=1)


def test_the_others_take_the_cameras_of_a_process_that_is_given_up(
    make_pool: Callable[..., IngestPool], tmp_path: Path
) -> None:
    pool = make_pool(ENDS, LISTENS)
    for name in ("front", "rear"):
        pool.subscribe(name, Sink(), TOPIC, queue_depth=1)
    wait_until(lambda: len(pool.pids) == 1)
    pool.subscribe("left", Sink(), TOPIC, queue_depth=1)
    log = tmp_path / "pool_ingest_1"
    wait_until(lambda: {each["camera"] for each in commands(log)} == {"front", "rear", "left"})
    assert {each["kind"] for each in commands(log)} == {"subscribe"}
    generations = [each["generation"] for each in commands(log)]
    assert len(set(generations)) == 3


def test_restarts_count_only_in_a_row(
    make_pool: Callable[..., IngestPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_pool, "MAX_RESTARTS", 1)
    pool, sink = make_pool(SENDS_AND_ENDS), Sink()
    pool.subscribe("front", sink, TOPIC, queue_depth=1)
    # With the second image, the process has ended as often as it may in a row.
    wait_until(lambda: len(sink.frames) >= 4)
    # A stamp before the epoch, too, comes back as it was.
    frame = sink.frames[0]
    stamp = frame.header.stamp
    assert (frame.stamp_ns, stamp.sec, stamp.nanosec) == (-1, -1, 999_999_999)
    assert pool.restarts >= 3
    assert pool.pids


def test_signals_leave_an_ingest_process_to_its_parent(
    start_cameras: Start, client: Client
) -> None:
    """A signal to the process group, as from a terminal or a supervisor, is the parent's."""
    process = start_cameras({"multi_camera": {"cameras": ["front"], "ingest_processes": 1}})
    results = client.collect(Detection2DArray, "/front/detections")
    publisher = client.publisher(Image, "/front/image_raw")

    def gives_results() -> bool:
        before = len(results)
        client.publish_until(
            publisher, image_message(PICTURE), lambda: len(results) > before, what="a result"
        )
        return True

    assert gives_results()
    (child,) = [
        each
        for each in psutil.Process(process.process.pid).children()
        if "yolox_trt.ros.ingest.process" in each.cmdline()
    ]
    assert os.getpgid(child.pid) != os.getpgid(process.process.pid)
    for number in (signal.SIGINT, signal.SIGTERM):
        child.send_signal(number)
    assert gives_results()
    assert child.is_running()
    assert "ended with status" not in process.output
    assert process.stop(signal.SIGTERM)[0] == 0
    assert "ended with status" not in process.output
    assert not child.is_running()


def test_a_ring_stays_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_process, "LARGEST_RING", 100_000)
    here, other = IngestChannel.pair()
    there = IngestChannel(other)
    warnings: list[str] = []
    sink = SharedMemorySink("front", here, warnings.append, generation=1, slots=1005)
    for generation, (width, slots) in enumerate(((10, 1005), (10_000, 10), (200_000, 1)), start=2):
        sink.on_frame(Frame.from_array(np.zeros((1, width), np.uint8), "mono8"))
        ring, fd = there.receive() or ({}, -1)
        assert (ring["kind"], ring["slots"], ring["generation"]) == ("ring", slots, generation)
        os.close(fd or 0)
        message, _ = there.receive() or ({}, None)
        assert (message["kind"], message["slot"], message["size"]) == ("frame", 0, width)
    # The only slot is taken.
    sink.on_frame(Frame.from_array(np.zeros((1, 10), np.uint8), "mono8"))
    assert there.receive() == ({"kind": "full", "camera": "front"}, None)
    assert len(warnings) == 2
    assert "camera 'front': 1005 images of 10000 bytes" in warnings[0]
    assert "`queue_depth` to 5 at most" in warnings[0]
    here.close()
    there.close()


class FailingSpinner:
    """Stands for an executor whose every look for messages fails."""

    def __init__(self) -> None:
        self.spins = 0

    def add_node(self, node: Any) -> None:
        """Nothing to be called."""

    def shutdown(self) -> None:
        """Nothing to end."""

    def spin_once(self, timeout_sec: float) -> None:
        self.spins += 1
        assert self.spins < 1000, "the channel is not looked at"
        raise RuntimeError("wait set")


def test_an_ingest_process_hears_its_channel_whatever_fails(
    domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera that cannot be subscribed to is told back; the end of the channel is the end."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own, other = IngestChannel.pair()
    spinner = FailingSpinner()
    monkeypatch.setattr(ingest_process, "create_spinner", lambda: spinner)
    monkeypatch.setattr(ingest_process, "apply_malloc_settings", lambda: True)
    topic = {"name": "not a topic!", "compressed": False, "reliable": False, "depth": 1}
    own.send("subscribe", camera="front", topic=topic, generation=1, slots=1)
    answers: list[dict[str, Any]] = []

    def listen() -> None:
        received = own.receive()
        assert received is not None
        answers.append(received[0])
        own.close()

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        assert ingest_process.main(["ingest", str(os.dup(other.fileno()))]) == 0
    finally:
        other.close()
        listener.join(30)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert answers[0]["kind"] == "refused"
    assert answers[0]["camera"] == "front"
    assert answers[0]["reason"].startswith("subscribe failed: InvalidTopicNameException: ")


def test_a_ring_that_cannot_be_mapped_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no room")

    before = psutil.Process().num_fds()
    for name, owner in (("ftruncate", os), ("mmap", frame_ring.mmap)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            with pytest.raises(OSError, match="no room"):
                frame_ring.FrameRing(1, 100)
        assert psutil.Process().num_fds() == before
