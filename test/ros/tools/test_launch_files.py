# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The files in launch/, run by ROS 2's own launch wherever it can be imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: run `make venv`")
pytest.importorskip("launch_ros", reason="ros2 launch is part of a ROS distribution")

from rcl_interfaces.srv import GetParameters
from support.bags import write_camera_bag
from support.ros import REPOSITORY, Client, RosProcess, detections_from_message
from vision_msgs.msg import Detection2DArray

from yolox_trt.core import PostprocessOptions
from yolox_trt.core.device import Device
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.ros.tools.bag import ImageBag

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]
CLASSES = ("class0", "class1", "class2")
#: What `ros2 launch FILE NAME:=VALUE ...` does, within the actions of a parent.
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import *
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch_ros.actions import *
given = [tuple(argument.split(":=", 1)) for argument in sys.argv[2:]]
source = AnyLaunchDescriptionSource(sys.argv[1])
include = IncludeLaunchDescription(source, launch_arguments=given)
service = LaunchService()
service.include_launch_description(LaunchDescription([{parent}include]))
sys.exit(service.run())
"""


@pytest.fixture
def launch(start: Start) -> Start:
    """Start a launch file, with actions before it as Python code that ends in a comma."""

    def start_launch(file: str, *arguments: str, parent: str = "") -> RosProcess:
        code = LAUNCH.replace("{parent}", parent)
        return start(["-c", code, str(REPOSITORY / "launch" / file), *arguments])

    return start_launch


def parameters_of(client: Client, node: str, *names: str) -> list[Any]:
    request = GetParameters.Request(names=list(names))
    answer = client.call(GetParameters, f"{node}/get_parameters", request)
    kinds = {1: "bool", 2: "integer", 3: "double", 4: "string", 9: "string_array"}
    return [getattr(value, f"{kinds[value.type]}_value") for value in answer.values]


def test_arguments_reach_the_nodes(launch: Start, client: Client, small_model: Path) -> None:
    process = launch(
        "multi_camera.launch.py",
        *(f"model:={small_model}", "cameras:=front,rear", "devices:=cpu", "placement:=static"),
        *("devices_of:=front:=cpu rear:=cpu", "front.score_threshold:=0.5", "rear.x:=1"),
        *("use_sim_time:=true", "namespace:=left", "multi_camera.cpu_threads:=1"),
        *("lidar.ip:=10.0.0.1", "frnt.priority:=3", "log_level:=warn"),
        parent="PushRosNamespace('car'), SetParameter('queue_depth', 3), "
        "SetParameter('wheel_radius', 0.3), SetLaunchConfiguration('radar.port', '1'),",
    )
    process.wait_for("process started")
    values = parameters_of(client, "/car/left/front", "score_threshold", "queue_depth")
    assert values == [0.5, 3]
    assert parameters_of(client, "/car/left/rear", "device", "use_sim_time") == ["cpu", True]
    values = parameters_of(client, "/car/left/multi_camera", "placement", "use_sim_time")
    assert values == ["static", True]
    output = process.output
    assert "[WARNING] [multi_camera.launch]: launch argument 'rear.x'" in output
    assert "no camera 'frnt'" in output
    assert "lidar" not in output
    assert "radar" not in output
    assert process.stop()[0] == 0
    assert "process has finished cleanly" in process.output


def test_a_wrong_argument_is_one_line(launch: Start) -> None:
    process = launch("multi_camera.launch.py", "placement:=best")
    assert process.process.wait(60) == 1
    assert "placement:=" in process.output
    assert "Traceback" not in process.output
    assert "process started" not in process.output


def test_cameras_are_loaded_into_a_running_process(
    launch: Start, start_cameras: Start, client: Client
) -> None:
    running = start_cameras({"multi_camera": {"cameras": ["front"]}})
    launch(
        "multi_camera.launch.py",
        *("container:=/multi_camera", "cameras:=rear", "rear.score_threshold:=0.125"),
    )
    running.wait_for("camera 'rear' added")
    assert parameters_of(client, "/rear", "score_threshold") == [0.125]


def test_one_camera_without_a_file(launch: Start, client: Client, small_model: Path) -> None:
    launch(
        "single_camera.launch.py",
        *("camera:=rear", "image_topic:=/rear/image", f"model:={small_model}", "devices:=cpu"),
    )
    assert parameters_of(client, "/rear", "image_topic", "score_threshold") == ["/rear/image", 0.3]


@pytest.mark.parametrize("count", [2, 6])
def test_autoware_cameras_in_one_process(
    launch: Start, start: Start, client: Client, tmp_path: Path, small_model: Path, count: int
) -> None:
    objects = pytest.importorskip("tier4_perception_msgs.msg", reason="no Autoware messages")
    topics = [f"/sensing/camera/camera{number}/image_raw" for number in range(count)]
    write_camera_bag(tmp_path / "bag", topics, count=3)
    names = [f"tensorrt_yolox{number}" for number in range(count)]
    given = {
        "image_number": str(count),
        "use_bytetrack": "false",
        "camera_2d_detector/model_path": str(small_model),
        "camera_2d_detector/label_path": "",
        "camera_2d_detector/color_map_path": "",
        "camera_2d_detector/roi_remap_path": "",
        "camera_2d_detector/roi_to_semseg_remap_path": "",
        "use_decompress": "false",
    }
    ours = {"devices": "cpu", "multi_camera.cpu_threads": "1"}
    for name in names:
        # Random weights give no score above Autoware's 0.35.
        ours |= {f"{name}.qos_reliability": "reliable", f"{name}.score_threshold": "0.26"}
    process = launch(
        "autoware/camera_2d_detector.launch.xml",
        *(f"{name}:={value}" for name, value in (given | ours).items()),
        parent="PushRosNamespace('perception'),",
    )
    results = {
        name: client.collect(Detection2DArray, f"/perception/{name}/detections") for name in names
    }
    rois = [
        client.collect(objects.DetectedObjectsWithFeature, f"/perception/rois{number}")
        for number in range(count)
    ]
    client.spin_until(lambda: all(map(client.node.count_subscribers, topics)), 60, "cameras")
    found = [word for name in names for word in ("--results", f"/perception/{name}/detections")]
    replay = ["-m", "yolox_trt.cli", "replay", str(tmp_path / "bag"), "--max", "--wait", "60"]
    player = start([*replay, *found])
    client.spin_until(lambda: player.process.poll() is not None, 60, "the bag's end")
    assert f"{3 * count} results, 0 missed" in player.output
    client.spin_until(lambda: all(len(each) == 3 for each in [*results.values(), *rois]))

    detector = create_detector(DetectorOptions(model=small_model, device=Device("cpu"), threads=1))
    options = PostprocessOptions(score_threshold=0.26, nms_threshold=0.7, class_agnostic=True)
    received = dict(zip(topics, map(iter, results.values()), strict=True))
    total = 0
    for frame in ImageBag(tmp_path / "bag"):
        (expected,) = detector.detect([frame], [options])
        result = detections_from_message(next(received[frame.stream_id]), CLASSES)
        np.testing.assert_array_equal(result.boxes, expected.boxes)
        np.testing.assert_array_equal(result.scores, expected.scores)
        total += len(result)
    assert total > 3 * count
    assert sum(len(message.feature_objects) for each in rois for message in each) == total
    assert process.output.count("process started") == 1
    assert process.stop()[0] == 0


def test_a_bag_is_replayed_to_its_end(
    launch: Start, client: Client, tmp_path: Path, small_model: Path
) -> None:
    write_camera_bag(tmp_path / "bag", ["/front/image_raw"], count=5)
    results = client.collect(Detection2DArray, "/front/detections")
    process = launch(
        "replay.launch.py",
        *(f"bag:={tmp_path / 'bag'}", "config:=", "cameras:=front", f"model:={small_model}"),
        # The camera, and so the player, waits for the listener.
        *("devices:=cpu", "front.qos_reliability:=reliable", "front.on_demand:=true"),
    )
    client.spin_until(lambda: process.process.poll() is not None, 90, process.output)
    assert process.process.returncode == 0
    assert len(results) == 5
    assert process.output.count("process has finished cleanly") == 2
