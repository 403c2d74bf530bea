# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt regress`: a bag through the real process, against what was stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.bags import COMPRESSED_TYPE, IMAGE_TYPE, write_bag
from support.ros import RosProcess, write_parameters

from yolox_trt.core import ConfigurationError, PostprocessOptions
from yolox_trt.core.device import Device
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.evaluation.regression import Found, write_expectation
from yolox_trt.ros.tools.bag import ImageBag
from yolox_trt.ros.tools.options import RegressOptions
from yolox_trt.ros.tools.regress import _configure, camera_sections

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]
CLASSES = ("class0", "class1", "class2")


def test_a_bag_against_what_was_stored(start: Start, tmp_path: Path, small_model: Path) -> None:
    write_bag(tmp_path / "bag", count=4)
    expect, junit = tmp_path / "bag.json", tmp_path / "bag.xml"
    detector = create_detector(DetectorOptions(model=small_model, device=Device("cpu"), threads=1))
    options = PostprocessOptions(score_threshold=0.26)
    stored: dict[str, dict[int, list[Found]]] = {"front": {}, "rear": {}}
    for frame in ImageBag(tmp_path / "bag"):
        (found,) = detector.detect([frame], [options])
        names = [CLASSES[number] for number in found.class_ids]
        rows = zip(names, found.scores.tolist(), *found.boxes.T.tolist(), strict=True)
        stored[frame.stream_id.split("/")[1]][frame.stamp_ns] = list(rows)
    assert all(each for images in stored.values() for each in images.values())
    # One detection is there that was not expected, all others are as they were.
    lost = stored["rear"][10**9].pop()
    write_expectation(expect, stored, {})

    command = ["-m", "yolox_trt.cli", "regress", str(tmp_path / "bag"), "--expect", str(expect)]
    command += [f"model:={small_model}", "devices:=cpu", "multi_camera.cpu_threads:=1"]
    command += [f"{camera}.score_threshold:=0.26" for camera in stored]
    process = start([*command, "--junit", str(junit)])
    assert process.process.wait(90) == 1, process.output
    assert f"rear at 1.000: new: {lost[0]}" in process.output
    assert "2 cameras, 8 images: 1 found" in process.output
    assert 'failures="1"' in junit.read_text()


def test_each_image_topic_of_a_bag_is_a_camera_of_its_own() -> None:
    topics = (
        "/front/image",
        "/a/x/image",
        "/image",
        "/multi_camera/image",
        "/twice",
        "/x/b",
        "/x_b",
    )
    images = {**dict.fromkeys(topics, IMAGE_TYPE), "/twice/compressed": COMPRESSED_TYPE}
    sections = camera_sections(images)
    names = ["front", "a_x", "image", "multi_camera_2", "twice", "x", "x_b", "twice_2"]
    assert list(sections) == names
    assert [each["image_topic"] for each in sections.values()] == [*topics, "/twice"]
    assert sections["twice_2"]["transport"] == "compressed"
    assert list(camera_sections({"/image": IMAGE_TYPE})) == ["camera"]


def test_cameras_of_a_parameter_file_find_their_topics(tmp_path: Path) -> None:
    images = {"/left/image": "sensor_msgs/msg/Image", "/r/x/compressed": "sensor_msgs/msg/Image"}
    sections = {
        "/**/multi_camera": {"cameras": ["left", "right", "third"]},
        "/**/left": {"image_topic": "/left/image", "stale_after": 0.2},
        "/**/right": {"image_topic": "/r/x", "transport": "compressed"},
    }
    path = write_parameters(tmp_path / "cameras.yaml", sections)
    options = RegressOptions(bag=Path("drive"), config=path, arguments=["namespace:=car"])
    cameras, files = _configure(options, images)
    assert cameras == {"car/left": "/left/image", "car/right": "/r/x/compressed"}
    assert files[0] == str(path)
    assert "stale_after: 0.0" in Path(files[1]).read_text()
    with pytest.raises(ConfigurationError, match=r"without images on /car/left/image_raw"):
        _configure(
            RegressOptions(bag=Path("d"), arguments=["cameras:=left", "namespace:=car"]), images
        )
