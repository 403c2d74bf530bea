# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Ways to start multi_camera: `yolox_trt up` and the launch file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rcl_interfaces.srv import GetParameters
from support.ros import Client, RosProcess

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]


def parameters_of(client: Client, node: str, *names: str) -> list[Any]:
    answer = client.call(
        GetParameters, f"{node}/get_parameters", GetParameters.Request(names=list(names))
    )
    kinds = {1: "bool", 2: "integer", 3: "double", 4: "string", 8: "double_array"}
    kinds |= {7: "integer_array", 9: "string_array"}
    values = [getattr(value, f"{kinds[value.type]}_value") for value in answer.values]
    return [list(v) if hasattr(v, "__len__") and not isinstance(v, str) else v for v in values]


def arguments(model: Path) -> list[str]:
    return [
        f"model:={model}",
        "cameras:=front,rear",
        "front.score_threshold:=0.5",
        "rear.class_thresholds:=class1:0.5",
        "multi_camera.cpu_threads:=1",
    ]


def check_parameters(client: Client, prefix: str = "") -> None:
    # 10 comes from config/multi_camera.yaml, which the arguments go before.
    assert parameters_of(client, f"{prefix}/front", "score_threshold") == [0.5]
    values = parameters_of(client, f"{prefix}/rear", "class_thresholds", "score_threshold")
    assert values == [["class1:0.5"], 0.3]
    assert parameters_of(client, f"{prefix}/multi_camera", "cameras") == [["front", "rear"]]


def test_a_missing_requirement_is_one_line(start: Start) -> None:
    hidden = "import sys; sys.modules['cv2'] = None; from yolox_trt.ros.nodes import multi_camera; "
    process = start(["-c", hidden + "sys.exit(multi_camera.main([]))"])
    assert process.process.wait(60) == 2
    process.wait_for("multi_camera: Python module 'cv2' is missing")
    assert "pip install opencv-python-headless" in process.output
    assert "Traceback" not in process.output


def test_up(start: Start, client: Client, small_model: Path) -> None:
    process = start(["-m", "yolox_trt.cli", "up", *arguments(small_model)])
    process.wait_for("active: front, rear")
    check_parameters(client)
    assert parameters_of(client, "/front", "priority", "nms_threshold") == [10, 0.45]
    environment = Path(f"/proc/{process.process.pid}/environ").read_bytes()
    assert b"MALLOC_ARENA_MAX=2" in environment
    assert process.stop()[0] == 0


def test_up_in_a_namespace(start: Start, client: Client, small_model: Path) -> None:
    process = start(["-m", "yolox_trt.cli", "up", "--namespace", "car", *arguments(small_model)])
    process.wait_for("active: front, rear")
    check_parameters(client, "/car")


def test_up_refuses_what_is_no_parameter(start: Start, client: Client) -> None:
    process = start(["-m", "yolox_trt.cli", "up", "front.nonsense:=1"])
    assert process.process.wait(60) == 2
    assert "launch argument 'front.nonsense'" in process.output


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["anything:=1"], "argument 'anything:=1'"),
        (["--config", "/nowhere.yaml"], "parameter file '/nowhere.yaml' that cannot be read"),
        (["config:=/nowhere.yaml"], "parameter file '/nowhere.yaml' that cannot be read"),
        (["--namespace", "no name"], "no name"),
        (["front.image_topic:=/a//b"], "topic name '/a//b'"),
    ],
)
def test_up_names_what_is_wrong_in_one_line(
    start: Start, client: Client, arguments: list[str], found: str
) -> None:
    process = start(["-m", "yolox_trt.cli", "up", *arguments])
    assert process.process.wait(60) == 2
    assert found in process.output
    assert "Traceback" not in process.output


def test_up_names_cameras_that_are_not_there(
    start: Start, client: Client, small_model: Path
) -> None:
    given = [f"model:={small_model}", "cameras:=front", "frnt.priority:=3", "log_level:=warn"]
    process = start(["-m", "yolox_trt.cli", "up", *given])
    process.wait_for("no camera 'frnt'")
