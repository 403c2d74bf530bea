# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Real builds: TensorRT-RTX parses, optimises and serialises on a machine without a GPU."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.tensorrt_fixtures import build_engine, save_model, small_model

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.surgery import SurgeryOptions, optimize
from yolox_trt.compiler.tensorrt.build import EngineBuilder
from yolox_trt.compiler.tensorrt.load_engine import cached_engine
from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.compiler.tensorrt.plan import BuildPlan
from yolox_trt.compiler.tensorrt.report import BuildReport
from yolox_trt.core.errors import EngineError
from yolox_trt.core.shipped_files import default_model
from yolox_trt.engines.cache import EngineCache
from yolox_trt.engines.engine_file import BuiltEngine
from yolox_trt.engines.trt_api import load_api
from yolox_trt.graph.graph import Graph

pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")

FORMS: dict[str, dict[str, Any]] = {
    "undecoded": {},
    "decoded": {"head": "decoded"},
    "raw levels": {"head": "raw_levels"},
    "raw levels without sigmoid": {"head": "raw_levels", "sigmoid": False},
    "newer exporter": {"style": "opset13"},
    "open batch": {"style": "opset13", "batch": None},
    "open batch, decoded": {"style": "opset13", "batch": None, "head": "decoded"},
    "open size": {"style": "opset13", "dynamic_size": True},
    "batch of 4": {"batch": 4},
    "relu6, strided stem, chained pools": {
        "activation": "relu6",
        "stem": "conv",
        "spp": "chained",
        "head": "raw_levels",
    },
    "depthwise": {"depthwise": True},
    "batch norm": {"batch_norm": True},
    "normalised input": {"normalize": "sub_div", "channel_swap": "slice"},
    "hardswish": {"activation": "hardswish"},
    "segmentation head": {"segmentation": "argmax", "mask_classes": 5, "mask_stride": 2},
}
IGNORED_KINDS = {"signal", "wait"}


def build(model: Path, **options: Any) -> tuple[BuiltEngine, BuildReport]:
    chosen = BuildOptions(flavour="tensorrt_rtx", **options)
    built = build_engine(model, chosen)
    return built, BuildReport.from_dict(built.details["report"])


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("form", "precision"),
    [*((form, "fp16") for form in FORMS), ("undecoded", "fp32"), ("decoded", "fp32")],
)
def test_every_form_builds(tmp_path: Path, form: str, precision: str) -> None:
    options: dict[str, Any] = {}
    if form.startswith("open"):
        options["max_batch"] = 4 if "batch" in form else None
    if form == "open size":
        options.update(input_size=(64, 96))
    model = small_model(tmp_path, **FORMS[form])
    built, report = build(model, precision=precision, **options)
    assert len(built.engine) == report.engine_bytes > 10_000
    assert report.tensorrt.startswith("TensorRT-RTX")
    assert report.layers_source == "build log"
    kinds = {layer.kind for layer in report.layers}
    assert not kinds & IGNORED_KINDS
    nodes = {name for layer in report.layers for name in layer.onnx_nodes}
    convolutions = {
        node.name for node in onnx.load(str(model)).graph.node if node.op_type == "Conv"
    }
    # Every convolution is in some layer of the engine.
    assert convolutions <= nodes
    types = [layer.input_type for layer in report.layers if _has(layer, convolutions)]
    # Some layers hold a decoding node besides, and these stay in FP32.
    wanted = {"fp16": "FP16", "fp32": "FP32"}[precision]
    assert types.count(wanted) > 0.7 * len(types)
    if precision == "fp32":
        assert "FP16" not in types
    assert report.memory["weights"] > 0


def _has(layer: Any, names: set[str]) -> bool:
    return bool(set(layer.onnx_nodes) & names)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith("open")])
def test_every_form_builds_with_its_batch_opened(tmp_path: Path, form: str) -> None:
    built, report = build(small_model(tmp_path, **FORMS[form]), max_batch=8)
    assert report.batch == (1, 8, 8)
    assert built.spec.batch is None


