# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of parameters, their page, and the shipped YAML file."""

from __future__ import annotations

import re
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from support.ros import REPOSITORY

from yolox_trt.core import ConfigurationError, Device, PostprocessOptions, Roi
from yolox_trt.core.option import Option
from yolox_trt.executor import SchedulerOptions, StreamConfig
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.nodes.autoware_parameters import AUTOWARE_ONLY, DEPRECATED_ALIASES
from yolox_trt.ros.nodes.parameter_values import check_topic, parse_node_names
from yolox_trt.ros.nodes.parameters import (
    CAMERA_OPTIONS,
    EXECUTOR_OPTIONS,
    CameraParameters,
    ExecutorParameters,
)
from yolox_trt.ros.nodes.parameters_page import parameters_page

ALL = (*CAMERA_OPTIONS.values(), *EXECUTOR_OPTIONS.values())


def camera(**values: Any) -> CameraParameters:
    defaults = {name: option.default for name, option in CAMERA_OPTIONS.items()}
    return CameraParameters.of("front", defaults | values)


def executor(**values: Any) -> ExecutorParameters:
    defaults = {name: option.default for name, option in EXECUTOR_OPTIONS.items()}
    return ExecutorParameters.of(defaults | values)


def test_page_is_fresh() -> None:
    page = (REPOSITORY / "docs" / "parameters.md").read_text()
    assert page == parameters_page(), "run `yolox_trt parameters > docs/parameters.md`"


@pytest.mark.parametrize("option", ALL, ids=lambda option: option.name)
def test_defaults_are_allowed_and_described(option: Option) -> None:
    assert option.plain(option.default) == option.default
    assert option.help.endswith(".")


def test_a_value_that_stands_for_none_is_described() -> None:
    assert "0 stands for the default." in EXECUTOR_OPTIONS["cpu_threads"].help
    assert "Empty stands for the default." in EXECUTOR_OPTIONS["engine_cache"].help
    assert "auto stands for the default." in EXECUTOR_OPTIONS["preprocessing"].help


def test_defaults_are_those_of_the_rooms_below() -> None:
    assert camera().stream == StreamConfig(id="front")
    assert camera().stream.options == PostprocessOptions()
    assert executor().scheduler == SchedulerOptions()


def test_shipped_yaml_has_known_parameters_with_allowed_values() -> None:
    sections = yaml.safe_load((REPOSITORY / "config" / "multi_camera.yaml").read_text())
    sections = {name.removeprefix("/**/"): section for name, section in sections.items()}
    assert set(sections) == {"/**", "multi_camera"} | set(
        sections["multi_camera"]["ros__parameters"]["cameras"]
    )
    for node, section in sections.items():
        for name, value in section["ros__parameters"].items():
            (EXECUTOR_OPTIONS if node == "multi_camera" else CAMERA_OPTIONS)[name].plain(value)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("score_threshold", 1.01, "0 to 1"),
        ("score_threshold", float("nan"), "a number"),
        ("score_threshold", True, "a number"),
        ("score_threshold", "0.5", "a number"),
        ("qos_depth", 0, "1 to 1000 images"),
        ("qos_depth", 2.0, "a whole number"),
        ("enabled", 1, "true or false"),
        ("transport", "udp", "raw, compressed, ffmpeg or foxglove"),
        ("roi", [1, 2, 3], "whole image"),
        ("roi", [0, 0, -1, 5], "width"),
        ("roi", [1.0, 2.0, 3.0, 4.0], "a list of whole numbers"),
        ("device", "tpu", "dla0"),
        ("image_topic", "bad topic", "single slashes"),
        ("image_topic", "/front//image", "single slashes"),
        ("image_topic", "/front/image/", "single slashes"),
        ("image_topic", "/2nd/image", "digit"),
        ("image_topic", "", "single slashes"),
        ("class_thresholds", ["car"], "name:value"),
        ("class_thresholds", ["car:1.5"], "from 0 to 1"),
        ("class_thresholds", ["car:much"], "from 0 to 1"),
    ],
)
def test_bad_values_are_refused_with_what_is_allowed(name: str, value: Any, text: str) -> None:
    for make in (CAMERA_OPTIONS[name].plain, lambda value: camera(**{name: value})):
        with pytest.raises(ConfigurationError) as error:
            make(value)
        assert text in error_text(error.value)
        assert f"the parameter `{name}`" in error_text(error.value)
        assert error.value.fix


def test_a_region_needs_the_whole_jpeg() -> None:
    assert camera(jpeg_scale="1/4").decoder.max_reduction == 4
    with pytest.raises(ConfigurationError, match=r"`jpeg_scale` = 1/4 with `roi` = \[0, 0, 8, 8\]"):
        camera(jpeg_scale="1/4", roi=[0, 0, 8, 8])


def test_a_wrong_device_of_the_process_names_its_parameter() -> None:
    with pytest.raises(ConfigurationError, match=r"'npu'; expected auto, gpu.*`devices`"):
        EXECUTOR_OPTIONS["devices"].plain(["npu"])


