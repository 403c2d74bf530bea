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
    computer_sections,
    process_settings,
    read_config,
    substitute_environment,
    unreached_sections,
)

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]
SECTION = {"ros__parameters": {"priority": 1}}
SHIPPED = str(REPOSITORY / "config" / "multi_camera.yaml")


@pytest.mark.parametrize("namespace", ["", "car", "/car/", "a/b"])
def test_the_shipped_file_reaches_every_namespace(namespace: str) -> None:
    settings = process_settings({"config": SHIPPED, "namespace": namespace})
    assert settings.warnings == ()


@pytest.mark.parametrize(
    ("name", "reached", "unreached"),
    [
        ("front", [""], ["/car", "/a/b"]),
        ("/front", [""], ["/car"]),
        ("/car/front", ["/car"], ["", "/a/b"]),
        ("/*/front", ["/car"], ["", "/a/b"]),
        ("/**/front", ["", "/car", "/a/b"], []),
        ("/a/**/front", ["/a", "/a/b"], ["", "/car"]),
        ("/**", ["", "/car"], []),
        ("/**/**/front", ["", "/car", "/a/b"], []),
        ("/**" * 600 + "/x/front", ["/a/b/c/d/x"], ["/a/b/c/d/e"]),
    ],
)
def test_sections_that_no_node_finds_are_named(
    name: str, reached: list[str], unreached: list[str]
) -> None:
    for namespace in reached:
        assert unreached_sections({name: SECTION}, namespace, {"front"}) == []
    for namespace in unreached:
        (line,) = unreached_sections({name: SECTION}, namespace, {"front"})
        assert f"expected {namespace}/front, or /**/front" in line


def test_a_section_within_a_namespace_is_found() -> None:
    sections = {"car": {"front": SECTION}}
    assert unreached_sections(sections, "/car", {"front"}) == []
    assert "'/car/front'" in unreached_sections(sections, "", {"front"})[0]


def test_a_section_of_no_camera_is_named() -> None:
    (line,) = unreached_sections({"/**/frnt": SECTION}, "", {"front", "rear"})
    assert "section '/**/frnt' of the parameter file is of no camera" in line
    assert "expected front, rear or multi_camera" in line
    # A file for the whole vehicle has sections of other nodes, too.
    lidar = {"ros__parameters": {"rotation_rate": 10}}
    assert unreached_sections({"/**/lidar": lidar}, "", {"front"}) == []


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


def test_arguments_become_parameters_of_single_nodes() -> None:
    settings = process_settings(
        {
            "config": "",
            "model": "",
            "cameras": "front, rear",
            "placement": "static",
            "autostart": "false",
            "use_sim_time": "true",
            "devices_of": "front:=cpu rear:=dla0",
            "front.score_threshold": "1",
            "front.class_thresholds": "traffic light:0.5,car:0.25",
            "rear.roi": "0,10,100,200",
            "rear.enabled": "false",
            "multi_camera.max_batch": "2",
        }
    )
    front = {
        "device": "cpu",
        "score_threshold": 1.0,
        "class_thresholds": ["traffic light:0.5", "car:0.25"],
    }
    expected = {
        "multi_camera": {
            "cameras": ["front", "rear"],
            "placement": "static",
            "autostart": False,
            "max_batch": 2,
        },
        "/**": {"use_sim_time": True},
        "front": front,
        "rear": {"device": "dla0", "roi": [0, 10, 100, 200], "enabled": False},
    }
    assert settings.overrides == expected
    (file,) = settings.files
    written = yaml.safe_load(Path(file).read_text())
    assert written["/**/front"]["ros__parameters"] == front
    assert settings.warnings == ()


