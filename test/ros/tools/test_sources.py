# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The commands replay and publish, against multi_camera and against a listener."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from support.bags import write_bag
from support.ros import RELIABLE, Client, RosProcess, detections_from_message
from vision_msgs.msg import Detection2DArray

from yolox_trt.core import ConfigurationError, PostprocessOptions
from yolox_trt.core.device import Device
from yolox_trt.core.images import open_images
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.ros.messages.images import stamp_to_ns
from yolox_trt.ros.tools import replay, source_node
from yolox_trt.ros.tools.bag import ImageBag
from yolox_trt.ros.tools.options import parse_remaps
from yolox_trt.ros.tools.replay import _message_type, _stamp, _with_stamp

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]
#: The program, with more patience than a user has: it waits longer for its subscribers, and for a
#: result before it counts an image as missed.
CLI = [
    "-c",
    "import sys\n"
    "from yolox_trt.ros.tools import replay, result_window, source_node\n"
    "source_node.wait_for_subscribers.__defaults__ = (60.0,)\n"
    "replay.DISCOVERY = 60.0\n"
    "result_window.ResultWindow.__init__.__kwdefaults__['timeout'] = 60.0\n"
    "from yolox_trt.cli.main import main\n"
    "sys.exit(main())",
]
CLASSES = ("class0", "class1", "class2")


def results_of(client: Client, cameras: list[str]) -> dict[str, list[Any]]:
    return {name: client.collect(Detection2DArray, f"/{name}/detections") for name in cameras}


def wait_for_end(client: Client, process: RosProcess, timeout: float = 90.0) -> int:
    client.spin_until(lambda: process.process.poll() is not None, timeout, "the command's end")
    return int(process.process.returncode)


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
@pytest.mark.sampled(2)
def test_replayed_bag_gives_the_offline_results(
    start: Start, start_cameras: Start, client: Client, tmp_path: Path, small_model: Path,
    storage: str,
) -> None:  # fmt: skip
    write_bag(tmp_path / "bag", storage=storage, count=12)
    start_cameras(
        {
            "/**": {"score_threshold": 0.26, "qos_reliability": "reliable"},
            "multi_camera": {"cameras": ["front", "rear"]},
            "rear": {"transport": "compressed"},
        }
    )
    results = results_of(client, ["front", "rear"])
    # A camera subscribes when it has matched a listener: from here on no result passes us by.
    images = ["/front/image_raw", "/rear/image_raw/compressed"]
    client.spin_until(lambda: all(map(client.node.count_subscribers, images)), what="cameras")
    process = start([*CLI, "replay", str(tmp_path / "bag"), "--max", "--wait", "60"])
    assert wait_for_end(client, process) == 0
    assert "24 results, 0 missed" in process.output
    client.spin_until(lambda: all(len(messages) == 12 for messages in results.values()))

    detector = create_detector(DetectorOptions(model=small_model, device=Device("cpu"), threads=1))
    options = PostprocessOptions(score_threshold=0.26)
    received = {name: iter(messages) for name, messages in results.items()}
    found = 0
    for frame in ImageBag(tmp_path / "bag"):
        message = next(received[frame.stream_id.split("/")[1]])
        (expected,) = detector.detect([frame], [options])
        result = detections_from_message(message, CLASSES)
        assert stamp_to_ns(message.header.stamp) == frame.stamp_ns
        np.testing.assert_array_equal(result.boxes, expected.boxes)
        np.testing.assert_array_equal(result.scores, expected.scores)
        found += len(result)
    assert found > 24


