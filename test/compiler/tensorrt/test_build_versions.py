# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The builder against the API of each TensorRT version: names, settings, refusals.

The stand-ins have each version's names and no others, so a test fails where the builder touches
something that the version lacks. What the settings do is TensorRT's own affair (see
test_build_rtx.py for real builds).
"""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.fake_tensorrt import VERSIONS, FakeTensorRT
from support.tensorrt_fixtures import build_engine, make_api, nodes_of, pretend_gpu, small_model

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.tensorrt import plan as build_plan
from yolox_trt.compiler.tensorrt.build import EngineBuilder
from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.compiler.tensorrt.plan import BuildPlan
from yolox_trt.compiler.tensorrt.report import BuildReport, layer_information
from yolox_trt.core.device import Device
from yolox_trt.core.errors import (
    ConfigurationError,
    DeviceError,
    EngineError,
    ModelError,
    YoloxTrtError,
)
from yolox_trt.core.faults import DeviceBrokenError, OutOfMemoryError
from yolox_trt.core.input_size import best_size
from yolox_trt.core.model_spec import METADATA_PREPROCESSING, PREPROCESSING_PRESETS
from yolox_trt.engines.engine_file import write_engine
from yolox_trt.graph import float16 as half
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.spec import read_spec

WITH_FLAGS = ["8.5", "8.6", "10.3", "10.13"]
TYPED = ["11.4", "rtx-1.7"]
WITH_DLA = ["8.5", "8.6", "10.3"]
DLA = Device("dla", 1)


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return small_model(tmp_path, head="raw_levels", activation="relu6", stem="conv", spp="chained")


def build(
    model: Path, name: str, *, fake: FakeTensorRT | None = None, **options: Any
) -> dict[str, Any]:
    """Build with a stand-in; return the settings that it saw and the report."""
    if fake is None:
        fake, api = make_api(name)
    else:
        api = make_api_of(fake)
    built = build_engine(model, BuildOptions(**options), api=api)
    settings = json.loads(built.engine)
    settings["fake"] = fake
    settings["built"] = built
    settings["report"] = BuildReport.from_dict(built.details["report"])
    return settings


def make_api_of(fake: FakeTensorRT) -> Any:
    from yolox_trt.engines.trt_api import TensorRTApi

    return TensorRTApi(fake.module)


def refused(model: Path, name: str, **options: Any) -> YoloxTrtError:
    """Return the error of options that must be refused before a builder is made."""
    fake, api = make_api(name)
    with pytest.raises(YoloxTrtError) as caught:
        build_engine(model, BuildOptions(**options), api=api)
    assert "Builder" not in fake.names_called()
    assert caught.value.fix, caught.value
    return caught.value


def write_cache(path: Path, scales: dict[str, float], header: str) -> Path:
    lines = [header] + [f"{n}: {struct.pack('>f', s).hex()}" for n, s in scales.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


# ---- precisions


@pytest.mark.parametrize("name", VERSIONS)
def test_fp32(model: Path, name: str) -> None:
    settings = build(model, name, precision="fp32")
    assert settings["flags"] == []
    assert settings["values"]["profiling_verbosity"] == "DETAILED"
    assert settings["report"].strongly_typed == (name in TYPED)
    assert settings["built"].spec.batch == 1
    for change in ({"build_seconds": "1"}, {"layers": [{"name": 5}]}, {"batch": [1]}, {"a": 1}):
        with pytest.raises(EngineError, match="report of a build that cannot be read"):
            BuildReport.from_dict({**settings["built"].details["report"], **change})


@pytest.mark.parametrize("name", VERSIONS)
def test_fp16(model: Path, name: str) -> None:
    settings = build(model, name, precision="fp16")
    calls = dict(settings["fake"].calls)
    if name in TYPED:
        assert settings["flags"] == []
        # The graph itself is in FP16 then, and its inputs and outputs are not.
        parsed = onnx.load_from_string(calls["OnnxParser.parse"][0])
        types = {tensor.data_type for tensor in parsed.graph.initializer}
        assert onnx.TensorProto.FLOAT16 in types
        assert {t["dtype"] for t in settings["tensors"]} == {"FLOAT"}
    else:
        assert settings["flags"] == ["FP16"]
        assert calls["OnnxParser.parse_from_file"] == (str(model),)


@pytest.mark.parametrize("name", VERSIONS)
def test_another_conversion_is_another_engine(
    model: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, api = make_api(name)

    def key(precision: str) -> str:
        return BuildPlan(model, BuildOptions(precision=precision), api=api).fingerprint.key

    before = key("fp16"), key("fp32")
    assert before == (key("fp16"), key("fp32"))
    monkeypatch.setattr(half, "REVISION", half.REVISION + 1)
    assert (key("fp16") != before[0]) is (name in TYPED)
    assert key("fp32") == before[1]


@pytest.mark.parametrize("name", ["10.3", "10.13"])
def test_strongly_typed_by_option(model: Path, name: str) -> None:
    settings = build(model, name, precision="fp16", strongly_typed=True)
    assert settings["flags"] == []
    fake = settings["fake"]
    assert settings["network_flags"] == 1 << int(
        fake.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    )


@pytest.mark.parametrize("name", ["8.5", "8.6"])
def test_strongly_typed_came_with_10(model: Path, name: str) -> None:
    assert "builder flags only" in str(refused(model, name, strongly_typed=True))


@pytest.mark.parametrize("name", WITH_FLAGS)
@pytest.mark.parametrize(
    ("header", "calibrator"),
    [
        ("TRT-8501-EntropyCalibration2", "IInt8EntropyCalibrator2"),
        ("TRT-8501-MinMaxCalibration", "IInt8MinMaxCalibrator"),
        ("TRT-8501-LegacyCalibration", "IInt8LegacyCalibrator"),
    ],
)
def test_int8_from_a_calibration_cache(
    model: Path, name: str, header: str, calibrator: str, tmp_path: Path
) -> None:
    cache = write_cache(tmp_path / "c.cache", {"images": 2.0, "reg_8": 0.125}, header)
    settings = build(model, name, precision="int8", calibration_cache=cache)
    assert settings["flags"] == ["FP16", "INT8"]
    # The header is the running version's: TensorRT refuses another's.
    number = {"8.5": 8503, "8.6": 8601, "10.3": 100300, "10.13": 101300}[name]
    lines = settings["cache"].splitlines()
    assert lines[0] == f"TRT-{number}-{header.rpartition('-')[2]}"
    assert lines[1:] == cache.read_text().splitlines()[1:]
    used = type(dict(settings["fake"].calls)["IBuilderConfig.int8_calibrator"])
    assert calibrator in [base.__name__ for base in used.__mro__]


@pytest.mark.parametrize("name", WITH_DLA)
def test_the_dla_gets_its_own_calibrator(model: Path, name: str, tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "c.cache", {"images": 2.0}, "TRT-8501-MinMaxCalibration")
    settings = build(model, name, precision="int8", calibration_cache=cache, device=DLA)
    assert "EntropyCalibration2" in settings["cache"].splitlines()[0]


@pytest.mark.parametrize("name", WITH_FLAGS)
def test_calibration_of_an_open_batch_has_a_profile(tmp_path: Path, name: str) -> None:
    """TensorRT asks for one where dimensions are open, although no image is run."""
    cache = write_cache(tmp_path / "c.cache", {"images": 2.0}, "TRT-8501-MinMaxCalibration")
    model = small_model(tmp_path)
    settings = build(model, name, precision="int8", calibration_cache=cache, max_batch=4)
    calls = dict(settings["fake"].calls)
    (profile,) = calls["IBuilderConfig.set_calibration_profile"]
    assert profile is calls["IBuilderConfig.add_optimization_profile"][0]
    settings = build(model, name, precision="int8", calibration_cache=cache)
    assert "IBuilderConfig.set_calibration_profile" not in dict(settings["fake"].calls)


@pytest.mark.parametrize("name", WITH_FLAGS)
def test_int8_inputs_and_outputs_have_ranges(model: Path, name: str, tmp_path: Path) -> None:
    """A calibrator gives them none: TensorRT looks at them before it reads the cache."""
    outputs = [value.name for value in onnx.load(str(model)).graph.output]
    scales = dict.fromkeys(["images", *outputs], 0.5)
    cache = write_cache(tmp_path / "c", scales, "TRT-8501-EntropyCalibration2")
    options = {"precision": "int8", "calibration_cache": cache, "input_type": "int8"}
    settings = build(model, name, **options, output_type="int8")
    assert settings["ranges"] == {tensor: [-63.5, 63.5] for tensor in scales}
    assert set(build(model, name, **options)["ranges"]) == {"images"}
    write_cache(cache, {"images": 0.5}, "TRT-8501-EntropyCalibration2")
    with pytest.raises(EngineError, match=r"INT8 output 'reg_8', 'obj_8', .* without a scale"):
        build(model, name, **options, output_type="int8")


@pytest.mark.parametrize("name", VERSIONS)
def test_linear_inputs_and_outputs_are_asked_for(model: Path, name: str) -> None:
    """By the header, a tensor whose formats are not set may get any."""
    settings = build(model, name)
    assigned = [value for called, value in settings["fake"].calls if "allowed_formats" in called]
    assert assigned == [1 << int(settings["fake"].module.TensorFormat.LINEAR)] * 10


@pytest.mark.parametrize("name", TYPED)
def test_int8_without_qdq_is_refused_where_there_are_no_calibrators(
    model: Path, name: str, tmp_path: Path
) -> None:
    cache = write_cache(tmp_path / "c.cache", {"images": 2.0}, "TRT-8501-MinMaxCalibration")
    for options in ({"calibration_cache": cache}, {"default_dynamic_range": 6.0}, {}):
        error = refused(model, name, precision="int8", **options)
        assert "removed in 11.0" in str(error)
        assert "yolox_trt quantize" in error.fix


def test_a_cache_that_tensorrt_does_not_take_is_an_error(model: Path, tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "c.cache", {"images": 2.0}, "TRT-8501-EntropyCalibration2")
    fake, api = make_api("8.6")
    behaviour = fake.module.Builder.build_serialized_network

    def wants_images(builder: Any, network: Any, config: Any) -> Any:
        config.int8_calibrator.get_batch(["images"])
        return behaviour(builder, network, config)

    type.__setattr__(fake.module.Builder, "build_serialized_network", wants_images)
    with pytest.raises(EngineError, match="did not accept the calibration cache"):
        build_engine(model, BuildOptions(precision="int8", calibration_cache=cache), api=api)


@pytest.mark.parametrize("name", WITH_FLAGS)
def test_int8_from_dynamic_ranges(model: Path, name: str, tmp_path: Path) -> None:
    ranges = tmp_path / "ranges.json"
    ranges.write_text(json.dumps({"ranges": {"images": 255.0, "reg_8": 12.7, "other": 1.0}}))
    settings = build(model, name, precision="int8", dynamic_ranges=ranges)
    assert settings["flags"] == ["FP16", "INT8"]
    assert settings["ranges"]["reg_8"] == pytest.approx([-12.7, 12.7], rel=1e-6)
    assert set(settings["ranges"]) == {"images", "reg_8"}
    assert settings["built"].details["io_scales"] == {}  # nothing that is passed is INT8


def test_int8_inputs_need_a_range_too(model: Path, tmp_path: Path) -> None:
    ranges = tmp_path / "ranges.json"
    ranges.write_text(json.dumps({"ranges": {"reg_8": 12.7}}))
    options: dict[str, Any] = {"precision": "int8", "dynamic_ranges": ranges}
    # Not assumed to be pixels: the model may take normalised values.
    assert build(model, "8.6", **options)["built"].details["io_scales"] == {}
    with pytest.raises(EngineError, match="INT8 input 'images' without a scale"):
        build(model, "8.6", **options, input_type="int8")
    settings = build(model, "8.6", **options, input_type="int8", default_dynamic_range=6.0)
    assert settings["ranges"]["images"] == pytest.approx([-255.0, 255.0])
    assert settings["built"].details["io_scales"]["images"] == pytest.approx(255 / 127)
    # As the model's metadata say: RGB / 255, mean and deviation.
    normalised = onnx.load(str(model))
    entry = normalised.metadata_props.add()
    entry.key = METADATA_PREPROCESSING
    entry.value = PREPROCESSING_PRESETS["rgb_imagenet"].to_json()
    onnx.save(normalised, str(model))
    settings = build(model, "8.6", **options, input_type="int8", default_dynamic_range=6.0)
    largest = (1 - 0.406) / 0.225
    assert settings["ranges"]["images"] == pytest.approx([-largest, largest])


def test_ranges_of_another_model_are_refused(model: Path, tmp_path: Path) -> None:
    ranges = tmp_path / "ranges.json"
    ranges.write_text(json.dumps({"ranges": {"other": 1.0}}))
    with pytest.raises(ConfigurationError, match="none of the 1 tensors"):
        build(model, "8.6", precision="int8", dynamic_ranges=ranges)


@pytest.mark.parametrize("name", WITH_FLAGS)
def test_default_range_spares_the_heads(model: Path, name: str) -> None:
    settings = build(
        model, name, precision="int8", default_dynamic_range=6.0, keep_last_layer_fp16=True
    )
    ranges = settings["ranges"]
    assert ranges["images"] == [-255.0, 255.0]
    graph = onnx.load(str(model)).graph
    heads = {value.name for value in graph.output}
    producers = {name: node for node in graph.node for name in node.output}
    for head in list(heads):
        if producers[head].op_type == "Sigmoid":
            heads.add(producers[head].input[0])
    assert not heads & set(ranges)
    clipped = [node.output[0] for node in graph.node if node.op_type == "Clip"]
    assert clipped
    assert all(ranges[tensor] == [-6.0, 6.0] for tensor in clipped)
    assert settings["report"].default_range_tensors == len(ranges) - 1


def test_default_range_without_heads_is_refused(model: Path) -> None:
    error = refused(model, "8.6", precision="int8", default_dynamic_range=6.0)
    assert "cut off" in str(error)
    assert "keep_last_layer_fp16" in error.fix


INT8_BETWEEN_FP16_ENDS: dict[str, Any] = {
    "precision": "int8",
    "default_dynamic_range": 6.0,
    "keep_first_layer_fp16": True,
    "keep_last_layer_fp16": True,
}


@pytest.mark.parametrize("name", WITH_FLAGS)
def test_first_and_last_layers_in_fp16(model: Path, name: str) -> None:
    settings = build(model, name, **INT8_BETWEEN_FP16_ENDS)
    assert settings["flags"] == ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"]
    pinned = {layer["name"] for layer in settings["layers"] if layer.get("precision") == "HALF"}
    convolutions = nodes_of(model, "Conv")
    # The stem, and box, objectness and classes of three levels.
    assert len(pinned) == 1 + 9
    assert convolutions[0] in pinned
    weights = {
        node.name: node.input[1] for node in onnx.load(str(model)).graph.node if node.name in pinned
    }
    assert sum("_preds." in weight for weight in weights.values()) == 9
    for layer in settings["layers"]:
        if layer["name"] in pinned:
            assert layer["output_types"] == {"0": "HALF"}
    assert settings["report"].pinned_layers == {name: "fp16" for name in pinned}


@pytest.mark.parametrize("name", ["8.6", "10.3"])
def test_first_and_last_layers_of_a_decoded_graph(tmp_path: Path, name: str) -> None:
    model = small_model(tmp_path, head="decoded", style="opset13")
    settings = build(model, name, **INT8_BETWEEN_FP16_ENDS)
    pinned = settings["report"].pinned_layers
    assert len(pinned) == 1 + 9
    assert set(pinned) <= set(nodes_of(model, "Conv"))


@pytest.mark.parametrize("name", WITH_FLAGS)
def test_layer_precisions_by_name_and_pattern(model: Path, name: str) -> None:
    first, *_, last = nodes_of(model, "Conv")
    settings = build(
        model,
        name,
        precision="int8",
        default_dynamic_range=6.0,
        keep_last_layer_fp16=True,
        layer_precisions={first: "fp32", "Clip_*": "int8", last: "fp32"},
    )
    by_name = {layer["name"]: layer for layer in settings["layers"]}
    assert by_name[first]["precision"] == "FLOAT"
    assert by_name[last]["precision"] == "FLOAT"  # a name goes before keep_last_layer_fp16
    clips = [layer for n, layer in by_name.items() if n.startswith("Clip_")]
    assert clips
    for clip in clips:
        assert clip["precision"] == "INT8"
        assert clip["output_types"] == {}  # the next layer decides what it reads
    assert "OBEY_PRECISION_CONSTRAINTS" in settings["flags"]


def test_a_pattern_that_fits_nothing(model: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no layer is called 'head'.*--list-layers"):
        build(model, "8.6", precision="fp16", layer_precisions={"head": "fp32"})


@pytest.mark.parametrize("name", TYPED)
@pytest.mark.parametrize(
    "options",
    [
        {"layer_precisions": {"*": "fp16"}},
        {"precision": "int8", "keep_first_layer_fp16": True},
        {"precision": "int8", "keep_last_layer_fp16": True},
    ],
)
def test_layer_precisions_are_gone_in_11(model: Path, name: str, options: dict[str, Any]) -> None:
    assert "removed in 11.0" in str(refused(model, name, **options))


# ---- Q/DQ


def quantized(folder: Path) -> Path:
    """Write a YOLOX with one Q/DQ pair before its second convolution."""
    path = small_model(folder, style="opset13", head="raw_levels")
    graph_model = onnx.load(str(path))
    graph = graph_model.graph
    conv = [node for node in graph.node if node.op_type == "Conv"][1]
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "q_scale"))
    graph.initializer.append(numpy_helper.from_array(np.int8(0), "q_zero"))
    name = conv.input[0]
    position = list(graph.node).index(conv)
    for offset, (kind, source, target) in enumerate(
        [("QuantizeLinear", name, "q"), ("DequantizeLinear", "q", "dq")]
    ):
        node = helper.make_node(kind, [source, "q_scale", "q_zero"], [target], kind)
        graph.node.insert(position + offset, node)
    conv.input[0] = "dq"
    path = folder / "qdq.onnx"
    onnx.save(graph_model, str(path))
    return path


def quantized_whole(model: Path, folder: Path, **options: Any) -> Path:
    """Write a model with all its convolutions quantised, as `yolox_trt quantize` does."""
    graph = Graph.load(model)
    names = [*(v.name for v in graph.inputs), *(v.name for n in graph.nodes for v in n.outputs)]
    ranges = DynamicRanges.from_amax(dict.fromkeys(names, 6.0))
    path = folder / "qdq_whole.onnx"
    path.write_bytes(insert_qdq(graph, ranges, **options).to_model().SerializeToString())
    return path


@pytest.mark.parametrize("name", TYPED)
def test_int8_inputs_and_outputs_of_a_typed_network(model: Path, tmp_path: Path, name: str) -> None:
    typed = quantized_whole(model, tmp_path, outputs=True)
    settings = build(typed, name, input_type="int8", output_type="int8")
    assert {t["dtype"] for t in settings["tensors"]} == {"INT8"}
    built = settings["built"]
    assert built.spec.input_dtype == "int8"
    assert set(built.details["io_scales"]) == {"images", *built.spec.tensor_names}
    keys = {
        BuildPlan(typed, BuildOptions(input_type=kind), api=make_api(name)[1]).fingerprint.key
        for kind in (None, "int8")
    }
    assert len(keys) == 2
    # Refused where nothing stands at the edge, and without Q/DQ.
    error = refused(quantized_whole(model, tmp_path), name, output_type="int8")
    assert "not quantised: 'reg_8'" in error.found and "--int8-outputs" in error.fix
    assert "yolox_trt quantize" in refused(model, name, input_type="int8").fix


@pytest.mark.parametrize("name", VERSIONS)
def test_qdq_graphs_build_everywhere(tmp_path: Path, name: str) -> None:
    settings = build(quantized(tmp_path), name, precision="int8")
    assert settings["flags"] == ([] if name in TYPED else ["FP16", "INT8"])
    assert settings["cache"] is None


@pytest.mark.parametrize("name", TYPED)
def test_typed_qdq_graphs_are_fp16_around(tmp_path: Path, name: str) -> None:
    settings = build(quantized(tmp_path), name, precision="int8")
    parsed = onnx.load_from_string(dict(settings["fake"].calls)["OnnxParser.parse"][0])
    types = {t.name: t.data_type for t in parsed.graph.initializer}
    # The pair and its convolution keep FP32 scales and weights, the others are FP16.
    assert types["q_scale"] == onnx.TensorProto.FLOAT
    weights = [types[n.input[1]] for n in parsed.graph.node if n.op_type == "Conv"]
    assert weights.count(onnx.TensorProto.FLOAT) == 1
    assert weights.count(onnx.TensorProto.FLOAT16) == len(weights) - 1


@pytest.mark.parametrize("name", VERSIONS)
def test_weights_stored_in_int8(tmp_path: Path, name: str) -> None:
    path = quantized(tmp_path)
    model = onnx.load(str(path))
    graph = model.graph
    conv = next(node for node in graph.node if node.op_type == "Conv")
    weight = next(t for t in graph.initializer if t.name == conv.input[1])
    codes = np.zeros(weight.dims, np.int8)
    graph.initializer.append(onnx.numpy_helper.from_array(codes, "w_q"))
    dequantize = onnx.helper.make_node(
        "DequantizeLinear", ["w_q", "q_scale", "q_zero"], ["w_dq"], "w_dq"
    )
    graph.node.insert(0, dequantize)
    conv.input[1] = "w_dq"
    onnx.save(model, str(path))
    if name in ("8.5", "8.6"):
        assert "--weights float" in refused(path, name, precision="int8").fix
    else:
        build(path, name, precision="int8")


def test_qdq_graphs_need_int8(tmp_path: Path) -> None:
    model = quantized(tmp_path)
    assert "a Q/DQ graph" in str(refused(model, "8.6", precision="fp16"))
    error = refused(model, "8.6", precision="int8", default_dynamic_range=6.0)
    assert "one source of scales" in str(error)


@pytest.mark.parametrize("name", WITH_DLA)
def test_the_dla_takes_no_qdq(tmp_path: Path, name: str) -> None:
    error = refused(quantized(tmp_path), name, precision="int8", device=DLA)
    assert "takes no Q/DQ" in str(error)
    assert "calibration cache" in error.fix


def test_the_dla_of_11_4_1_takes_qdq(tmp_path: Path) -> None:
    fake = FakeTensorRT("11.4", version="11.4.1.5")
    settings = build(quantized(tmp_path), "", fake=fake, precision="int8", device=DLA)
    assert settings["values"]["default_device_type"] == "DLA"


def test_the_dla_of_11_4_1_runs_qdq_as_a_whole(model: Path, tmp_path: Path) -> None:
    """Without fallback: the linter has rules for it, and inputs and outputs are the graph's."""
    fake = FakeTensorRT("11.4", version="11.4.1.5")
    typed = quantized_whole(model, tmp_path, outputs=True)
    options: dict[str, Any] = {"device": DLA, "allow_gpu_fallback": False, "dla_standalone": True}
    settings = build(typed, "", fake=fake, **options)
    assert settings["report"].precision == "int8" and settings["report"].strongly_typed
    details = settings["built"].details
    assert details["tensors"]["images"]["type"] == "int8"  # as quantised by the caller
    assert details["tensors"]["reg_8"]["type"] == "float16"
    assert details["io_scales"] == {"images": pytest.approx(6.0 / 127.0)}
    assert settings["values"]["engine_capability"] == "DLA_STANDALONE"
    settings = build(
        typed, "", fake=FakeTensorRT("11.4", version="11.4.1.5"), output_type="int8",
        output_format="chw32", **options,
    )  # fmt: skip
    assert len(settings["built"].details["io_scales"]) == 10
    assert settings["built"].details["tensors"]["reg_8"] == {
        "shape": [1, 4, 8, 12], "type": "int8", "format": "chw32"
    }  # fmt: skip
    # Nothing but Q/DQ makes INT8 there.
    cache = write_cache(tmp_path / "c", {"images": 2.0}, "TRT-8501-EntropyCalibration2")
    for more in ({"precision": "int8"}, {"calibration_cache": cache}):
        with pytest.raises(EngineError) as caught:
            build(model, "", fake=FakeTensorRT("11.4", version="11.4.1.5"), **options, **more)
        assert "yolox_trt quantize" in caught.value.fix


