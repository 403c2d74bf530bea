# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of parameters, their page, and the shipped YAML file."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import pytest
import yaml

from yolox_trt.core import ConfigurationError, Device, Roi
from yolox_trt.ros.nodes.parameters import (
    CAMERA_PARAMETERS,
    DEPRECATED_ALIASES,
    EXECUTOR_PARAMETERS,
    check_topic,
    class_thresholds_by_id,
    parameters_page,
    parse_class_thresholds,
    parse_device,
    parse_roi,
)
from yolox_trt.ros.parameter_spec import ParameterSpec
from yolox_trt.ros.tools.launch_arguments import (
    parameter_overrides,
    read_parameter_file,
    unknown_cameras,
    write_parameter_file,
)

REPOSITORY = Path(__file__).resolve().parents[2]
ALL = (*CAMERA_PARAMETERS, *EXECUTOR_PARAMETERS)


def camera(name: str) -> ParameterSpec:
    return next(spec for spec in CAMERA_PARAMETERS if spec.name == name)


def test_page_is_fresh() -> None:
    page = (REPOSITORY / "docs" / "parameters.md").read_text()
    assert page == parameters_page(), "run `yolox_trt parameters > docs/parameters.md`"


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
def test_defaults_are_allowed_and_described(spec: ParameterSpec) -> None:
    assert spec.normalise(spec.default) == spec.default
    assert spec.description.endswith(".")


def test_shipped_yaml_has_known_parameters_with_allowed_values() -> None:
    sections = yaml.safe_load((REPOSITORY / "config" / "multi_camera.yaml").read_text())
    sections = {name.removeprefix("/**/"): section for name, section in sections.items()}
    executor = {spec.name: spec for spec in EXECUTOR_PARAMETERS}
    cameras = {spec.name: spec for spec in CAMERA_PARAMETERS}
    assert set(sections) == {"/**", "multi_camera"} | set(
        sections["multi_camera"]["ros__parameters"]["cameras"]
    )
    for node, section in sections.items():
        for name, value in section["ros__parameters"].items():
            (executor if node == "multi_camera" else cameras)[name].normalise(value)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("score_threshold", 1.01, "0 to 1"),
        ("score_threshold", float("nan"), "double"),
        ("score_threshold", True, "double"),
        ("score_threshold", "0.5", "double"),
        ("qos_depth", 0, "1 to 1000 images"),
        ("qos_depth", 2.0, "integer"),
        ("enabled", 1, "bool"),
        ("transport", "udp", "raw, compressed"),
        ("roi", [1, 2, 3], "whole image"),
        ("roi", [0, 0, -1, 5], "width"),
        ("roi", [1.0, 2.0, 3.0, 4.0], "integer array"),
        ("device", "tpu", "dla0"),
        ("image_topic", "bad topic", "single slashes"),
        ("image_topic", "/front//image", "single slashes"),
        ("image_topic", "/front/image/", "single slashes"),
        ("image_topic", "/2nd/image", "digit"),
        ("image_topic", "", "single slashes"),
        ("class_thresholds", ["car"], "person:0.5"),
        ("class_thresholds", ["car:1.5"], "from 0 to 1"),
        ("class_thresholds", ["car:much"], "from 0 to 1"),
    ],
)
def test_bad_values_are_refused_with_what_is_allowed(name: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=name.replace("image_topic", "topic")) as error:
        camera(name).normalise(value)
    assert text in str(error.value)
    assert error.value.fix


def test_a_wrong_device_of_the_process_names_its_parameter() -> None:
    devices = next(spec for spec in EXECUTOR_PARAMETERS if spec.name == "devices")
    with pytest.raises(ConfigurationError, match=r"'npu'; expected auto, gpu.*`devices`"):
        devices.normalise(["npu"])


def test_values_are_brought_into_their_type() -> None:
    value = camera("score_threshold").normalise(1)
    assert (value, type(value)) == (1.0, float)
    # An empty YAML list reaches a node without a type.
    assert camera("roi").normalise(None) == []
    assert camera("class_thresholds").normalise(None) == []
    assert camera("roi").normalise(array("q", [1, 2, 3, 4])) == [1, 2, 3, 4]
    assert camera("roi").normalise((1, 2, 3, 4)) == [1, 2, 3, 4]


def test_parsers() -> None:
    assert parse_device("auto") is None
    assert parse_device("dla1") == Device("dla", 1)
    assert parse_roi([]) is None
    assert parse_roi([0, 0, 0, 0]) is None
    assert parse_roi([1, 2, 3, 4]) == Roi(1, 2, 3, 4)
    thresholds = parse_class_thresholds(["traffic light:0.5", "", " 2 : 0.25 "])
    assert thresholds == {"traffic light": 0.5, "2": 0.25}
    names = ("car", "traffic light", "bus")
    assert class_thresholds_by_id(thresholds, names, 3) == {1: 0.5, 2: 0.25}
    with pytest.raises(ConfigurationError, match="car, traffic light, bus"):
        class_thresholds_by_id({"zebra": 0.5}, names, 3)
    many = tuple(f"class{number}" for number in range(80))
    with pytest.raises(ConfigurationError, match="class9 and 70 more"):
        class_thresholds_by_id({"zebra": 0.5}, many, 80)
    with pytest.raises(ConfigurationError, match="0 to 2"):
        class_thresholds_by_id({"3": 0.5}, (), 3)


@pytest.mark.parametrize("name", ["image", "/a", "~/image_raw", "/a/b_2/c", "/{ns}/x", "a/{node}"])
def test_topics_that_ros_takes(name: str) -> None:
    check_topic(name)


def test_autoware_names_lead_to_parameters() -> None:
    names = {spec.name for spec in ALL}
    assert {new for new, _ in DEPRECATED_ALIASES.values()} <= names
    assert not names & DEPRECATED_ALIASES.keys()
    _, convert = DEPRECATED_ALIASES["dla_core_id"]
    assert (convert(-1), convert(1)) == (None, "dla1")


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
