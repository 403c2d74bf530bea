# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Ingest processes that end, signals that they get, and the size of their rings."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from support.ros import Client, RosProcess, image_message
from vision_msgs.msg import Detection2DArray

from yolox_trt.core.frame import Frame
from yolox_trt.core.limits import Limits
from yolox_trt.detectors.auto_size import picture_of
from yolox_trt.ros.ingest import frame_ring, shared_memory_sink
from yolox_trt.ros.ingest import pool as ingest_pool
from yolox_trt.ros.ingest import process as ingest_process
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.frame_ring import FrameRing
from yolox_trt.ros.ingest.image_topic import ImageTopic
from yolox_trt.ros.ingest.pool import IngestPool
from yolox_trt.ros.ingest.shared_memory_sink import SharedMemorySink
from yolox_trt.ros.messages.images import write_header
from yolox_trt.ros.nodes import diagnostics

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
#: Gives signs of life, and says so in the file.
LIVES = """
import socket, sys, time
end = socket.socket(fileno=int(sys.argv[1]))
while True:
    end.send(b'{"kind": "alive", "cameras": {}}')
    open(sys.argv[2], "a").close()
    time.sleep(0.05)
"""
#: Says that it hears nothing, or with a file that it does, and writes both into the file.
HEARS_NOTHING = """
import os, socket, sys, time
end = socket.socket(fileno=int(sys.argv[1]))
end.recv(65536)
with open(sys.argv[2], "a") as file:
    while True:
        said = b"lost" if os.path.exists(sys.argv[2] + ".hears") else b"deaf"
        file.write(said.decode())
        file.flush()
        end.send(b'{"kind": "%s", "camera": "front", "count": 0}' % said)
        time.sleep(0.1)
"""
#: Answers each command with another damaged message, the sixth with a sound one.
DAMAGES = LISTENS.replace(
    "file.flush()",
    """file.flush()
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        end.send(damaged.pop(0))
""",
).replace(
    "with open",
    """
own = b'"camera": "front", "generation": %d, "slots": 1, "slot_bytes": 1' % (1 << 40)
damaged = [b"{", b'{"kind": "' + bytes(100000), b'{"kind": "frame", "slot": 0, ' + own + b"}",
           b'{"camera": "front"}', b'{"kind": "refused", "camera": ["front"]}',
           b'{"kind": "refused", "camera": "front", "reason": "the last one"}']
with open""",
)
#: Cannot subscribe at first.
FAILS_TWICE = """
import json, socket, sys, time
end = socket.socket(fileno=int(sys.argv[1]))
end.recv(65536)
for _ in range(2):
    end.send(b'{"kind": "failed", "camera": "front", "reason": "no such topic"}')
    time.sleep(0.2)
    end.send(b'{"kind": "alive", "cameras": {}}')
    command = json.loads(end.recv(65536))
told = {"kind": "alive", "cameras": {"front": command["generation"]}}
end.send(json.dumps(told).encode())
end.recv(65536)
"""
#: Does what it is told the second time, as one that had no room for the command the first time.
MISSES = """
import json, socket, sys, time
end = socket.socket(fileno=int(sys.argv[1]))
end.settimeout(0.01)
cameras, missed = {}, set()
with open(sys.argv[2], "ab") as file:
    while True:
        try:
            data = end.recv(65536)
            if not data:
                break
            file.write(data + b"\\n")
            file.flush()
            command = json.loads(data)
            if command["kind"] not in missed:
                missed.add(command["kind"])
            elif command["kind"] == "subscribe":
                cameras[command["camera"]] = command["generation"]
            else:
                cameras.pop(command["camera"], None)
        except TimeoutError:
            pass
        end.send(json.dumps({"kind": "alive", "cameras": cameras}).encode())
"""
#: Sends rings that are none, each with a descriptor.
SENDS_NO_RINGS = """
import os, socket, sys
from yolox_trt.ros.ingest.channel import IngestChannel
channel = IngestChannel(socket.socket(fileno=int(sys.argv[1])))
command, _ = channel.receive()
same = {"camera": "front", "generation": command["generation"] + 1}
fd = os.memfd_create("unsealed")
for _ in range(50):
    channel.send("ring", fd=fd, slots=0, slot_bytes=10, **same)
    channel.send("ring", fd=fd, slots=1, slot_bytes=1 << 40, **same)
    channel.send("ring", fd=fd, slots=1, slot_bytes=10, **same)
    channel.send("ring", fd=fd, **same)
    channel.send("device_ring_closed", fd=fd, generation=1, reason="")
channel.send("refused", camera="front", reason="the last one")
channel.receive()
"""
#: Sends one image of the camera that it is told of, and ends.
SENDS_AND_ENDS = """
import json, socket, sys
import numpy as np
from yolox_trt.ros.ingest.frame_ring import FrameRing
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.frame_ring import FrameRing
channel = IngestChannel(socket.socket(fileno=int(sys.argv[1])))
command, _ = channel.receive()
ring = FrameRing(1, 12)
same = {"camera": command["camera"], "generation": command["generation"] + 1}
channel.send("ring", fd=ring.fd, slots=1, slot_bytes=ring.slot_bytes, **same)
frame = {"height": 2, "width": 2, "encoding": "bgr8", "step": 6, "stamp_ns": -1, "frame_id": "",
         "stream_id": "another", "received_ns": 1, "reduction": 1, "full_size": None,
         "device_array": {}}
channel.send("frame", slot=ring.write(np.zeros(12, np.uint8)), size=12, frame=frame, **same)
"""