# ---- the DLA


@pytest.mark.parametrize("name", WITH_DLA)
def test_dla_with_fallback(model: Path, name: str) -> None:
    fake = FakeTensorRT(name)
    fake.not_on_dla = set(nodes_of(model, "Resize"))
    settings = build(model, name, fake=fake, precision="fp16", device=DLA)
    assert settings["flags"] == ["FP16", "GPU_FALLBACK"]
    assert settings["values"]["default_device_type"] == "DLA"
    assert settings["values"]["DLA_core"] == 1
    assert settings["report"].gpu_fallback_layers == nodes_of(model, "Resize")
    devices = {layer.device for layer in settings["report"].layers}
    assert devices == {"dla1"}


@pytest.mark.parametrize("name", WITH_DLA)
def test_dla_without_fallback_has_native_io(model: Path, name: str) -> None:
    settings = build(model, name, precision="fp16", device=DLA, allow_gpu_fallback=False)
    assert settings["flags"] == ["DIRECT_IO", "FP16"]
    formats = settings["fake"].module.TensorFormat
    for tensor in settings["tensors"]:
        assert tensor["dtype"] == "HALF"
        assert tensor["formats"] == 1 << int(formats.DLA_LINEAR)
    assert settings["built"].spec.input_dtype == "float16"


