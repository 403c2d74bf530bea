# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The process multi_camera and a test process, over Fast DDS."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Image
from support.ros import LATCHED, Client, RosProcess, detections_from_message, image_message
from vision_msgs.msg import Detection2DArray, VisionInfo

from yolox_trt.core import PostprocessOptions
from yolox_trt.core.device import Device
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.ros.messages.images import frame_from_image, stamp_to_ns

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]
LOSSLESS = {
    "qos_reliability": "reliable",
    "qos_depth": 200,
    "queue_depth": 200,
    "score_threshold": 0.26,
}
CLASSES = ("class0", "class1", "class2")


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    """Smooth random pictures, bgr8 (120, 160, 3)."""
    rng = np.random.default_rng(seed)
    return [
        np.kron(rng.integers(0, 256, (15, 20, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        for _ in range(count)
    ]


def connect(client: Client, camera: str = "front") -> tuple[Any, list[Any]]:
    """Listen to a camera's detections and become its driver; return (publisher, results)."""
    results = client.collect(Detection2DArray, f"/{camera}/detections")
    publisher = client.publisher(Image, f"/{camera}/image_raw")
    client.spin_until(
        lambda: publisher.get_subscription_count() == 1, what="the camera being subscribed to"
    )
    client.spin_until(
        lambda: client.node.count_publishers(f"/{camera}/detections") == 1,
        what="the publisher of detections",
    )
    return publisher, results


def stream_values(diagnostics: list[Any], camera: str = "front") -> dict[str, str]:
    for status in diagnostics[-1].status:
        if status.name.endswith(f"stream {camera}"):
            return {"level": status.level, "message": status.message} | {
                item.key: item.value for item in status.values
            }
    raise AssertionError(f"no status of {camera}")


def test_every_image_gives_the_offline_result(
    start_cameras: Start, client: Client, small_model: Path
) -> None:
    process = start_cameras({"/**": LOSSLESS, "multi_camera": {"cameras": ["front"]}})
    publisher, results = connect(client)
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    detector = create_detector(DetectorOptions(model=small_model, device=Device("cpu"), threads=1))
    options = PostprocessOptions(score_threshold=0.26)
    messages = []
    for index, picture in enumerate(pictures(30)):
        if index % 3 == 1:
            message = image_message(np.ascontiguousarray(picture[..., ::-1]), "rgb8", index + 1)
        elif index % 3 == 2:
            message = image_message(picture[..., 0].copy(), "mono8", index + 1)
        else:
            # Rows with padding, as many drivers send them.
            padded = np.zeros((120, 512), np.uint8)
            padded[:, :480] = picture.reshape(120, 480)
            message = image_message(padded, "bgr8", index + 1)
            message.width = 160
        messages.append(message)
    for message in messages:
        publisher.publish(message)
        client.spin_for(0.01)
    client.spin_until(lambda: len(results) == len(messages), 60.0, "all results")

    for message, result in zip(messages, results, strict=True):
        assert result.header.stamp == message.header.stamp
        assert result.header.frame_id == "test_frame"
        (expected,) = detector.detect([frame_from_image(message)], [options])
        received = detections_from_message(result, CLASSES)
        np.testing.assert_array_equal(received.boxes, expected.boxes)
        np.testing.assert_array_equal(received.scores, expected.scores)
        np.testing.assert_array_equal(received.class_ids, expected.class_ids)
        for detection in result.detections:
            assert detection.header == message.header
    assert sum(len(result.detections) for result in results) > len(results)

    def counted() -> bool:
        values = stream_values(diagnostics)
        return values["processed"] == values["published"] == "30"

    client.spin_until(lambda: diagnostics and counted(), what="the count of results")
    values = stream_values(diagnostics)
    # Losses would be a warning. So is silence, which begins 2 s after the last image: the
    # comparisons above may take longer.
    assert values["message"].startswith(("running", "no image arrives"))
    assert int(values["received"]) == 30
    assert int(values["dropped"]) == 0
    assert 0.0 < float(values["latency_p50_ms"]) <= float(values["latency_p99_ms"])
    status, seconds = process.stop()
    assert status == 0
    assert seconds < 10.0 + process.startup
    assert "Traceback" not in process.output
    assert "[rcutils" not in process.output  # a type support is missing


def test_parameters_change_at_run_time(start_cameras: Start, client: Client) -> None:
    process = start_cameras({"/**": LOSSLESS, "multi_camera": {"cameras": ["front"]}})
    publisher, results = connect(client)
    picture = pictures(1)[0]

    def count(stamp: int) -> int:
        publisher.publish(image_message(picture, stamp_ns=stamp))
        client.spin_until(lambda: results and stamp_to_ns(results[-1].header.stamp) == stamp)
        return len(results[-1].detections)

    before = count(1)
    scores = sorted(d.results[0].hypothesis.score for d in results[-1].detections)
    assert before > 2
    middle = (scores[before // 2] + scores[before // 2 - 1]) / 2
    assert client.set_parameter("/front", "score_threshold", middle).successful
    # A threshold that is changed between two images counts from the second one on.
    assert count(2) == sum(score >= middle for score in scores)

    refused = client.set_parameter("/front", "score_threshold", 1.5)
    assert not refused.successful
    assert "0 to 1" in refused.reason
    refused = client.set_parameter("/front", "class_thresholds", ["zebra:0.5"])
    assert not refused.successful
    assert "class0, class1, class2" in refused.reason
    assert client.set_parameter("/front", "class_thresholds", ["class0:1.0"]).successful
    count(3)
    assert all(d.results[0].hypothesis.class_id != "class0" for d in results[-1].detections)

    assert client.set_parameter("/front", "transport", "compressed").successful
    process.wait_for("transport: the change applies at the next configure")

    assert client.set_parameter("/front", "enabled", False).successful
    client.spin_until(lambda: publisher.get_subscription_count() == 0, what="unsubscribing")
    assert client.set_parameter("/front", "enabled", True).successful
    client.spin_until(lambda: publisher.get_subscription_count() == 1, what="subscribing")
    count(4)


def test_max_rate_drops_and_counts(start_cameras: Start, client: Client) -> None:
    start_cameras({"/**": LOSSLESS | {"max_rate": 5.0}, "multi_camera": {"cameras": ["front"]}})
    publisher, results = connect(client)
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    picture = pictures(1)[0]
    sent = 0
    start = time.monotonic()
    while len(results) < 8:
        assert time.monotonic() - start < 60.0
        sent += 1
        publisher.publish(image_message(picture, stamp_ns=sent))
        client.spin_for(0.025)
    assert len(results) <= 5.0 * (time.monotonic() - start) + 3

    def counted() -> bool:
        values = stream_values(diagnostics)
        dropped = int(values["dropped_rate"])
        return int(values["received"]) == sent and len(results) + dropped == sent

    client.spin_until(lambda: diagnostics and counted(), what="the count of dropped images")


def test_malformed_images_are_counted_and_the_node_lives_on(
    start_cameras: Start, client: Client
) -> None:
    process = start_cameras({"/**": LOSSLESS, "multi_camera": {"cameras": ["front"]}})
    publisher, results = connect(client)
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    good = pictures(1)[0]
    bad = []
    short = image_message(good)
    short.data = short.data[:1000]
    bad.append(short)
    unknown = image_message(good, "no_such_encoding")
    bad.append(unknown)
    empty = Image(encoding="bgr8")
    bad.append(empty)
    narrow = image_message(good)
    narrow.step = 10
    bad.append(narrow)
    huge = image_message(good)
    huge.height = 2**32 - 1
    bad.append(huge)
    bad.append(short)  # once more, out of turn: counted, not logged again
    # One report alone tells of them as a warning: it must not be missed.
    client.spin_until(lambda: diagnostics, what="diagnostics")
    for message in bad:
        publisher.publish(message)
    publisher.publish(image_message(good, stamp_ns=7))
    client.spin_until(lambda: len(results) == 1, what="the good image's result")
    assert stamp_to_ns(results[0].header.stamp) == 7
    client.spin_until(
        lambda: diagnostics and int(stream_values(diagnostics)["dropped_malformed"]) == len(bad),
        what="the count of malformed images",
    )
    warned = [
        status
        for message in diagnostics
        for status in message.status
        if status.name.endswith("stream front") and status.level == DiagnosticStatus.WARN
    ]
    assert any("malformed" in status.message for status in warned)
    assert "no_such_encoding" in process.output
    assert process.output.count("with 1000 bytes of data") == 1
    assert process.process.poll() is None


def test_camera_stops_and_returns(start_cameras: Start, client: Client) -> None:
    start_cameras({"/**": LOSSLESS, "multi_camera": {"cameras": ["front"]}})
    publisher, results = connect(client)
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    picture = pictures(1)[0]
    publisher.publish(image_message(picture, stamp_ns=1))
    client.spin_until(lambda: len(results) == 1)
    client.node.destroy_publisher(publisher)

    def silent() -> bool:
        # Before the first image the message is the same.
        values = stream_values(diagnostics)
        silence = "no image arrives: nobody publishes /front/image_raw"
        return values["received"] == "1" and values["message"] == silence

    client.spin_until(
        lambda: diagnostics and silent(), what="the warning that no image arrives any more"
    )
    assert stream_values(diagnostics)["level"] == DiagnosticStatus.WARN
    publisher = client.publisher(Image, "/front/image_raw")
    client.spin_until(lambda: publisher.get_subscription_count() == 1)
    publisher.publish(image_message(picture, stamp_ns=2))
    client.spin_until(lambda: len(results) == 2)
    assert results[0].detections[0].bbox == results[1].detections[0].bbox


def test_subscribes_only_while_somebody_listens(start_cameras: Start, client: Client) -> None:
    start_cameras(
        {
            "/**": LOSSLESS,
            "multi_camera": {"cameras": ["front", "rear"]},
            "rear": {"on_demand": False},
        }
    )
    front = client.publisher(Image, "/front/image_raw")
    rear = client.publisher(Image, "/rear/image_raw")
    client.spin_until(lambda: rear.get_subscription_count() == 1, what="rear, always subscribed")
    client.spin_for(0.5)
    assert front.get_subscription_count() == 0
    listener = client.node.create_subscription(
        Detection2DArray, "/front/detections", lambda message: None, 10
    )
    client.spin_until(lambda: front.get_subscription_count() == 1, what="front on demand")
    client.node.destroy_subscription(listener)
    client.spin_until(lambda: front.get_subscription_count() == 0, what="front's end")


def test_vision_info_is_latched(start_cameras: Start, client: Client) -> None:
    start_cameras({"multi_camera": {"cameras": ["front"]}})
    infos = client.collect(VisionInfo, "/front/vision_info", LATCHED)
    client.spin_until(lambda: infos, what="VisionInfo")
    assert infos[0].method == "small"
    assert infos[0].database_location == "/front/class_names"
    from rcl_interfaces.srv import GetParameters

    answer = client.call(
        GetParameters, "/front/get_parameters", GetParameters.Request(names=["class_names"])
    )
    assert list(answer.values[0].string_array_value) == list(CLASSES)
    assert not client.set_parameter("/front", "class_names", ["x"]).successful


@pytest.mark.sampled(2)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_the_middle_of_work(
    start_cameras: Start, client: Client, number: int
) -> None:
    process = start_cameras({"multi_camera": {"cameras": ["front"]}})
    publisher, results = connect(client)
    stamps = itertools.count(1)
    picture = pictures(1)[0]

    def publish() -> None:
        publisher.publish(image_message(picture, stamp_ns=next(stamps)))

    client.spin_until(lambda: (publish(), results)[1], what="a result")
    for _ in range(10):
        publish()
    status, seconds = process.stop(number)
    assert status == 0
    assert seconds < 10.0 + process.startup
    assert "Traceback" not in process.output
    assert "left behind" not in process.output


def test_a_wrong_parameter_is_refused_at_the_start(start_cameras: Start) -> None:
    process = start_cameras(
        {"front": {"nms_threshold": 7.0}, "multi_camera": {"cameras": ["front"]}}, wait=""
    )
    assert process.process.wait(60) == 2
    assert "the parameter `nms_threshold` = 7.0; expected a number, 0 to 1" in process.output


def test_unknown_and_misplaced_parameters_are_reported(start_cameras: Start) -> None:
    process = start_cameras(
        {
            "front": {"score_treshold": 0.5, "placement": "static"},
            "multi_camera": {"cameras": ["front"], "max_rate": 3.0},
        }
    )
    assert "'score_treshold' is set for this node" in process.output
    assert "did you mean 'score_threshold'?" in process.output
    assert "'placement' is set for camera front but belongs to multi_camera" in process.output
    assert "'max_rate' is set for multi_camera but belongs to the cameras" in process.output


def test_frames_of_two_cameras_keep_their_streams(start_cameras: Start, client: Client) -> None:
    start_cameras({"/**": LOSSLESS, "multi_camera": {"cameras": ["front", "rear"]}})
    front, front_results = connect(client, "front")
    rear, rear_results = connect(client, "rear")
    for index, picture in enumerate(pictures(10)):
        front.publish(image_message(picture, stamp_ns=2 * index + 1))
        rear.publish(image_message(picture[:60].copy(), stamp_ns=2 * index + 2))
        client.spin_for(0.01)
    client.spin_until(lambda: len(front_results) == len(rear_results) == 10)
    assert [stamp_to_ns(m.header.stamp) for m in front_results] == list(range(1, 21, 2))
    assert [stamp_to_ns(m.header.stamp) for m in rear_results] == list(range(2, 22, 2))


def test_frame_is_a_view_of_the_message() -> None:
    message = image_message(pictures(1)[0])
    frame = frame_from_image(message)
    message.data[0] = 77
    assert frame.data[0] == 77
