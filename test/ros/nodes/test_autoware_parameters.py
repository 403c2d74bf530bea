# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Presets, manifests, and Autoware's own parameter files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from support.ros import write_parameters

from yolox_trt.core import ConfigurationError
from yolox_trt.ros.nodes.autoware_parameters import PRESETS, values_behind
from yolox_trt.ros.nodes.executor_node import ExecutorNode
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60, method="signal")]

#: The values of autoware_tensorrt_yolox's yolox_s_plus_opt.param.yaml, all its names of 2025 and
#: 2026 together.
AUTOWARE: dict[str, Any] = {
    "is_roi_overlap_segmentation": True,
    "overlap_roi_score_threshold": 0.3,
    "is_publish_color_mask": False,
    **{
        f"roi_overlay_segment_label.{label}": label not in ("CAR", "TRUCK", "BUS")
        for label in ("UNKNOWN", "CAR", "TRUCK", "BUS", "MOTORCYCLE", "BICYCLE", "PEDESTRIAN")
    },
    "score_threshold": 0.35,
    "nms_threshold": 0.7,
    "precision": "int8",
    "calibration_algorithm": "Entropy",
    "dla_core_id": -1,
    "quantize_first_layer": False,
    "quantize_last_layer": False,
    "profile_per_layer": False,
    "clip_value": 6.0,
    "preprocess_on_gpu": True,
    "gpu_id": 0,
    "calibration_image_list_path": "",
    "color_map_path": "",
    "build_only": False,
}


@pytest.fixture
def make_node(domain: int, tmp_path: Path) -> Iterator[Callable[..., ExecutorNode]]:
    """Make the process's nodes of sections of parameters; they stay unconfigured."""
    nodes = []

    def make(sections: dict[str, dict[str, Any]]) -> ExecutorNode:
        own = {"autostart": False, "cameras": ["front", "rear"]}
        sections = {**sections, "multi_camera": own | sections.get("multi_camera", {})}
        path = write_parameters(tmp_path / "parameters.yaml", sections)
        rclpy.init(args=["--ros-args", "--params-file", str(path)], domain_id=domain)
        nodes.append(ExecutorNode(rclpy.executors.SingleThreadedExecutor()))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()
    rclpy.try_shutdown()


def package(folder: Path, values: dict[str, str]) -> Path:
    """Write a folder as Autoware's packages have it: a manifest, and its files."""
    folder.mkdir()
    files = "".join(f"  - {name}\n" for name in values)
    (folder / "parameters.manifest.yaml").write_text(f"config_files:\n{files}")
    for name, text in values.items():
        (folder / name).write_text(text)
    return folder


def test_autowares_own_file_is_taken_with_a_line_for_each_name_without_meaning(
    make_node: Callable[..., ExecutorNode], capfd: pytest.CaptureFixture[str]
) -> None:
    node = make_node({"/**": AUTOWARE})
    lines = [line for line in capfd.readouterr().err.splitlines() if "[WARN]" in line]
    assert len(lines) == 1, lines
    assert "'roi_overlay_segment*' of Autoware mean nothing here" in lines[0]
    parameters = node.parameters.current
    assert parameters.detector.precision == "int8"
    assert parameters.detector.build.default_dynamic_range == 6.0
    assert parameters.devices == (None,)
    for camera in node._cameras.nodes.values():
        stream = camera.parameters.current.stream
        assert stream.pinned_device is None
        assert (stream.options.score_threshold, stream.options.nms_threshold) == (0.35, 0.7)


def test_a_preset_is_chosen_by_one_parameter(make_node: Callable[..., ExecutorNode]) -> None:
    node = make_node({"multi_camera": {"preset": "autoware"}, "rear": {"score_threshold": 0.5}})
    front, rear = (each.parameters.current for each in node._cameras.nodes.values())
    assert front.publish_objects and front.publish_debug
    assert front.stream.options.class_agnostic
    assert (front.image_topic, front.objects_topic) == ("~/in/image", "~/out/objects")
    assert front.stream.options.score_threshold == 0.35
    assert rear.stream.options.score_threshold == 0.5
    for name, value in PRESETS["autoware"].items():
        assert CAMERA_OPTIONS[name].plain(value) == value
        assert CAMERA_OPTIONS[name].default != value