def test_dla_without_fallback_in_a_typed_network(model: Path) -> None:
    fake = FakeTensorRT("11.4", version="11.4.1.5")
    settings = build(model, "", fake=fake, device=DLA, allow_gpu_fallback=False)
    for tensor in settings["tensors"]:
        assert tensor["dtype"] == "HALF"
        assert tensor["formats"] == 1 << int(fake.module.TensorFormat.DLA_LINEAR)
    assert settings["flags"] == ["DIRECT_IO"]
    assert settings["built"].spec.input_dtype == "float16"


def test_constants_and_shapes_are_not_asked_of_the_dla(tmp_path: Path) -> None:
    """They are folded, and TensorRT says that a DLA cannot run them."""
    model = small_model(tmp_path, style="opset13", batch=None)
    fake = FakeTensorRT("8.6")
    fake.not_on_dla = {
        *nodes_of(model, "Constant"),
        *nodes_of(model, "Shape"),
        *nodes_of(model, "Transpose"),
    }
    settings = build(model, "", fake=fake, device=DLA)
    assert settings["report"].gpu_fallback_layers == nodes_of(model, "Transpose")


@pytest.mark.parametrize("name", WITH_DLA)
def test_dla_without_fallback_is_refused_unless_the_linter_passes(
    tmp_path: Path, name: str
) -> None:
    stock = small_model(tmp_path)
    error = refused(stock, name, device=DLA, allow_gpu_fallback=False)
    # The stem's strided slices, as the log of a real build has them.
    assert f"Slice {nodes_of(stock, 'Slice')[0]}" in str(error)
    assert "yolox_trt optimize MODEL --target dla" in error.fix
    build(stock, name, device=DLA)  # with the fallback it is built