SURGERY: dict[str, SurgeryOptions] = {
    "for the GPU": SurgeryOptions(),
    "for the DLA": SurgeryOptions(target="dla"),
    "head kept": SurgeryOptions(head="keep"),
    "open batch": SurgeryOptions(open_batch=True, head="keep"),
    "uint8 input": SurgeryOptions(uint8_input=True),
    "another size": SurgeryOptions(input_size=(128, 64)),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", SURGERY)
def test_what_optimize_writes_builds(tmp_path: Path, name: str) -> None:
    """NVIDIA's own parser takes every rewritten graph, not only ONNX Runtime."""
    source = small_model(tmp_path, head="decoded", normalize="mul", channel_swap="slice")
    result = optimize(onnx.load(str(source)), SURGERY[name], verify=False)
    model = tmp_path / "optimized.onnx"
    onnx.save(result.model, str(model))
    built, report = build(model, max_batch=4 if name == "open batch" else None)
    assert report.batch == ((1, 4, 4) if name == "open batch" else (1, 1, 1))
    assert built.spec.input_dtype == ("uint8" if name == "uint8 input" else "float32")
    assert report.layers


def test_fp16_halves_the_engine(tmp_path: Path) -> None:
    model = save_model(tmp_path)
    _, single = build(model, precision="fp32")
    _, half = build(model, precision="fp16")
    assert half.memory["weights"] < 0.6 * single.memory["weights"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("opset", [13, 19])
@pytest.mark.parametrize("weights", ["int8", "float"])
def test_qdq_graphs_are_int8_in_the_engine_and_fp16_around(
    tmp_path: Path, opset: int, weights: str
) -> None:
    """What `yolox_trt quantize` writes, the heads kept in floating point."""
    float_model = onnx.load(str(small_model(tmp_path, head="raw_levels")))
    heads = {n.name for n in float_model.graph.node if "_preds" in "".join(n.input)}
    tensors = {name for n in float_model.graph.node for name in (*n.input, *n.output)}
    quantized = insert_qdq(
        Graph(float_model),
        DynamicRanges.from_amax(dict.fromkeys(tensors, 6.0) | {"images": 255.0}),
        keep_float=heads,
        float_weights=weights == "float",
    ).to_model()
    model = tmp_path / "qdq.onnx"
    onnx.save(onnx.version_converter.convert_version(quantized, opset), str(model))
    _, report = build(model, precision="int8")
    convolutions = {n.name for n in float_model.graph.node if n.op_type == "Conv"}
    layers = [layer for layer in report.layers if _has(layer, convolutions)]
    for names, wanted in ((convolutions - heads, "INT8"), (heads, "FP16")):
        types = {
            node: layer.input_type
            for layer in layers
            if layer.kind == "correlation"
            for node in set(layer.onnx_nodes) & names
        }
        assert len(types) > 0.9 * len(names)
        assert set(types.values()) == {wanted}


def test_int8_inputs_and_outputs(tmp_path: Path) -> None:
    """NVIDIA's parser and builder take a graph that begins and ends in INT8."""
    source = small_model(tmp_path, head="raw_levels", activation="relu6", stem="conv")
    graph = Graph.load(source)
    names = [*(v.name for v in graph.inputs), *(v.name for n in graph.nodes for v in n.outputs)]
    ranges = DynamicRanges.from_amax(dict.fromkeys(names, 6.0) | {"images": 255.0})
    model = tmp_path / "qdq.onnx"
    onnx.save(insert_qdq(graph, ranges, outputs=True).to_model(), str(model))
    built, report = build(model, input_type="int8", output_type="int8")
    assert built.spec.input_dtype == "int8" and len(built.details["io_scales"]) == 10
    stem = graph.find("Conv")[0].name
    assert "INT8" in {layer.input_type for layer in report.layers if stem in layer.onnx_nodes}


def test_efficient_nms_is_refused_before_the_build(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"EfficientNMS_TRT, which TensorRT-RTX.*optimize"):
        BuildPlan(small_model(tmp_path, head="efficient_nms"), BuildOptions(flavour="tensorrt_rtx"))


def test_an_operator_that_the_parser_lacks(tmp_path: Path) -> None:
    path = small_model(tmp_path)
    model = onnx.load(str(path))
    model = onnx.version_converter.convert_version(model, 15)
    next(n for n in model.graph.node if n.op_type == "Sigmoid").op_type = "Bernoulli"
    onnx.save(model, str(path))
    with pytest.raises(EngineError, match=r"cannot parse yolox\.onnx.*yolox_trt"):
        build(path, precision="fp32")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "options",
    [
        {"compute_capabilities": ("8.6", "8.9")},
        {"workspace_mib": 64},
        {"sparsity": True},
        {"tf32": False, "precision": "fp32"},
        {"optimization_level": 1},
        {"input_type": "fp16", "output_type": "fp16"},
        {"profiling_verbosity": "none"},
    ],
)
def test_options_build(tmp_path: Path, options: dict[str, Any]) -> None:
    built, _ = build(small_model(tmp_path), **options)
    wanted = "float16" if options.get("input_type") else "float32"
    assert built.spec.input_dtype == wanted


def test_portable_and_targeted_engines_differ(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    portable, _ = build(model)
    targeted, _ = build(model, compute_capabilities=("8.6",))
    assert portable.engine != targeted.engine


def test_progress_rises_to_one(tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    build_engine(
        small_model(tmp_path),
        BuildOptions(flavour="tensorrt_rtx"),
        on_progress=lambda fraction, phase: told.append((fraction, phase)),
    )
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len({phase for _, phase in told}) >= 3


def test_progress_cancels(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(fraction: float, phase: str) -> None:
        raise StopError

    with pytest.raises(StopError):
        build_engine(small_model(tmp_path), BuildOptions(flavour="tensorrt_rtx"), on_progress=stop)


def test_ctrl_c_ends_the_build(tmp_path: Path) -> None:
    def interrupt(fraction: float, phase: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_engine(
            small_model(tmp_path), BuildOptions(flavour="tensorrt_rtx"), on_progress=interrupt
        )


def test_the_cache_keeps_real_engines(tmp_path: Path) -> None:
    model, options = small_model(tmp_path), BuildOptions(flavour="tensorrt_rtx")
    cache = EngineCache(tmp_path / "cache")
    first = cached_engine(model, options, cache)
    assert first.built
    assert not cached_engine(model, options, cache).built
    assert first.file.fingerprint.flavour == "tensorrt_rtx"
    assert first.file.fingerprint.compute_capability == "portable"
    assert first.file.spec.head.value == "undecoded"


def test_layer_names(tmp_path: Path) -> None:
    plan = BuildPlan(small_model(tmp_path), BuildOptions(flavour="tensorrt_rtx"))
    names = EngineBuilder(plan).layer_names()
    assert any(name.startswith("Conv_") for name in names)


def test_the_shipped_model() -> None:
    """Its weights are stored in FP16 and computed in FP32, until it is built in FP16."""
    model = default_model()
    for precision, wanted in (("fp32", "FP32"), ("fp16", "FP16")):
        _, report = build(model, precision=precision)
        convolutions = {n.name for n in onnx.load(str(model)).graph.node if n.op_type == "Conv"}
        layers = [layer for layer in report.layers if _has(layer, convolutions)]
        assert len(layers) > 0.9 * len(convolutions)
        types = [layer.input_type for layer in layers]
        # The first layer reads the image, which is FP32.
        assert types.count(wanted) >= len(types) - 1


def test_the_published_model(tmp_path: Path, data_dir: Path) -> None:
    model = data_dir / "models" / "yolox_nano.onnx"
    built, report = build(model, precision="fp16")
    assert (built.spec.input_height, built.spec.num_classes) == (416, 80)
    assert len(report.layers) > 50
    assert load_api("tensorrt_rtx").version_text in report.tensorrt
