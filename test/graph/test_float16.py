# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""FP16 graphs against the FP32 graphs, in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support.onnx_graphs import in_float16, make_graph
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.core.errors import ModelError
from yolox_trt.graph.float16 import computes_in_float16, nodes_before_heads
from yolox_trt.graph.graph import Graph

FORMS: list[dict[str, Any]] = [
    {},
    {"head": "decoded"},
    {"head": "raw_levels"},
    {"head": "raw_levels", "sigmoid": False},
    {"style": "opset13", "head": "decoded", "batch": None},
    {"style": "opset13", "upsample": "sizes"},
    {"activation": "relu6", "stem": "conv", "spp": "chained"},
    {"activation": "lrelu", "upsample": "half_pixel"},
    {"normalize": "sub_div", "channel_swap": "gather"},
    {"batch_norm": True, "style": "opset13"},
]


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)  # type: ignore[no-any-return]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("fp16_io", [False, True])
def test_outputs_stay(options: dict[str, Any], fp16_io: bool) -> None:
    model = build_yolox(width=0.125, num_classes=4, **options)
    half = in_float16(model, float16_input=fp16_io, float16_outputs=fp16_io)
    feeds = random_images(model)
    expected = run(model, feeds)
    kind = np.float16 if fp16_io else np.float32
    found = run(half, {name: value.astype(kind) for name, value in feeds.items()})
    for want, got in zip(expected, found, strict=True):
        assert got.dtype == kind
        # Half has 11 bits; rounding adds up over some 60 layers.
        assert np.abs(want - got).max() <= 0.02 * np.abs(want).max()


def test_weights_are_halved_and_decoding_stays_in_fp32() -> None:
    model = build_yolox(width=0.125, num_classes=4, head="decoded")
    half = in_float16(model)
    types = {t.name: t.data_type for t in half.graph.initializer}
    for node in half.graph.node:
        if node.op_type == "Conv":
            assert types[node.input[1]] == onnx.TensorProto.FLOAT16
    inferred = onnx.shape_inference.infer_shapes(half)
    elements = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    graph = Graph(half)
    decoding = set(graph.find("Exp", "Mul", "Add", "Concat", "Sigmoid")) - nodes_before_heads(graph)
    assert decoding
    for node in decoding:
        for value in node.outputs:
            assert elements.get(value.name, onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT


def test_int8_stays_int8() -> None:
    model = build_yolox(width=0.125, num_classes=4, head="raw_levels", activation="relu6")
    tensors = {name for n in model.graph.node for name in (*n.input, *n.output)}
    ranges = DynamicRanges.from_amax(dict.fromkeys(tensors, 6.0) | {"images": 255.0})
    heads = {n.name for n in model.graph.node if "_preds" in "".join(n.input)}
    quantized = insert_qdq(Graph(model), ranges, keep_float=heads).to_model()
    half = in_float16(quantized)
    types = {t.name: t.data_type for t in half.graph.initializer}
    for node in half.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert types[node.input[1]] == onnx.TensorProto.FLOAT
    feeds = random_images(model)
    exact, int8, both = (run(m, feeds) for m in (model, quantized, half))
    of_int8 = sum(np.abs(w - g).mean() for w, g in zip(exact, int8, strict=True))
    of_both = sum(np.abs(w - g).mean() for w, g in zip(exact, both, strict=True))
    # FP16 moves single codes; random weights make much of that, but not more than INT8 itself.
    assert of_both <= 1.3 * of_int8


def test_the_model_itself_is_not_changed() -> None:
    model = build_yolox(width=0.125)
    before = model.SerializeToString()
    in_float16(model, float16_input=True, float16_outputs=True)
    assert model.SerializeToString() == before


def test_weights_that_are_only_stored_in_fp16() -> None:
    """As small files have them: FP16 weights, a Cast, FP32 arithmetic."""
    model = build_yolox(width=0.125, num_classes=4, head="raw_levels")
    weights = {n.input[1] for n in model.graph.node if n.op_type == "Conv"}
    casts = []
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            name = tensor.name
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, f"{name}_stored"))
            casts.append(
                onnx.helper.make_node(
                    "Cast", [f"{name}_stored"], [name], name, to=onnx.TensorProto.FLOAT
                )
            )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert not computes_in_float16(Graph(model))
    half = in_float16(model)
    assert computes_in_float16(Graph(half))
    feeds = random_images(model)
    for want, got in zip(run(model, feeds), run(half, feeds), strict=True):
        assert np.abs(want - got).max() <= 0.02 * np.abs(want).max()


def test_weights_beyond_fp16_are_refused() -> None:
    model = build_yolox(width=0.125)
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    for tensor in model.graph.initializer:
        if tensor.name == conv.input[1]:
            values = onnx.numpy_helper.to_array(tensor) + 1e5
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    with pytest.raises(ModelError, match=r"magnitude of 1000\d\d.*65504"):
        in_float16(model)


def test_branches_are_refused() -> None:
    helper = onnx.helper
    value = helper.make_tensor_value_info
    branch = helper.make_graph([], "b", [], [value("x", 1, [1])])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph([node], "g", [value("c", 9, [])], [value("y", 1, [1])])
    with pytest.raises(ModelError, match="a graph inside"):
        in_float16(helper.make_model(graph))


def test_names_that_are_taken() -> None:
    """The names of new tensors and nodes are free ones."""
    weights = np.full((2, 3, 1, 1), 0.5, np.float32)
    nodes = [
        ("Identity", ["x"], ["w_fp16"], {}),
        ("Add", ["w_fp16", "x"], ["x_fp16"], {}),
        ("Conv", ["x_fp16", "w"], ["y_inner"], {}),
        ("Identity", ["y_inner"], ["y"], {}),
        ("Identity", ["x"], ["z"], {}),
    ]
    model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y", "z"], {"w": weights})
    model.graph.node[0].name = "x_to_fp16"
    half = in_float16(model, float16_outputs=True)
    names = [node.name for node in half.graph.node]
    assert len(set(names)) == len(names)
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)
    for want, got in zip(run(model, {"x": x}), run(half, {"x": x}), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=0.02)


def test_constants_that_are_made_in_the_graph_are_cast() -> None:
    value = onnx.numpy_helper.from_array(np.array([2.0], np.float32))
    nodes = [
        ("ConstantOfShape", ["size"], ["twos"], {"value": value}),
        ("Mul", ["x", "twos"], ["m"], {}),
        ("Conv", ["m", "w"], ["y"], {}),
    ]
    constants = {"size": [1, 3, 1, 1], "w": np.ones((2, 3, 1, 1), np.float32)}
    model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants)
    x = np.ones((1, 3, 4, 4), np.float32)
    np.testing.assert_array_equal(run(in_float16(model), {"x": x})[0], run(model, {"x": x})[0])


def test_a_graph_that_is_not_valid_is_refused() -> None:
    model = make_graph([("Relu", ["x"], ["y"], {})], {"x": (1, 3, 4, 4)}, ["y"])
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match=r"not valid in FP16 \(.*NoSuchOperator"):
        in_float16(model)