def test_arguments_of_others_are_left_alone() -> None:
    given = {"config": SHIPPED, "lidar.ip": "10.0.0.1", "front.ip": "10.0.0.2", "plain": "1"}
    settings = process_settings(given)
    # A camera's driver may have the camera's name; a mistyped parameter is told all the same.
    (line,) = settings.warnings
    assert "launch argument 'front.ip'" in line
    assert settings.overrides == {}
    with pytest.raises(ConfigurationError, match=r"launch argument 'lidar\.ip'"):
        process_settings(given, strict=True)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"namespace": "front-left"}, "namespace 'front-left'; expected letters, digits"),
        ({"cameras": "front-left"}, "node name 'front-left'; expected letters, digits"),
        ({"front-left.priority": "1"}, "node name 'front-left'; expected letters, digits"),
        ({"multi_camera.speed": "1"}, "launch argument 'multi_camera.speed'"),
        ({"devices_of": "front"}, 'such as "front:=gpu rear:=dla0"'),
        ({"devices_of": "front:=npu"}, "npu"),
        ({"use_sim_time": "yes"}, "use_sim_time:=yes; expected true or false"),
        ({"front.nms_threshold": "2"}, "0 to 1"),
    ],
)
def test_wrong_arguments_are_refused(given: dict[str, str], found: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        process_settings(given)
    assert found in str(error.value)


def test_variables_of_the_environment_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELS", "/models")
    path = tmp_path / "cameras.yaml"
    text = "multi_camera:\n  ros__parameters: {model: $(env MODELS)/a.onnx, placement: $(env P x)}"
    path.write_text(text)
    read, sections = read_config(str(path))
    parameters = {"model": "/models/a.onnx", "placement": "x"}
    assert sections == {"multi_camera": {"ros__parameters": parameters}}
    assert yaml.safe_load(Path(read).read_text()) == sections
    with pytest.raises(ConfigurationError, match=r"NOT_THERE\), a variable that is not set"):
        substitute_environment("$(env NOT_THERE)")
    with pytest.raises(ConfigurationError, match="other substitutions need `ros2 launch`"):
        substitute_environment("$(find-pkg-share x)")


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
        read_config(str(path))
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="parameter file") as error:
        read_config(str(path))
    assert found in str(error.value)


def test_arguments_for_cameras_that_will_not_be_there_are_named(tmp_path: Path) -> None:
    given = {"config": SHIPPED, "front.priority": "1", "frnt.priority": "1"}
    (line,) = process_settings(given).warnings
    assert "'frnt'" in line
    assert "expected front, rear, left, right" in line
    assert "cameras:=front,rear,left,right,frnt" in line
    lines = process_settings({**given, "cameras": "frnt"}).warnings
    assert ["'front'" in line for line in lines] == [True]
    path = write_parameters(tmp_path / "a.yaml", {"/**/multi_camera": {"cameras": ["a"]}})
    (line,) = process_settings({"config": str(path), "a.priority": "1", "b.priority": "1"}).warnings
    assert "'b'" in line
    (line,) = process_settings({"camera.priority": "1", "b.priority": "1"}).warnings
    assert "'b'" in line


def test_one_of_two_computers_names_its_outputs_as_if_there_was_one(tmp_path: Path) -> None:
    config = write_parameters(
        tmp_path / "vehicle.yaml",
        {
            "/**/multi_camera": {"cameras": ["front", "rear"]},
            "/**/rear": {"detections_topic": "~/found", "mask_topic": "/all/masks"},
        },
    )
    sections = computer_sections({"computer": "orin_a", "config": str(config)})
    assert sections["multi_camera"] == {"computer": "orin_a"}
    assert sections["front"]["detections_topic"] == "/front/detections"
    assert sections["rear"]["detections_topic"] == "/rear/found"
    assert sections["rear"]["objects_topic"] == "/rear/objects"
    assert "mask_topic" not in sections["rear"]
    with pytest.raises(ConfigurationError, match="computer 'orin-a'"):
        computer_sections({"computer": "orin-a"})
    with pytest.raises(ConfigurationError, match="expected this computer's name"):
        computer_sections({"computer": "", "config": str(config)})
