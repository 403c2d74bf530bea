# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Build options that contradict each other or a range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from yolox_trt.compiler.tensorrt.load_engine import options_from_mapping
from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.compiler.tensorrt.progress import PhaseTree
from yolox_trt.compiler.tensorrt.report import layers_of_inspector
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError

DLA = Device("dla", 0)
SOME = Path("file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16"}, "precision = 'bf16'"),
        ({"device": Device("cpu")}, "ONNX Runtime on the CPU"),
        ({"device": DLA, "precision": "fp32"}, "the DLA has no FP32"),
        ({"device": DLA, "dla_standalone": True}, "no-gpu-fallback"),
        ({"dla_standalone": True}, "for device gpu"),
        ({"allow_gpu_fallback": False}, "for device gpu"),
        ({"dla_sram_kib": 1024}, "for device gpu"),
        ({"device": DLA, "dla_sram_kib": 1000}, "power of two"),
        ({"device": DLA, "dla_sram_kib": 2}, "at least 4 KiB"),
        ({"device": DLA, "min_batch": 1, "max_batch": 2}, "static batches only"),
        ({"device": DLA, "hardware_compatible": True}, "for the chip"),
        ({"input_format": "dla_linear"}, "linear, chw16 or chw32 on the GPU"),
        ({"input_format": "nhwc"}, "input_format = 'nhwc'"),
        ({"output_type": "bf16"}, "output_type"),
        ({"max_batch": 0}, "at least 1"),
        ({"height": 64}, "both or none"),
        ({"optimization_level": 6}, "0 to 5"),
        ({"calibration_cache": SOME}, "precision int8"),
        ({"default_dynamic_range": 6.0}, "precision int8"),
        ({"keep_last_layer_fp16": True}, "precision int8"),
        (
            {"precision": "int8", "calibration_cache": SOME, "dynamic_ranges": SOME},
            "one source",
        ),
        ({"precision": "int8", "default_dynamic_range": -1.0}, "positive"),
        ({"layer_precisions": {"a": "fp8"}}, r"layer_precisions\[a\]"),
        ({"profiling_verbosity": "all"}, "layer_names_only"),
        ({"device": DLA, "output_format": "dla_hwc4"}, "a format of images"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        BuildOptions(**options)
    assert caught.value.fix


def test_the_fix_names_the_option_of_the_command() -> None:
    for name in ("optimization_level", "workspace_mib", "dla_sram_kib"):
        with pytest.raises(ConfigurationError, match=f"set `--{name.replace('_', '-')}`"):
            BuildOptions(device=DLA, **{name: -1})


def test_from_a_nodes_parameters() -> None:
    options = options_from_mapping(
        {"precision": "int8", "calibration_cache": "~/c.cache", "timing_cache": "", "max_batch": 2},
        Device("gpu", 1),
    )
    assert options.calibration_cache == Path("~/c.cache").expanduser()
    assert options.timing_cache is None
    assert (options.device, options.max_batch) == (Device("gpu", 1), 2)


def test_nested_phases_never_fall_back() -> None:
    tree = PhaseTree()
    seen = []
    tree.start("build", None, 2)
    tree.start("a", "build", 4)
    for step in range(4):
        tree.step("a", step)
        seen.append(tree.fraction)
    tree.finish("a")
    seen.append(tree.fraction)
    tree.step("build", 0)
    tree.start("b", "build", 0)
    seen.append(tree.fraction)
    tree.step("unknown", 3)
    tree.finish("b")
    tree.finish("build")
    seen.append(tree.fraction)
    assert seen == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 1.0]


def test_inspector_json_of_both_verbosities() -> None:
    names = '{"Layers": ["conv1", "conv2"], "Bindings": []}'
    assert [layer.name for layer in layers_of_inspector(names, DLA)] == ["conv1", "conv2"]
    detailed = """{"Layers": [
        {"Name": "{ForeignNode[a...b]}", "LayerType": "DLA",
         "Inputs": [{"Format/Datatype": "Thirty-two wide channel vectorized Int8 format"}],
         "Outputs": [{"Format/Datatype": "Sixteen wide channel vectorized row major FP16 format"}]},
        {"Name": "copy", "LayerType": "Reformat",
         "Outputs": [{"Format/Datatype": "Row major linear FP32"}],
         "Metadata": "[ONNX Layer: x]"}]}"""
    dla, copy = layers_of_inspector(detailed, DLA)
    assert (dla.device, dla.input_type, dla.output_type) == ("dla0", "INT8", "FP16")
    assert (copy.device, copy.output_type, copy.onnx_nodes) == ("gpu", "FP32", ("x",))
