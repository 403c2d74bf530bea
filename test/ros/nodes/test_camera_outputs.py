# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What a camera node takes in and gives out beside raw images and detections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from support.fusion import FusionStandIn
from support.ros import Client, RosProcess, detections_from_message, image_message
from vision_msgs.msg import Detection2DArray

from yolox_trt.core import Detections, Frame, PostprocessOptions, Roi
from yolox_trt.core.device import Device
from yolox_trt.core.option import from_plain
from yolox_trt.core.zones import Zones
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.kernels.draw import draw_detections
from yolox_trt.ros.messages.autoware import AUTOWARE_LABELS

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]
CLASSES = ("class0", "class1", "class2")
OPTIONS = PostprocessOptions(score_threshold=0.26)
PICTURE = np.kron(
    np.random.default_rng(2).integers(0, 256, (15, 20, 3)), np.ones((8, 8, 1))
).astype(np.uint8)


def offline(model: Path, frame: Frame) -> Detections:
    detector = create_detector(DetectorOptions(model=model, device=Device("cpu"), threads=1))
    return detector.detect([frame], [OPTIONS])[0]


def assert_same(message: Detection2DArray, expected: Detections) -> None:
    received = detections_from_message(message, CLASSES)
    assert len(expected) > 0
    np.testing.assert_array_equal(received.boxes, expected.boxes)
    np.testing.assert_array_equal(received.scores, expected.scores)
    np.testing.assert_array_equal(received.class_ids, expected.class_ids)


def test_compressed_images(start_cameras: Start, client: Client, small_model: Path) -> None:
    process = start_cameras(
        {
            "/**": {
                "transport": "compressed",
                "score_threshold": 0.26,
                "qos_reliability": "reliable",
            },
            "multi_camera": {"cameras": ["front"]},
        }
    )
    results = client.collect(Detection2DArray, "/front/detections")
    publisher = client.publisher(CompressedImage, "/front/image_raw/compressed")
    client.spin_until(lambda: publisher.get_subscription_count() == 1)
    publisher.publish(CompressedImage(format="jpeg", data=b"no jpeg"))
    process.wait_for("cannot be decoded")
    jpeg = cv2.imencode(".jpg", PICTURE)[1].tobytes()
    message = CompressedImage(format="bgr8; jpeg compressed bgr8", data=jpeg)
    message.header.frame_id = "lens"
    publisher.publish(message)
    client.spin_until(lambda: results)
    assert results[0].header.frame_id == "lens"
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert_same(results[0], offline(small_model, Frame.from_array(decoded)))
    assert process.stop()[0] == 0


def test_roi_and_objects_for_autoware(
    start_cameras: Start, client: Client, small_model: Path, tmp_path: Path
) -> None:
    messages = pytest.importorskip("tier4_perception_msgs.msg")
    remap, names = tmp_path / "remap.csv", tmp_path / "label.txt"
    remap.write_text("name,id\nclass0,1\nclass1,0\n")
    names.write_text("\n".join(CLASSES))
    process = start_cameras(
        {
            "/**": {"score_threshold": 0.26, "qos_reliability": "reliable"},
            "multi_camera": {"cameras": ["front"]},
            "front": {
                "roi": [16, 8, 120, 96],
                "publish_objects": True,
                "class_remap": ["class2:PEDESTRIAN"],
                "roi_remap_path": str(remap),
                "label_path": str(names),
                "objects_topic": "/perception/rois0",
            },
        }
    )
    fusion = FusionStandIn((160, 120), ["test_frame"], [0])
    objects = client.collect(messages.DetectedObjectsWithFeature, "/perception/rois0")
    results = client.collect(Detection2DArray, "/front/detections")
    publisher = client.publisher(Image, "/front/image_raw")
    client.spin_until(lambda: publisher.get_subscription_count() == 1)
    # The camera may have found one of the two listeners only.
    image = image_message(PICTURE, stamp_ns=5)
    client.publish_until(publisher, image, lambda: results and objects, what="both outputs")
    expected = offline(small_model, Frame.from_array(PICTURE, roi=Roi(16, 8, 120, 96)))
    assert_same(results[0], expected)
    assert fusion.refuse(objects[0]) == ""
    assert objects[0].header == results[0].header
    assert len(objects[0].feature_objects) == len(expected)
    labels = [AUTOWARE_LABELS[name] for name in ("CAR", "UNKNOWN", "PEDESTRIAN")]
    for item, box, score, class_id in zip(
        objects[0].feature_objects,
        expected.boxes,
        expected.scores,
        expected.class_ids,
        strict=True,
    ):
        roi = item.feature.roi
        assert (roi.x_offset, roi.y_offset) == (int(box[0]), int(box[1]))
        assert roi.x_offset + roi.width == int(np.ceil(box[2]))
        assert roi.y_offset + roi.height == int(np.ceil(box[3]))
        assert item.object.classification[0].label == labels[class_id]
        assert item.object.existence_probability == pytest.approx(float(score))

    # An image that the roi does not fit into is refused, and the next one is served.
    publisher.publish(image_message(PICTURE[:50].copy(), stamp_ns=6))
    process.wait_for("expected a rectangle inside the")
    assert client.set_parameter("/front", "roi", [0, 0, 0, 0]).successful
    publisher.publish(image_message(PICTURE, stamp_ns=7))
    client.spin_until(lambda: results[-1].header.stamp.nanosec == 7, what="the last result")
    assert_same(results[-1], offline(small_model, Frame.from_array(PICTURE)))
    assert all(result.header.stamp.nanosec != 6 for result in results)

    # An image without objects has a message, too.
    assert client.set_parameter("/front", "score_threshold", 1.0).successful
    publisher.publish(image_message(PICTURE, stamp_ns=8))
    client.spin_until(lambda: objects[-1].header.stamp.nanosec == 8, what="an empty message")
    assert list(objects[-1].feature_objects) == []
    assert [fusion.refuse(message) for message in objects] == [""] * len(objects)