#: What a process tells of an image.
FRAME: dict[str, Any] = {
    **{"height": 2, "width": 2, "encoding": "bgr8", "step": 6, "stamp_ns": 5, "frame_id": "f"},
    **{"received_ns": 1, "reduction": 1, "full_size": None},
}
TOPIC = ImageTopic(name="/image", transport="raw", reliability="best_effort", depth=1)


class Sink:
    """Counts what a camera gets."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self.refused: list[str] = []

    def on_frame(self, frame: Any) -> None:
        self.frames.append(frame)

    def on_refused(self, reason: str) -> None:
        self.refused.append(reason)

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
        pools.append(IngestPool(len(programs), "pool"))
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


def test_a_process_that_ends_is_replaced_for_ever_and_said_to_be_down(
    make_pool: Callable[..., IngestPool], tmp_path: Path
) -> None:
    pool = make_pool(ENDS, LISTENS)
    for name in ("front", "rear"):
        pool.subscribe(name, Sink(), TOPIC, queue_depth=1)
    wait_until(lambda: pool.restarts > 7)
    assert pool.faults == {"pool_ingest_0": "ended with status 0"}
    assert pool.fault("front") == "pool_ingest_0 ended with status 0"
    assert pool.fault("rear") == ""
    entry = diagnostics.executor_status(
        "executor", None, cameras=2, lost=0, load=math.nan, ingest=pool
    )
    assert entry.level == DiagnosticStatus.ERROR
    assert entry.message == "pool_ingest_0 ended with status 0"
    values = {each.key: each.value for each in entry.values}
    assert values["ingest_processes"] == "1"
    # The other one's cameras are its own.
    assert {each["camera"] for each in commands(tmp_path / "pool_ingest_1")} == {"rear"}


def test_a_new_process_gets_the_cameras_of_the_one_before(
    make_pool: Callable[..., IngestPool],
) -> None:
    pool, sink = make_pool(SENDS_AND_ENDS), Sink()
    pool.subscribe("front", sink, TOPIC, queue_depth=1)
    wait_until(lambda: len(sink.frames) >= 3)
    # A stamp before the epoch, too, comes back as it was.
    header = Header()
    write_header(header, sink.frames[0])
    assert (header.stamp.sec, header.stamp.nanosec) == (-1, 999_999_999)
    # Whose it is, and where it lies, is not the process's to say.
    assert sink.frames[0].stream_id == "front"
    assert sink.frames[0].device_array is None


@pytest.mark.parametrize(
    ("sound", "damaged"),
    [
        ('"step": 6', '"step": 60'),
        ("size=12", "size=1 << 20"),
        ("slot=ring.write(np.zeros(12, np.uint8))", "slot=5"),
        ('"bgr8"', '"none"'),
        ('"stamp_ns": -1', '"stamp_ns": "now"'),
        ('"full_size": None', '"full_size": [100000, 100000]'),
    ],
)
def test_what_is_not_in_its_slot_is_no_image(
    make_pool: Callable[..., IngestPool],
    caplog: pytest.LogCaptureFixture,
    sound: str,
    damaged: str,
) -> None:
    assert sound in SENDS_AND_ENDS
    pool, sink = make_pool(SENDS_AND_ENDS.replace(sound, damaged)), Sink()
    pool.subscribe("front", sink, TOPIC, queue_depth=1)
    wait_until(lambda: "image of camera front was lost" in caplog.text)
    assert not sink.frames


def test_a_process_that_is_stopped_is_replaced(
    make_pool: Callable[..., IngestPool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_pool, "POLL", 0.02)
    monkeypatch.setattr(ingest_pool, "SILENCE_LIMIT", 0.5)
    pool = make_pool(LIVES)
    wait_until((tmp_path / "pool_ingest_0").exists)
    (child,) = [each for each in psutil.Process().children() if LIVES in each.cmdline()]
    child.suspend()
    wait_until(lambda: pool.faults)
    assert pool.faults["pool_ingest_0"].startswith("has given no sign of life for 0.5")
    wait_until(lambda: pool.restarts == 1 and not pool.faults)
    assert not child.is_running()


def test_a_process_that_hears_nothing_is_replaced_but_not_for_ever(
    make_pool: Callable[..., IngestPool], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool, log = make_pool(HEARS_NOTHING), tmp_path / "pool_ingest_0"
    pool.subscribe("front", Sink(), TOPIC, queue_depth=1)
    wait_until(lambda: pool.restarts == 2 and log.read_text().count("deaf") >= 6)
    assert "pool_ingest_0 has received nothing of cameras that publish; it is star" in caplog.text
    assert pool.restarts == 2 and not pool.faults, "its cameras may publish no image"
    # One that has heard its cameras is replaced again.
    log.with_suffix(".hears").touch()
    wait_until(lambda: "lost" in log.read_text())
    log.with_suffix(".hears").unlink()
    wait_until(lambda: pool.restarts == 4)


def test_a_process_notices_that_it_hears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(ingest_process, "time", SimpleNamespace(monotonic=lambda: now[0]))
    front, rear = (SimpleNamespace(heard=False, has_publishers=lambda: False) for _ in range(2))
    hearing = ingest_process._Hearing()

    def deaf_at(time: float) -> bool:
        now[0] = time
        return bool(hearing.is_deaf([front, rear]))

    assert not deaf_at(100.0), "nobody publishes"
    rear.has_publishers = lambda: True
    assert not deaf_at(109.0)
    assert deaf_at(110.0)
    assert not deaf_at(119.0)
    assert deaf_at(120.0)
    front.heard = True
    assert not deaf_at(130.0)
    front.heard = False  # subscribed anew, when the camera is silent
    assert not deaf_at(150.0)


def test_damaged_messages_cost_no_process_and_no_slot(
    make_pool: Callable[..., IngestPool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The camera is subscribed anew, with a new ring: of the former one, slots may stay taken."""
    monkeypatch.setattr(ingest_pool, "RETRY", 0.0)
    pool, sink = make_pool(DAMAGES), Sink()
    pool.subscribe("front", sink, TOPIC, queue_depth=1)
    log = tmp_path / "pool_ingest_0"
    wait_until(lambda: sink.refused)
    assert sink.refused == ["the last one"]
    assert [each["kind"] for each in commands(log)] == ["subscribe"] * 6
    assert pool.restarts == 0
    assert not sink.frames