def test_dla_without_fallback_is_refused_when_tensorrt_says_no(model: Path) -> None:
    fake = FakeTensorRT("8.6")
    fake.not_on_dla = set(nodes_of(model, "Resize"))
    with pytest.raises(EngineError, match="cannot run 2 layers"):
        build(model, "", fake=fake, device=DLA, allow_gpu_fallback=False)
    assert "Builder.build_serialized_network" not in fake.names_called()


@pytest.mark.parametrize("name", WITH_DLA)
def test_dla_standalone_loadable(model: Path, name: str, tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "c", {"images": 2.0}, "TRT-8501-EntropyCalibration2")
    settings = build(
        model,
        name,
        precision="int8",
        calibration_cache=cache,
        device=DLA,
        allow_gpu_fallback=False,
        dla_standalone=True,
        input_type="int8",
        input_format="dla_hwc4",
        output_type="fp16",
        output_format="chw16",
        dla_sram_kib=1024,
        dla_local_dram_mib=1024,
        dla_global_dram_mib=512,
    )
    assert settings["values"]["engine_capability"] == "DLA_STANDALONE"
    assert settings["pools"] == {
        "DLA_MANAGED_SRAM": 1 << 20,
        "DLA_LOCAL_DRAM": 1 << 30,
        "DLA_GLOBAL_DRAM": 1 << 29,
    }
    formats = settings["fake"].module.TensorFormat
    for tensor in settings["tensors"]:
        kind, form = ("INT8", formats.DLA_HWC4) if tensor["input"] else ("HALF", formats.CHW16)
        assert (tensor["dtype"], tensor["formats"]) == (kind, 1 << int(form))
    assert settings["built"].details["io_scales"]["images"] == 2.0
    assert settings["ranges"] == {"images": [-254.0, 254.0]}
    # What cuDLA's engine reads of the sidecar.
    tensors = settings["built"].details["tensors"]
    assert tensors["images"] == {"shape": [1, 3, 64, 96], "type": "int8", "format": "dla_hwc4"}
    assert {(t["type"], t["format"]) for n, t in tensors.items() if n != "images"} == {
        ("float16", "chw16")
    }
    assert settings["built"].details["dla_versions"] == {}  # there is no cuDLA here
    # TensorRT does not load loadables: the report is the build log's.
    assert "Runtime" not in settings["fake"].names_called()
    assert [layer.device for layer in settings["report"].layers] == ["dla1", "gpu"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_format": "chw16"}, "`output_format` = chw16 with fp32.*set `output_type`"),
        ({"input_format": "dla_hwc4"}, "`input_format` = dla_hwc4 with fp32.*fp16 or int8"),
        ({"input_format": "chw32", "input_type": "fp16"}, "`input_format` = chw32 with fp16"),
        ({"output_format": "chw32", "allow_gpu_fallback": False}, "chw32 with fp16.*int8"),
    ],
)
def test_types_that_a_format_of_the_dla_does_not_take(
    model: Path, options: dict[str, Any], message: str
) -> None:
    assert re.search(message, str(refused(model, "8.6", device=DLA, **options)))