def test_track_ids_and_zones(start_cameras: Start, client: Client, small_model: Path) -> None:
    pytest.importorskip("edgefirst.tracker", reason="pip install edgefirst-tracker")
    zones = {
        "include_zones": ["0,0 80,0 80,120 0,120", "100,0 160,0 160,120 100,120"],
        "zone_anchor": "centre",
    }
    process = start_cameras(
        {
            "/**": {"score_threshold": 0.26, "qos_reliability": "reliable"},
            "multi_camera": {"cameras": ["front"]},
            "front": {
                "tracking": "bytetrack",
                "track_score": 0.27,
                "zone_anchor": "centre",
                **zones,
            },
        }
    )
    results = client.collect(Detection2DArray, "/front/detections")
    publisher = client.publisher(Image, "/front/image_raw")
    client.spin_until(lambda: publisher.get_subscription_count() == 1)
    found = offline(small_model, Frame.from_array(PICTURE))
    expected = from_plain(Zones, zones).select(found)
    assert 0 < len(expected) < len(found)
    stamps = [5, 100_000_005, 200_000_005]
    for number, stamp in enumerate(stamps, start=1):
        image = image_message(PICTURE, stamp_ns=stamp)
        publisher.publish(image)
        client.spin_until(lambda n=number: len(results) == n, what=f"result {number}")
        assert_same(results[-1], expected)
    first, second, third = ([each.id for each in result.detections] for result in results)
    assert set(first) == {""}
    sure = [score >= 0.27 for score in expected.scores]
    assert [bool(track) for track in second] == sure
    assert len(set(filter(None, second))) == sum(sure) > 0
    assert third == second
    everything = ["-1,-1 200,-1 200,200 -1,200"]
    assert client.set_parameter("/front", "exclude_zones", everything).successful
    publisher.publish(image_message(PICTURE, stamp_ns=300_000_005))
    client.spin_until(lambda: len(results) == 4, what="the last result")
    assert results[-1].detections == []
    assert client.set_parameter("/front", "exclude_zones", ["900,0 990,0 990,9"]).successful
    publisher.publish(image_message(PICTURE, stamp_ns=400_000_005))
    process.wait_for("expected pixels of the 160x120 image")
    refused = client.set_parameter("/front", "exclude_zones", ["0,0 1,1"])
    assert "three corners" in refused.reason


def test_annotated_is_drawn_while_somebody_looks(
    start_cameras: Start, client: Client, small_model: Path
) -> None:
    start_cameras(
        {
            "/**": {"score_threshold": 0.26, "qos_reliability": "reliable"},
            "multi_camera": {"cameras": ["front"]},
        }
    )
    publisher = client.publisher(Image, "/front/image_raw")
    # Looking at the picture alone makes the camera run as well.
    pictures = client.collect(Image, "/front/annotated", qos_profile_sensor_data)
    client.spin_until(lambda: publisher.get_subscription_count() == 1)
    # The pictures themselves are best effort: one may be lost.
    image = image_message(np.ascontiguousarray(PICTURE[..., ::-1]), "rgb8", 9)
    client.publish_until(publisher, image, lambda: pictures, what="an annotated picture")
    expected = PICTURE.copy()
    found = offline(small_model, Frame.from_array(PICTURE))
    draw_detections(expected, found, CLASSES)
    message = pictures[0]
    assert (message.encoding, message.height, message.width, message.step) == (
        "bgr8",
        120,
        160,
        480,
    )
    assert message.header.stamp.nanosec == 9
    np.testing.assert_array_equal(np.frombuffer(message.data, np.uint8), expected.reshape(-1))
    assert not np.array_equal(expected, PICTURE)

    jpegs = client.collect(CompressedImage, "/front/annotated/compressed", qos_profile_sensor_data)
    client.publish_until(publisher, image, lambda: jpegs, what="a compressed picture")
    _, encoded = cv2.imencode(".jpg", expected, (cv2.IMWRITE_JPEG_QUALITY, 85))
    assert jpegs[0].data.tobytes() == encoded.tobytes()
    assert jpegs[0].format == "bgr8; jpeg compressed bgr8"

    assert client.set_parameter("/front", "publish_annotated", False).successful
    client.spin_until(lambda: publisher.get_subscription_count() == 0)