def test_the_first_image_waits_for_every_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late the second one is found after the first, as on a machine under load."""
    monkeypatch.setattr(source_node, "SETTLE", 0.0)
    turns = 0

    class Turns:
        def spin_once(self, timeout_sec: float) -> None:
            nonlocal turns
            turns += 1

    class Found:
        def __init__(self, after: float) -> None:
            self.after = after

        def get_subscription_count(self) -> int:
            return int(turns >= self.after)

    never, early, late = Found(float("inf")), Found(1), Found(1000)
    executor: Any = Turns()
    publishers: list[Any] = [early, late, never]
    assert source_node.wait_for_subscribers(executor, publishers, needed=publishers[:2])
    assert late.get_subscription_count()
    turns = 0
    assert source_node.wait_for_subscribers(executor, publishers)
    assert not late.get_subscription_count()


def test_replay_keeps_time_with_clock_loop_and_remap(
    start: Start, client: Client, tmp_path: Path
) -> None:
    write_bag(tmp_path / "bag", count=6)
    arrivals: list[tuple[float, int]] = []
    client.node.create_subscription(
        Image,
        "/left/image",
        lambda m: arrivals.append((time.monotonic(), stamp_to_ns(m.header.stamp))),
        RELIABLE,
    )
    clock = client.collect(Clock, "/clock", RELIABLE)
    options = [
        "--speed",
        "0.5",
        "--clock",
        "--loop",
        "2",
        "--remap",
        "/front/image_raw:=/left/image",
    ]
    process = start([*CLI, "replay", str(tmp_path / "bag"), *options])
    assert wait_for_end(client, process) == 0
    client.spin_until(lambda: len(arrivals) >= 12, what="all images")
    stamps = [stamp for _, stamp in arrivals]
    assert stamps == [10**9 + index * 10**8 for index in range(6)] * 2
    # Half speed: pictures that were 0.1 s apart come 0.2 s apart.
    gaps = np.diff([when for when, _ in arrivals[:6]])
    assert 0.15 < np.median(gaps) < 0.35
    times = [message.clock.sec * 10**9 + message.clock.nanosec for message in clock]
    # Between two messages the clock goes on. Theirs are whole tenths of a second, and 1 or 2 ns.
    assert sum(each % 10**8 > 2 for each in times) >= 10
    first_round = times[: times.index(max(times)) + 1]
    assert first_round == sorted(first_round)
    # Nobody waits for the clock's listener: it may miss the first ones.
    assert 10**9 <= first_round[0] < 2 * 10**9


def test_replay_with_present_stamps(start: Start, client: Client, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", count=4, cut={1: 9})
    images = client.collect(Image, "/front/image_raw")
    bag = str(tmp_path / "bag")
    before = time.time_ns()
    options = ["--restamp", "--topic", "/front/image_raw", "--ros-args", "-r", "__node:=player"]
    process = start([*CLI, "replay", bag, *options])
    client.spin_until(lambda: "player" in client.node.get_node_names(), what="the node")
    assert wait_for_end(client, process) == 1
    assert "/front/image_raw at 1100000000: 9 bytes, left out" in process.output
    assert "3 messages on 1 topics, 1 could not be read" in process.output
    client.spin_until(lambda: len(images) >= 3, what=f"3 images: {process.output}")
    assert len(images) == 3
    now = time.time_ns()
    assert all(before <= stamp_to_ns(m.header.stamp) <= now for m in images)
    assert all(m.header.frame_id == "front_optical" and len(m.data) == 96 * 384 for m in images)


def test_stamp_in_the_bytes_of_a_message() -> None:
    for encapsulation, order in ((b"\x00\x01\x00\x00", "little"), (b"\x00\x00\x00\x00", "big")):
        data = encapsulation + (5).to_bytes(4, order) + (7).to_bytes(4, order) + b"rest"
        assert _stamp(data) == 5 * 10**9 + 7
        changed = _with_stamp(data, 123 * 10**9 + 456)
        assert _stamp(changed) == 123 * 10**9 + 456
        assert changed[:4] == encapsulation
        assert changed[12:] == b"rest"


@pytest.mark.parametrize(
    "name",
    [
        "unittest.__main__/msg/X",
        "unittest/msg/X",
        ".evil/msg/X",
        "../x/msg/X",
        "std_msgs/msg/X",
        "",
    ],
)
def test_a_type_in_a_bag_imports_packages_of_messages_alone(name: str) -> None:
    assert _message_type("std_msgs/msg/Header").__name__ == "Header"
    loaded = set(sys.modules)
    assert _message_type(name) is None
    assert set(sys.modules) == loaded


def test_rounds_end_where_nothing_is_published() -> None:
    published = [0]

    def publish(number: int) -> int:
        published[0] += number < 3
        return number

    assert [publish(n) for n in source_node.rounds(0, lambda: published[0])] == [0, 1, 2, 3]
    assert list(source_node.rounds(5, lambda: 0)) == [0]
    assert len(list(source_node.rounds(5, iter(range(100)).__next__))) == 5


def test_a_bag_of_one_message_is_no_flood(start: Start, client: Client, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", count=1)
    before = time.monotonic()
    options = ["--loop", "5", "--topic", "/front/image_raw", "--wait", "0"]
    process = start([*CLI, "replay", str(tmp_path / "bag"), *options])
    assert wait_for_end(client, process) == 0
    assert "5 messages on 1 topics" in process.output
    assert time.monotonic() - before > 5 * replay.LEAST_ROUND


def test_remaps_are_checked() -> None:
    assert parse_remaps(["/a:=/b/c"]) == {"/a": "/b/c"}
    with pytest.raises(ConfigurationError, match="topic_to_publish"):
        parse_remaps(["/a:/b"])


def make_folder(path: Path, count: int) -> list[np.ndarray]:
    path.mkdir()
    rng = np.random.default_rng(5)
    pictures = [rng.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(count)]
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(path / f"{index:03}.png"), picture)
    return pictures


def test_publish_a_folder(start: Start, client: Client, tmp_path: Path) -> None:
    pictures = make_folder(tmp_path / "pictures", 4)
    (tmp_path / "pictures" / "004.png").write_bytes(b"no picture")
    images = client.collect(Image, "/side/image_raw", qos_profile_sensor_data)
    options = ["--topic", "/side/image_raw", "--rate", "20", "--loop", "4", "--frame-id", "side"]
    process = start([*CLI, "publish", str(tmp_path / "pictures"), *options])
    assert wait_for_end(client, process) == 1
    assert "16 published on /side/image_raw" in process.output
    assert "4 images could not be read" in process.output
    # Best effort: the first ones are lost while the two find each other, later ones under load.
    assert images
    for message in images:
        shown = np.frombuffer(message.data, np.uint8).reshape(48, 64, 3)
        assert any(np.array_equal(shown, picture) for picture in pictures)
        assert message.header.frame_id == "side"
        assert (message.encoding, message.step) == ("bgr8", 192)


def test_publish_a_video_compressed(start: Start, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no AVI")
    for index in range(50):
        writer.write(np.full((48, 64, 3), index * 5, np.uint8))
    writer.release()
    source = open_images(path)
    assert (source.rate, len(source), source.live) == (25.0, 50, False)
    images = client.collect(CompressedImage, "/v/compressed", RELIABLE)
    options = ["--topic", "/v", "--compressed", "--speed", "2", "--reliable"]
    process = start([*CLI, "publish", str(path), *options])
    assert wait_for_end(client, process) == 0

    def last_is_shown() -> bool:
        picture = cv2.imdecode(np.frombuffer(images[-1].data, np.uint8), cv2.IMREAD_COLOR)
        return abs(int(picture.mean()) - 49 * 5) < 3

    client.spin_until(lambda: images and last_is_shown(), what="the last picture")
    assert len(images) >= 10


def test_publish_as_fast_as_the_consumer_takes_it(
    start: Start, start_cameras: Start, client: Client, tmp_path: Path
) -> None:
    make_folder(tmp_path / "pictures", 30)
    start_cameras({"/**": {"qos_reliability": "reliable"}, "multi_camera": {"cameras": ["camera"]}})
    results = results_of(client, ["camera"])["camera"]
    # As above: else the command's own listener is the one that the camera waits for.
    client.spin_until(lambda: client.node.count_subscribers("/camera/image_raw"), what="camera")
    options = ["--max", "--wait", "60", "--reliable"]
    process = start([*CLI, "publish", str(tmp_path / "pictures"), *options])
    assert wait_for_end(client, process) == 0
    assert "30 results, 0 missed" in process.output
    client.spin_until(lambda: len(results) == 30)


def test_a_source_that_is_not_there_is_refused(start: Start, client: Client) -> None:
    for command in (["publish", "/nowhere"], ["replay", "/nowhere"]):
        process = start(["-m", "yolox_trt.cli", *command])
        assert wait_for_end(client, process) == 2
        assert "/nowhere" in process.output
        assert "Traceback" not in process.output


def test_results_of_a_camera_with_another_name_are_proposed(
    start: Start, client: Client, tmp_path: Path
) -> None:
    write_bag(tmp_path / "bag", count=1)
    publisher = client.publisher(Detection2DArray, "/cam0/detections")
    process = start([*CLI, "replay", str(tmp_path / "bag"), "--max", "--wait", "5"])
    assert wait_for_end(client, process) == 2
    assert "there are detections on /cam0/detections" in process.output
    assert "--results once for each, such as /cam0/detections" in process.output
    client.node.destroy_publisher(publisher)