def test_what_a_process_had_no_room_for_is_sent_again(
    make_pool: Callable[..., IngestPool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_pool, "RETRY", 0.1)
    pool, log = make_pool(MISSES), tmp_path / "pool_ingest_0"
    pool.subscribe("front", Sink(), TOPIC, queue_depth=1)
    wait_until(lambda: len(commands(log)) == 2)
    pool.subscribe("rear", Sink(), TOPIC, queue_depth=1)
    wait_until(lambda: len(commands(log)) == 3)
    pool.unsubscribe("front")
    wait_until(lambda: len(commands(log)) >= 5)
    found = [(each["kind"], each["camera"]) for each in commands(log)]
    assert found[:2] == [("subscribe", "front")] * 2
    assert ("subscribe", "rear") in found
    assert found.count(("unsubscribe", "front")) >= 2
    assert pool.restarts == 0 and not pool.fault("rear")


def test_rings_that_are_none_cost_no_descriptor_and_no_process(
    make_pool: Callable[..., IngestPool], caplog: pytest.LogCaptureFixture
) -> None:
    pool, sink = make_pool(SENDS_NO_RINGS), Sink()
    before = psutil.Process().num_fds()
    pool.subscribe("front", sink, TOPIC, queue_depth=1)
    wait_until(lambda: sink.refused)
    assert psutil.Process().num_fds() == before
    assert sink.refused == ["the last one"] and pool.restarts == 0
    for reason in ("0 slots", "of 1099511627776 bytes", "whose size may change", "slots is None"):
        assert reason in caplog.text


def listen(sink: Any, ring: FrameRing, *messages: dict[str, Any]) -> None:
    """Have a pool hear a process that sends a ring, some messages, and ends."""
    pool, member = IngestPool(0, "pool"), ingest_pool._Member("captured")
    member.channel, other = IngestChannel.pair()
    there = IngestChannel(other)
    member.cameras["front"] = ingest_pool._Camera(sink, {"slots": ring.slots})
    same = {"camera": "front", "generation": 1}
    there.send("ring", fd=ring.fd, slots=ring.slots, slot_bytes=ring.slot_bytes, **same)
    for each in messages:
        there.send(**same | each)
    there.close()
    pool._listen(member)
    member.channel.close()


def test_what_a_process_says_wrongly_is_one_line_that_keeps_no_ring(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A traceback in a record would, and would tell of no mistake in this process."""
    ring, sink = FrameRing(2, 12), Sink()
    frame: dict[str, Any] = {"kind": "frame", "slot": 0, "size": 12, "frame": FRAME}
    before = psutil.Process().num_fds()
    for slot in (None, "0", 0.5, 2, -1):
        listen(sink, ring, frame | {"slot": slot})
    listen(sink, ring, frame | {"size": 1 << 20}, frame | {"frame": {}}, frame | {"frame": None})
    assert psutil.Process().num_fds() == before
    assert len(caplog.records) == 8 and not sink.frames
    assert not any(each.exc_info for each in caplog.records)
    # A mistake of this process's own is told with all that is known of it.
    listen(SimpleNamespace(on_frame=lambda _: {}["mistake"]), ring, frame)
    assert caplog.records[-1].exc_info and "KeyError: 'mistake'" in caplog.text
    ring.close_fd()


def test_a_text_that_a_process_sends_writes_no_commands_into_the_log() -> None:
    ring, sink = FrameRing(1, 12), Sink()
    listen(sink, ring, {"kind": "refused", "reason": "why\n\x1b[2J" + "x" * 10_000})
    assert sink.refused[0].startswith(r"why\n\x1b[2Jxxx") and len(sink.refused[0]) < 5_000
    ring.close_fd()


def test_an_image_that_was_decoded_at_a_part_of_its_size_comes_through() -> None:
    ring, sink = FrameRing(1, 12), Sink()
    reduced = FRAME | {"reduction": 2, "full_size": (3, 4)}
    listen(sink, ring, {"kind": "frame", "slot": 0, "size": 12, "frame": reduced})
    assert {picture_of(frame) for frame in sink.frames} == {(3, 4)}
    ring.close_fd()


def test_a_process_whose_messages_cannot_be_followed_is_replaced(
    make_pool: Callable[..., IngestPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong, the thread that watches it goes on."""
    renew, mistakes = IngestPool._renew, [1, 2]

    def fail_twice(*args: Any) -> None:
        if mistakes:
            raise AssertionError(f"mistake {mistakes.pop()}")
        renew(*args)

    monkeypatch.setattr(IngestPool, "_renew", fail_twice)
    pool = make_pool(LIVES)
    wait_until(lambda: pool.restarts == 1 and not pool.faults)


def test_a_camera_that_cannot_be_subscribed_is_said_so_and_tried_again(
    make_pool: Callable[..., IngestPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_pool, "RETRY", 0.0)
    pool = make_pool(FAILS_TWICE)
    pool.subscribe("front", Sink(), TOPIC, queue_depth=1)
    wait_until(lambda: pool.fault("front"))
    assert pool.fault("front") == "no such topic"
    assert pool.faults == {}
    wait_until(lambda: not pool.fault("front"))


def test_a_process_that_cannot_be_started_leaves_none_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[Any] = []

    def popen(*args: Any, **kwargs: Any) -> Any:
        if started:
            raise OSError("no room")
        started.append(subprocess.Popen(*args, **kwargs))
        return started[0]

    def command(self: IngestPool, member: Any, fd: int) -> list[str]:
        return [sys.executable, "-c", LISTENS, str(fd), str(tmp_path / member.name)]

    monkeypatch.setattr(IngestPool, "_command", command)
    monkeypatch.setattr(
        ingest_pool, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": popen})
    )
    with pytest.raises(OSError, match="no room"):
        IngestPool(2, "pool")
    assert started[0].returncode is not None


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


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A camera's sink in an ingest process, with 100 kB of memory, and who reads its messages."""
    monkeypatch.setattr(shared_memory_sink, "LIMITS", Limits(ring_bytes=100_000))
    here, other = IngestChannel.pair()
    there, warnings = IngestChannel(other), []
    sink = SharedMemorySink("front", here, warnings.append, generation=1, slots=1005)

    def send(width: int, **fields: Any) -> None:
        sink.on_frame(Frame.from_array(np.zeros((1, width), np.uint8), "mono8", **fields))

    def read() -> dict[str, Any]:
        message, fd = there.receive() or ({}, None)
        if fd is not None:
            message["ring"] = FrameRing(message["slots"], message["slot_bytes"], fd)
            os.close(fd)
        return message

    yield SimpleNamespace(send=send, read=read, warnings=warnings)
    here.close()
    there.close()


def test_a_ring_stays_within_its_limit(camera: SimpleNamespace) -> None:
    for generation, (width, slots) in enumerate(((10, 24), (10_000, 8), (90_000, 1)), start=2):
        camera.send(width)
        made = camera.read()
        assert (made["kind"], made["slots"], made["generation"]) == ("ring", slots, generation)
        message = camera.read()
        assert (message["kind"], message["slot"], message["size"]) == ("frame", 0, width)
        if width == 90_000:
            break
        # A larger image finds no room while the former ring is in use, and has it after that.
        camera.send(99_999)
        assert camera.read() == {"kind": "full", "camera": "front"}
        made["ring"].release(0)
    camera.send(10)  # the only slot is taken
    assert camera.read() == {"kind": "full", "camera": "front"}
    camera.send(100_001)
    assert "100001 bytes; expected 0 MB at most" in camera.read()["reason"]
    assert "camera 'front': 1005 images of 10000 bytes" in camera.warnings[1]
    assert "`queue_depth` to 3 at most" in camera.warnings[1]


def test_a_ring_shrinks_when_images_have_become_small(camera: SimpleNamespace) -> None:
    camera.send(90_000)
    large, _ = camera.read(), camera.read()
    for _ in range(shared_memory_sink.SMALL_IMAGES):
        large["ring"].release(0)
        camera.send(10_000)
        last = camera.read()
    assert last["kind"] == "ring"
    assert last["slots"] == 8


def test_an_image_that_cannot_be_told_of_takes_no_slot(
    camera: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image messages with such a frame_id are refused before; a mistake must cost no slot."""
    camera.send(90_000)
    ring, _ = camera.read()["ring"], camera.read()
    ring.release(0)
    camera.send(90_000, frame_id="x" * 300_000)
    message = camera.read()
    assert message["kind"] == "refused"
    assert "65536 at most" in message["reason"]
    assert not ring.taken
    monkeypatch.setattr(shared_memory_sink.FrameRing, "write", lambda *_: 1 / 0)
    camera.send(90_000)
    assert "ZeroDivisionError" in camera.read()["reason"]


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
    topic = {"name": "not a topic!", "transport": "raw", "reliability": "best_effort", "depth": 1}
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
        assert ingest_process.main(["ingest", "/", "/", str(os.dup(other.fileno()))]) == 0
    finally:
        other.close()
        listener.join(30)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert answers[0]["kind"] == "failed"
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
