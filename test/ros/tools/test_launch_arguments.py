# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Launch arguments, parameter files and the namespace of the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy")

from rcl_interfaces.srv import GetParameters
from support.ros import REPOSITORY, Client, RosProcess, write_parameters

from yolox_trt.core import ConfigurationError
from yolox_trt.ros.tools.launch_arguments import (
    parameter_overrides,
    read_parameter_file,
    unknown_cameras,
    unreached_sections,
    write_parameter_file,
)

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]
SECTION = {"ros__parameters": {"priority": 1}}


@pytest.mark.parametrize("namespace", ["", "car", "/car/", "a/b"])
def test_the_shipped_file_reaches_every_namespace(namespace: str) -> None:
    shipped = read_parameter_file(REPOSITORY / "config" / "multi_camera.yaml")
    assert unreached_sections(shipped, namespace) == []


@pytest.mark.parametrize(
    ("name", "reached", "unreached"),
    [
        ("front", [""], ["car", "a/b"]),
        ("/front", [""], ["car"]),
        ("/car/front", ["car", "/car"], ["", "a/b"]),
        ("/*/front", ["car"], ["", "a/b"]),
        ("/**/front", ["", "car", "a/b"], []),
        ("/a/**/front", ["a", "a/b"], ["", "car"]),
        ("/**", ["", "car"], []),
    ],
)
def test_sections_that_no_node_finds_are_named(
    name: str, reached: list[str], unreached: list[str]
) -> None:
    for namespace in reached:
        assert unreached_sections({name: SECTION}, namespace) == []
    for namespace in unreached:
        (line,) = unreached_sections({name: SECTION}, namespace)
        prefix = f"/{namespace}" if namespace else ""
        assert f"expected {prefix}/front, or /**/front" in line


def test_a_section_within_a_namespace_is_found() -> None:
    sections = {"car": {"front": SECTION}}
    assert unreached_sections(sections, "car") == []
    assert "'/car/front'" in unreached_sections(sections, "")[0]


def test_the_shipped_file_in_a_namespace(start: Start, client: Client, small_model: Path) -> None:
    process = start(["-m", "yolox_trt.cli", "up", "--namespace", "car", f"model:={small_model}"])
    process.wait_for("active: front, rear, left, right")
    request = GetParameters.Request(names=["priority", "score_threshold", "nms_threshold"])
    values = client.call(GetParameters, "/car/front/get_parameters", request).values
    # The camera's own section goes before the one of all nodes.
    assert values[0].integer_value == 10
    assert [value.double_value for value in values[1:]] == [0.25, 0.45]
    assert "reaches no node" not in process.output


def test_up_names_sections_that_a_namespace_leaves_out(
    start: Start, client: Client, small_model: Path, tmp_path: Path
) -> None:
    path = write_parameters(tmp_path / "cameras.yaml", {"multi_camera": {"cameras": ["front"]}})
    given = ["--namespace", "car", "--config", str(path), f"model:={small_model}"]
    process = start(["-m", "yolox_trt.cli", "up", *given])
    process.wait_for("section '/multi_camera' of the parameter file reaches no node")
    assert "fix: the section's name" in process.output


def test_launch_arguments_become_overrides_of_single_cameras(tmp_path: Path) -> None:
    overrides = parameter_overrides(
        {
            "config": "x.yaml",
            "model": "",
            "cameras": "front, rear",
            "front.score_threshold": "1",
            "front.class_thresholds": "traffic light:0.5,car:0.25",
            "rear.roi": "0,10,100,200",
            "rear.enabled": "false",
            "multi_camera.placement": "static",
        }
        | {"rear.device": "dla0"}
    )
    assert overrides == {
        "multi_camera": {"cameras": ["front", "rear"], "placement": "static"},
        "front": {
            "score_threshold": 1.0,
            "class_thresholds": ["traffic light:0.5", "car:0.25"],
        },
        "rear": {"roi": [0, 10, 100, 200], "enabled": False, "device": "dla0"},
    }
    path = write_parameter_file(overrides)
    try:
        written = yaml.safe_load(path.read_text())
    finally:
        path.unlink()
    assert written["/**/rear"]["ros__parameters"] == overrides["rear"]
    with pytest.raises(ConfigurationError, match=r"front\.placement"):
        parameter_overrides({"front.placement": "static"})
    with pytest.raises(ConfigurationError, match="0 to 1"):
        parameter_overrides({"front.nms_threshold": "2"})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: [1,\nb: 2\n", "line 3"),
        ("- front\n", "ros__parameters"),
        ("front:\n  score_threshold: 0.5\n", "front/score_threshold"),
        ("car:\n  front:\n    ros__parameters: {}\n  rear: 1\n", "car/rear"),
    ],
)
def test_a_parameter_file_of_another_form_is_refused(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "cameras.yaml"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_parameter_file(path)
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="parameter file") as error:
        read_parameter_file(path)
    assert found in str(error.value)


def test_arguments_for_cameras_that_will_not_be_there_are_named() -> None:
    shipped = read_parameter_file(REPOSITORY / "config" / "multi_camera.yaml")
    given = parameter_overrides({"front.priority": "1", "frnt.priority": "1"})
    (line,) = unknown_cameras(given, shipped)
    assert "'frnt'" in line
    assert "expected front, rear, left, right" in line
    assert "cameras:=front,rear,left,right,frnt" in line
    given = parameter_overrides({"cameras": "frnt", "front.priority": "1", "frnt.priority": "1"})
    assert "'front'" in unknown_cameras(given, shipped)[0]
    anywhere = {"/**/multi_camera": {"ros__parameters": {"cameras": ["a"]}}}
    (line,) = unknown_cameras({"a": {}, "b": {}}, anywhere)
    assert "'b'" in line
    (line,) = unknown_cameras({"camera": {}, "b": {}}, {})
    assert "'b'" in line