@pytest.mark.parametrize("name", ["10.13", "11.4", "rtx-1.7"])
def test_no_dla(model: Path, name: str) -> None:
    assert "JetPack" in refused(model, name, device=DLA).fix


def test_a_dla_core_that_is_not_there(model: Path) -> None:
    fake = FakeTensorRT("8.6")
    fake.num_dla_cores = 1
    with pytest.raises(DeviceError, match="1 DLA cores"):
        build(model, "", fake=fake, device=DLA)


def test_dla_has_one_batch(tmp_path: Path) -> None:
    model = small_model(tmp_path, batch=None, style="opset13", head="raw_levels")
    settings = build(model, "8.6", device=DLA, max_batch=2)
    assert settings["built"].spec.batch == 2
    # In the graph itself, not by a profile: shape arithmetic is folded then.
    assert not settings["profiles"]
    assert settings["tensors"][0]["shape"] == [2, 3, 64, 96]
    assert settings["tensors"][-1]["shape"][0] == 2


# ---- batches


@pytest.mark.parametrize("name", VERSIONS)
def test_batch_profile(tmp_path: Path, name: str) -> None:
    model = small_model(tmp_path, batch=None, style="opset13")
    settings = build(model, name, opt_batch=4, max_batch=8)
    (shapes,) = settings["profiles"]
    assert shapes["images"] == [[1, 3, 64, 96], [4, 3, 64, 96], [8, 3, 64, 96]]
    assert settings["built"].spec.batch is None


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_fixed_batch_is_opened(tmp_path: Path, name: str, precision: str) -> None:
    model = small_model(tmp_path, head="decoded")
    settings = build(model, name, precision=precision, opt_batch=2, max_batch=4)
    assert settings["profiles"][0]["images"] == [[n, 3, 64, 96] for n in (1, 2, 4)]
    assert settings["tensors"][-1]["shape"] == [-1, 126, 9]
    assert settings["built"].spec.batch is None