def test_manifests_give_the_files_and_the_values(
    make_node: Callable[..., ExecutorNode], tmp_path: Path
) -> None:
    config = package(
        tmp_path / "config",
        {
            "first.param.yaml": "gpu_id: 0\nscore_threshold: 0.1\nnms_threshold: 0.6\n",
            "second.param.yaml": "/**:\n  ros__parameters:\n    score_threshold: 0.2\n",
        },
    )
    model = package(
        tmp_path / "model",
        {
            "ml_package.param.yaml": "model_file: net.onnx\nlabel_file: label.txt\n"
            "roi_remap_file: sub/remap.csv\nprecision: fp16\nclip_value: 6.0\n"
            "max_rate: 3\nnms_threshold: 0.7\n"
        },
    )
    sources = {"config_dir": str(config), "model_dir": str(model)}
    node = make_node({"multi_camera": sources, "rear": {"max_rate": 9.0}})
    parameters = node.parameters.current
    assert parameters.model == str(model / "net.onnx")
    assert parameters.label_path == str(model / "label.txt")
    assert (parameters.detector.precision, parameters.detector.build.has_scales) == ("fp16", False)
    front, rear = (each.parameters.current for each in node._cameras.nodes.values())
    assert front.roi_remap_path == str(model / "sub/remap.csv")
    # The later file wins, the model's folder goes before, and a parameter before both.
    options = front.stream.options
    assert (options.score_threshold, options.nms_threshold) == (0.2, 0.7)
    assert (front.stream.max_rate, rear.stream.max_rate) == (3.0, 9.0)


@pytest.mark.parametrize(
    ("config", "model", "text"),
    [
        ("a: 1\n", "", "both, or neither"),
        ("a: 1\n", "b: 1\n", "no `model_file` in the manifests"),
        ("a: 1\n", "model_file: /etc/passwd\n", "a file name relative to `model_dir`"),
        ("a: 1\n", "model_file: 5\n", "a file name relative to `model_dir`"),
        ("- a\n", "model_file: x\n", "cannot be read"),
        ("a: [\n", "model_file: x\n", "cannot be read"),
        ("/**: {ros__parameters: [1]}\n", "model_file: x\n", "[1] in place of parameters"),
        ("/**: {ros__parameters: 5}\n", "model_file: x\n", "a mapping of names to values"),
        ("/**: 5\n", "model_file: x\n", "5 in place of parameters"),
        ("/**: {ros__parameters:}\n", "b: 1\n", "no `model_file` in the manifests"),
    ],
)
def test_wrong_manifests_are_refused(tmp_path: Path, config: str, model: str, text: str) -> None:
    folders = [
        str(package(tmp_path / name, {"a.param.yaml": content})) if content else ""
        for name, content in (("config", config), ("model", model))
    ]
    with pytest.raises(ConfigurationError) as error:
        values_behind("", *folders)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("manifest", "text"),
    [
        (None, "parameters.manifest.yaml' that cannot be read"),
        ("files: [a]", "config_files: [NAME"),
        ("config_files: [missing.yaml]", "missing.yaml' that cannot be read"),
    ],
)
def test_a_folder_without_a_manifest_is_refused(
    tmp_path: Path, manifest: str | None, text: str
) -> None:
    if manifest is not None:
        (tmp_path / "parameters.manifest.yaml").write_text(manifest)
    with pytest.raises(ConfigurationError) as error:
        values_behind("", str(tmp_path), str(tmp_path))
    assert text in str(error.value)


@pytest.mark.parametrize(
    "sources", [(5, "", ""), (["autoware"], "", ""), ("", 5, 6), ("", ["a"], ["b"]), ("", "", None)]
)
def test_sources_that_are_no_texts_are_refused(sources: tuple[Any, Any, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected a text"):
        values_behind(*sources)


@pytest.mark.parametrize("name", ["gpu_id", "dla_core_id"])
def test_a_number_that_is_no_device_is_refused(
    make_node: Callable[..., ExecutorNode], name: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} = inf"):
        make_node({"front": {name: math.inf}})


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="did you mean autoware"):
        values_behind("autowar", "", "")