def test_values_are_brought_into_their_type() -> None:
    value = CAMERA_OPTIONS["score_threshold"].plain(1)
    assert (value, type(value)) == (1.0, float)
    # An empty YAML list reaches a node without a type.
    assert CAMERA_OPTIONS["class_thresholds"].plain(None) == []
    roi = CAMERA_OPTIONS["roi"]
    assert roi.plain(None) == []
    assert roi.plain(array("q", [1, 2, 3, 4])) == roi.plain((1, 2, 3, 4)) == [1, 2, 3, 4]


def test_values_are_given_as_they_are_used() -> None:
    assert camera(device="").stream.pinned_device is None
    assert camera(device="DLA1").stream.pinned_device == Device("dla", 1)
    assert camera(roi=[]).roi is camera(roi=[0, 0, 0, 0]).roi is None
    assert camera(roi=[1, 2, 3, 4]).roi == Roi(1, 2, 3, 4)
    assert camera(class_remap=["a:b:CAR", " "]).class_remap == {"a:b": "CAR"}
    assert executor().devices == executor(devices=[]).devices == (None,)
    assert executor(devices=["gpu", "auto"]).devices == (Device("gpu"), None)
    assert executor(watchdog=3).scheduler == SchedulerOptions(watchdog=3.0, callback_limit=3.0)


def test_the_stream_is_the_cameras_and_the_models() -> None:
    spec: Any = SimpleNamespace(class_names=("car", "traffic light"), num_classes=2)
    parameters = camera(class_thresholds=["traffic light:0.5"], priority=3, max_detections=7)
    config = parameters.stream_config("small", spec)
    assert (config.id, config.model, config.priority) == ("front", "small", 3)
    assert config.options == PostprocessOptions(max_detections=7, class_thresholds={1: 0.5})
    with pytest.raises(ConfigurationError) as error:
        camera(class_thresholds=["zebra:0.5"]).stream_config("small", spec)
    text = error_text(error.value)
    assert text.startswith(
        "the parameter `class_thresholds` for class 'zebra'; expected one of car, "
    )


@pytest.mark.parametrize("names", [["a", "a"], ["2nd"], ["a-b"], ["ä"], [""], ["n" * 101]])
def test_names_that_ros_does_not_take(names: list[str]) -> None:
    assert parse_node_names(["n" * 100, "_a2"])
    with pytest.raises(ConfigurationError, match="letters, digits and underscores"):
        parse_node_names(names)


def test_too_many_cameras_are_refused() -> None:
    names = [f"camera{number}" for number in range(65)]
    assert executor(cameras=names[:64]).cameras == tuple(names[:64])
    with pytest.raises(ConfigurationError, match="64 at most"):
        executor(cameras=names)


def test_folders_are_absolute() -> None:
    assert executor(file_folders=["~/models"]).file_folders == (Path.home() / "models",)
    with pytest.raises(ConfigurationError, match="an absolute path"):
        executor(file_folders=["models"])


def test_what_names_a_file_is_known() -> None:
    """They are read-only in a running process, unless `file_folders` allows it."""
    named = {each.name for each in ALL if each.file}
    paths = {
        each.name for each in ALL if re.search("(path|folder|file|cache|list|dir)$", each.name)
    }
    assert named == paths | {"model", "calibration_images"}


@pytest.mark.parametrize("name", ["image", "/a", "~/image_raw", "/a/b_2/c", "/{ns}/x", "a/{node}"])
def test_topics_that_ros_takes(name: str) -> None:
    assert check_topic(name) == name


def test_autoware_names_lead_to_parameters() -> None:
    names = {option.name for option in ALL}
    assert {new for new, _ in DEPRECATED_ALIASES.values()} <= names
    assert not names & DEPRECATED_ALIASES.keys()
    assert not names & AUTOWARE_ONLY.keys()


@pytest.mark.parametrize(
    ("old", "value", "given", "expected"),
    [
        ("gpu_id", 0, {}, None),  # their default: any device
        ("gpu_id", 1, {}, "gpu:1"),
        ("dla_core_id", -1, {}, None),
        ("dla_core_id", 1, {}, "dla1"),
        ("clip_value", 6.0, {"precision": "int8"}, 6.0),
        ("clip_value", 0.0, {"precision": "int8"}, None),
        ("clip_value", 6.0, {"precision": "fp16"}, None),
        ("quantize_first_layer", True, {"precision": "int8"}, True),
        ("quantize_last_layer", False, {"precision": "int8"}, None),
        ("quantize_last_layer", True, {"precision": "fp16"}, None),
    ],
)
def test_values_of_autowares_names(
    old: str, value: Any, given: dict[str, Any], expected: Any
) -> None:
    new, convert = DEPRECATED_ALIASES[old]
    result = convert(value, given)
    assert result == expected
    if expected is not None:
        (CAMERA_OPTIONS | EXECUTOR_OPTIONS)[new].plain(result)


def test_fixed_ranges_reach_the_engine() -> None:
    build = executor(precision="int8", default_dynamic_range=6.0).detector.build
    assert build.default_dynamic_range == 6.0
    assert build.keep_last_layer_fp16
    assert not executor(precision="int8").detector.build.keep_last_layer_fp16
    assert executor().detector.build.default_dynamic_range is None
    with pytest.raises(ConfigurationError, match="precision int8"):
        executor(precision="fp16", default_dynamic_range=6.0)