def test_an_opened_graph_is_compared_before_it_is_built(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differ(original: Graph, opened: Graph, spec: object) -> float:
        assert original.image.shape[0] == 1
        raise ModelError("the predictions differ")

    monkeypatch.setattr(build_plan, "check_open_batch", differ)
    with pytest.raises(ModelError, match="predictions differ"):
        build(model, "8.6", max_batch=4)
    build(model, "8.6", max_batch=1)


def test_batches_that_do_not_fit(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ModelError, match=r"batch 1 built in.*--batch N"):
        build(model, "8.6", device=DLA, max_batch=4)
    dynamic = small_model(tmp_path, name="d.onnx", batch=None, style="opset13")
    with pytest.raises(ConfigurationError, match="min <= opt <= max"):
        build(dynamic, "8.6", min_batch=4, max_batch=2)


@pytest.mark.parametrize("name", ["8.5", "rtx-1.7"])
def test_open_size(tmp_path: Path, name: str) -> None:
    model = small_model(tmp_path, dynamic_size=True, batch=None, style="opset13")
    settings = build(model, name, input_size=(128, 160))
    assert settings["profiles"][0]["images"] == [[1, 3, 128, 160]] * 3
    with pytest.raises(ModelError):
        build(model, name)


def test_the_size_for_a_camera(model: Path) -> None:
    _, api = make_api("8.6")

    def key(size: Any) -> str:
        return BuildPlan(model, BuildOptions(input_size=size), api=api).fingerprint.key

    size = best_size(read_spec(model).input_size, (1920, 1080))
    assert key("auto:1920x1080") == key(size) != key("model") == key(None)


# ---- other options

OPTIONS = [
    ("workspace", {"workspace_mib": 256}, lambda s: s["pools"] == {"WORKSPACE": 256 << 20}),
    ("sparsity", {"sparsity": True}, lambda s: "SPARSE_WEIGHTS" in s["flags"]),
    ("tf32", {"tf32": False}, lambda s: s["values"]["cleared TF32"]),
    (
        "optimization_level",
        {"optimization_level": 5},
        lambda s: s["values"]["builder_optimization_level"] == 5,
    ),
    (
        "version_compatible",
        {"version_compatible": True},
        lambda s: "VERSION_COMPATIBLE" in s["flags"],
    ),
    (
        "hardware_compatible",
        {"hardware_compatible": True},
        lambda s: s["values"]["hardware_compatibility_level"] == "AMPERE_PLUS",
    ),
    (
        "compute_capabilities",
        {"compute_capabilities": ("8.6", "8.9")},
        lambda s: s["capabilities"] == {"0": "SM86", "1": "SM89"},
    ),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize(("feature", "options", "has_effect"), OPTIONS)
def test_options_have_their_effect_or_are_refused(
    model: Path, name: str, feature: str, options: dict[str, Any], has_effect: Any
) -> None:
    _, api = make_api(name)
    if api.has(feature):
        assert has_effect(build(model, name, **options))
    else:
        refused(model, name, **options)


def test_engines_for_other_gpus_are_built_on_ampere_and_later(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch, "7.2")
    _, api = make_api("8.6")
    plan = BuildPlan(model, BuildOptions(hardware_compatible=True), api=api)
    with pytest.raises(ConfigurationError, match=r"capability 7\.2; expected 8\.0 or newer"):
        _ = plan.fingerprint


def test_version_compatible_engines_are_inspected(model: Path) -> None:
    settings = build(model, "8.6", version_compatible=True)
    assert ("Runtime.engine_host_code_allowed", True) in settings["fake"].calls


@pytest.mark.parametrize("name", VERSIONS)
def test_the_inspectors_json(model: Path, name: str, tmp_path: Path) -> None:
    _, api = make_api(name)
    plan = BuildPlan(model, BuildOptions(), api=api)
    built = EngineBuilder(plan).build()
    file = write_engine(tmp_path / "m.engine", built, plan.fingerprint)
    layers = json.loads(layer_information(api, file, Device("gpu")))["Layers"]
    assert layers[0]["Name"] == "layer0"
    options = {**plan.fingerprint.options, "dla_standalone": True}
    fingerprint = dataclasses.replace(plan.fingerprint, options=options)
    loadable = dataclasses.replace(file, fingerprint=fingerprint)
    with pytest.raises(EngineError, match="never loaded"):
        layer_information(api, loadable, DLA)


@pytest.mark.parametrize("name", ["8.5", "8.6", "10.3", "10.13", "11.4"])
def test_timing_cache_grows(model: Path, name: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "timing.cache"
    build(model, name, timing_cache=path)
    assert path.read_bytes() == b"timings;"
    build(model, name, timing_cache=path)
    # The second build began with the first one's timings, and kept what was there at its end.
    assert path.read_bytes().count(b"timings;") == 3


def test_timings_of_another_gpu_are_not_kept(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    path.write_bytes(b"foreign timings")
    build(model, "8.6", timing_cache=path)
    assert path.read_bytes() == b"timings;"


def test_timing_cache_does_nothing_on_rtx(model: Path, tmp_path: Path) -> None:
    assert "no-ops" in str(refused(model, "rtx-1.7", timing_cache=tmp_path / "t"))


@pytest.mark.parametrize("name", WITH_FLAGS)
def test_fp16_inputs_and_outputs(model: Path, name: str) -> None:
    settings = build(model, name, input_type="fp16", output_type="fp16")
    assert {t["dtype"] for t in settings["tensors"]} == {"HALF"}
    assert settings["built"].spec.input_dtype == "float16"


@pytest.mark.parametrize("name", TYPED)
def test_fp16_inputs_and_outputs_of_a_typed_network(model: Path, name: str) -> None:
    settings = build(model, name, input_type="fp16", output_type="fp16")
    assert {t["dtype"] for t in settings["tensors"]} == {"HALF"}
    refused(model, name, input_type="int8")
    refused(model, name, precision="fp32", input_type="fp16")
    refused(model, name, input_format="chw32")


def test_int8_input_needs_a_scale(model: Path, tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "c", {"reg_8": 2.0}, "TRT-8501-EntropyCalibration2")
    with pytest.raises(EngineError, match="INT8 input 'images' without a scale"):
        build(model, "8.6", precision="int8", calibration_cache=cache, input_type="int8")


# ---- plugins


@pytest.mark.parametrize("name", VERSIONS)
def test_efficient_nms(tmp_path: Path, name: str) -> None:
    model = small_model(tmp_path, head="efficient_nms")
    if name == "rtx-1.7":
        error = refused(model, name)
        assert "EfficientNMS_TRT" in str(error)
        assert "yolox_trt optimize" in error.fix
    else:
        settings = build(model, name)
        assert [t["name"] for t in settings["tensors"]][1:] == [
            "num_dets",
            "det_boxes",
            "det_scores",
            "det_classes",
        ]


# ---- progress and failures


@pytest.mark.parametrize("name", VERSIONS)
def test_progress(model: Path, name: str) -> None:
    _, api = make_api(name)
    told: list[tuple[float, str]] = []
    build_engine(model, BuildOptions(), api=api, on_progress=lambda f, p: told.append((f, p)))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert told[-1] == (1.0, "built")
    if api.has("progress_monitor"):
        assert told[0] == (0.0, "Building engine")


@pytest.mark.parametrize("name", ["10.3", "11.4", "rtx-1.7"])
def test_progress_that_raises_cancels_the_build(model: Path, name: str) -> None:
    _, api = make_api(name)

    def stop(fraction: float, phase: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(model, BuildOptions(), api=api, on_progress=stop)


def test_a_long_build_without_a_monitor_tells_seconds(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    from yolox_trt.compiler.tensorrt import progress as build_progress

    monkeypatch.setattr(build_progress, "_LOG_PERIOD_S", 0.02)
    fake, api = make_api("8.5")
    behaviour = fake.module.Builder.build_serialized_network

    told: list[str] = []

    def seconds_are_told() -> bool:
        return any(phase.startswith("building yolox.onnx, ") for phase in told)

    def slow(builder: Any, network: Any, config: Any) -> Any:
        end = time.monotonic() + 30.0
        while not seconds_are_told() and time.monotonic() < end:
            time.sleep(0.01)
        return behaviour(builder, network, config)

    type.__setattr__(fake.module.Builder, "build_serialized_network", slow)
    build_engine(model, BuildOptions(), api=api, on_progress=lambda f, p: told.append(p))
    assert seconds_are_told()


@pytest.mark.parametrize("name", VERSIONS)
def test_tensorrts_messages_are_in_the_errors(model: Path, name: str) -> None:
    fake = FakeTensorRT(name)
    fake.build_fails = "Could not find any implementation for node {Conv_41}"
    with pytest.raises(EngineError, match=r"could not build.*any implementation for node"):
        build(model, "", fake=fake)
    fake = FakeTensorRT(name)
    fake.parse_fails = "No importer registered for op: Mish"
    with pytest.raises(EngineError, match=r"cannot parse.*op: Mish.*yolox_trt"):
        build(model, "", fake=fake)


@pytest.mark.parametrize("name", ["8.6", "11.4"])
def test_no_gpu(model: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, None)
    _, api = make_api(name)
    with pytest.raises(DeviceError, match="no CUDA device 0"):
        _ = BuildPlan(model, BuildOptions(), api=api).fingerprint


def test_what_is_no_yolox(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [1, 10])], [value("y", 1, [1, 10])])
    path = tmp_path / "relu.onnx"
    onnx.save(onnx.helper.make_model(graph), str(path))
    refusal = pytest.raises(ModelError)
    with refusal:
        build(path, "8.6")


# ---- the fingerprint


def test_fingerprint_names_what_was_asked(model: Path, tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "c", {"images": 2.0}, "TRT-8501-EntropyCalibration2")
    _, api = make_api("8.5")
    options = BuildOptions(precision="int8", calibration_cache=cache, device=DLA)
    fingerprint = BuildPlan(model, options, api=api).fingerprint
    assert fingerprint.device == "dla1"
    assert fingerprint.precision == "int8"
    assert fingerprint.compute_capability == "8.7"
    assert fingerprint.tensorrt_version == "8.5.3.1"
    assert (fingerprint.height, fingerprint.width) == (64, 96)
    assert fingerprint.batch == (1, 1, 1)
    write_cache(cache, {"images": 3.0}, "TRT-8501-EntropyCalibration2")
    assert BuildPlan(model, options, api=api).fingerprint.key != fingerprint.key


def test_the_order_of_layer_precisions_counts(model: Path) -> None:
    """Where two patterns fit one layer, the later one decides."""
    _, api = make_api("8.6")
    pairs = [("Conv_*", "fp16"), ("*", "fp32")]
    keys = {
        BuildPlan(
            model, BuildOptions(precision="fp16", layer_precisions=dict(order)), api=api
        ).fingerprint.key
        for order in (pairs, pairs[::-1])
    }
    assert len(keys) == 2


@pytest.mark.parametrize("replaced", ["model", "cache"])
def test_a_file_replaced_during_the_build_gives_no_engine(
    model: Path, tmp_path: Path, replaced: str
) -> None:
    cache = write_cache(tmp_path / "c", {"images": 2.0}, "TRT-8501-EntropyCalibration2")
    _, api = make_api("8.5")
    options = BuildOptions(precision="int8", calibration_cache=cache)
    plan = BuildPlan(model, options, api=api)
    before = plan.fingerprint.key
    if replaced == "model":
        small_model(tmp_path, head="raw_levels", activation="relu6", stem="conv", seed=1)
    else:
        write_cache(cache, {"images": 3.0}, "TRT-8501-EntropyCalibration2")
    with pytest.raises(EngineError, match=r"was replaced while .*build again"):
        EngineBuilder(plan).build()
    assert plan.fingerprint.key == before != BuildPlan(model, options, api=api).fingerprint.key


def test_gpus_count_by_compute_capability_not_by_number(model: Path) -> None:
    _, api = make_api("10.3")
    first = BuildPlan(model, BuildOptions(device=Device("gpu", 0)), api=api).fingerprint
    second = BuildPlan(model, BuildOptions(device=Device("gpu", 1)), api=api).fingerprint
    assert first == second
    compatible = BuildPlan(model, BuildOptions(hardware_compatible=True), api=api).fingerprint
    assert compatible.compute_capability == "8.0+"


def test_layer_names(model: Path) -> None:
    _, api = make_api("8.6")
    names = EngineBuilder(BuildPlan(model, BuildOptions(), api=api)).layer_names()
    assert set(nodes_of(model, "Conv")) <= set(names)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Cuda Runtime (an illegal memory access was encountered)", DeviceBrokenError),
        ("Cuda Runtime (out of memory)", OutOfMemoryError),
    ],
)
def test_a_build_that_fails_for_its_device_gives_a_fault(
    model: Path, text: str, kind: type[EngineError]
) -> None:
    fake = FakeTensorRT("8.5")
    fake.build_fails = f"1: [convolutionRunner.cpp::execute::391] Error Code 1: {text}"
    with pytest.raises(kind, match="could not build"):
        build(model, "", fake=fake)
