# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Build options that contradict each other or a range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.compiler.tensorrt.progress import PhaseTree
from yolox_trt.compiler.tensorrt.report import layers_of_inspector
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import from_plain, options_of

DLA = Device("dla", 0)
SOME = Path("file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16"}, "`precision` = 'bf16'"),
        ({"device": Device("cpu")}, "ONNX Runtime on the CPU"),
        ({"device": DLA, "precision": "fp32"}, "the DLA has no FP32"),
        ({"device": DLA, "dla_standalone": True}, "no fallback to the GPU"),
        ({"dla_standalone": True}, "for device gpu"),
        ({"allow_gpu_fallback": False}, "for device gpu"),
        ({"dla_sram_kib": 1024}, "for device gpu"),
        ({"device": DLA, "dla_sram_kib": 1000}, "power of two"),
        ({"device": DLA, "dla_sram_kib": 2}, "at least 4 KiB"),
        ({"device": DLA, "min_batch": 1, "max_batch": 2}, "static batches only"),
        ({"device": DLA, "hardware_compatible": True}, "for the chip"),
        ({"input_format": "dla_linear"}, "linear, chw16 or chw32 on the GPU"),
        ({"input_format": "nhwc"}, "`input_format` = 'nhwc'"),
        ({"output_type": "bf16"}, "output_type"),
        ({"max_batch": 0}, "at least 1"),
        ({"optimization_level": 6}, "0 to 5"),
        ({"precision": "fp16", "calibration_cache": SOME}, "precision int8"),
        ({"precision": "fp32", "default_dynamic_range": 6.0}, "precision int8"),
        ({"precision": "fp16", "keep_last_layer_fp16": True}, "precision int8"),
        (
            {"precision": "int8", "calibration_cache": SOME, "dynamic_ranges": SOME},
            "one source",
        ),
        ({"precision": "int8", "default_dynamic_range": -1.0}, "above 0"),
        ({"layer_precisions": {"a": "fp8"}}, "`layer_precisions` of a"),
        ({"profiling_verbosity": "all"}, "layer_names_only"),
        ({"device": DLA, "output_format": "dla_hwc4"}, "a format of images"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        BuildOptions(**options)
    assert caught.value.fix


def test_the_fix_names_the_option() -> None:
    for name in ("optimization_level", "workspace_mib", "dla_sram_kib"):
        with pytest.raises(ConfigurationError, match=f"set `{name}`") as caught:
            BuildOptions(device=DLA, **{name: -1})
        assert "set --flag" in caught.value.text(lambda option: "--flag")


def test_from_plain_values() -> None:
    options = from_plain(
        BuildOptions,
        {
            "device": "gpu:1",
            "precision": "int8",
            "calibration_cache": "~/c.cache",
            "input_size": "64x96",
            "layer_precisions": ["a:b:fp16", "*:int8"],
            "compute_capabilities": ["8.6", "12.0"],
        },
    )
    assert options.device == Device("gpu", 1)
    assert options.calibration_cache == Path("~/c.cache").expanduser()
    assert options.input_size == (64, 96)
    assert list(options.layer_precisions.items()) == [("a:b", "fp16"), ("*", "int8")]
    assert options.compute_capabilities == ("8.6", "12.0")
    with pytest.raises(ConfigurationError, match="NAME:PRECISION"):
        from_plain(BuildOptions, {"layer_precisions": ["fp16"]})
    with pytest.raises(ConfigurationError, match="HxW"):
        from_plain(BuildOptions, {"input_size": "64"})


@pytest.mark.parametrize("name", options_of(BuildOptions))
def test_each_option_counts_in_the_fingerprint(name: str) -> None:
    """In an attribute of its own, or among the options; the timing cache changes no engine."""
    own = {"device", "precision", "flavour", "calibration_cache", "dynamic_ranges", "input_size"}
    own |= {"min_batch", "opt_batch", "max_batch"}
    # Two that came later count where they are set, so that older engines are good still.
    counted = BuildOptions(model_type="yolov8", box_format="xyxy").fingerprint_options()
    assert (name in counted) == (name not in own | {"timing_cache"})


def test_the_fingerprint_of_earlier_versions_holds() -> None:
    """Another spelling of a value would build every cached engine again."""
    options = BuildOptions(
        device=DLA, precision="int8", layer_precisions={"a": "fp16"}, dla_sram_kib=1024
    )
    assert options.fingerprint_options() == {
        "strongly_typed": None,
        "default_dynamic_range": None,
        "keep_first_layer_fp16": False,
        "keep_last_layer_fp16": False,
        "allow_gpu_fallback": True,
        "dla_standalone": False,
        "input_type": None,
        "input_format": None,
        "output_type": None,
        "output_format": None,
        "workspace_mib": None,
        "dla_sram_kib": 1024,
        "dla_local_dram_mib": None,
        "dla_global_dram_mib": None,
        "sparsity": False,
        "tf32": True,
        "optimization_level": None,
        "version_compatible": False,
        "hardware_compatible": False,
        "profiling_verbosity": "detailed",
        "layer_precisions": [["a", "fp16"]],
        "compute_capabilities": [],
    }
    assert BuildOptions().fingerprint_options()["layer_precisions"] == {}


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
