# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Forms of one graph that exporters write: initialisers as inputs, plugins without a domain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper
from support.onnx_graphs import in_float16, make_graph, random_feeds, run
from support.yolox_graphs import build_yolox

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.surgery.head_cut import HeadCut
from yolox_trt.graph.batch import open_batch
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.model_graph import ModelGraph, load_model
from yolox_trt.graph.normalization import PLUGIN_DOMAIN, normalized


def with_initializers_as_inputs(model: onnx.ModelProto, ir_version: int = 3) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(value)
    model.ir_version = ir_version
    onnx.checker.check_model(model)
    return model


def convolution() -> onnx.ModelProto:
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    return make_graph(
        [
            ("Conv", ["x", "weights"], ["c"], {"pads": [1, 1, 1, 1]}),
            ("Reshape", ["c", "target"], ["y"], {}),
        ],
        {"x": (1, 3, 8, 8)},
        ["y"],
        {"weights": weights, "target": [1, 4, 64]},
    )


def opened(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = Graph(model)
    open_batch(graph)
    return graph.to_model()


REWRITES: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "surgery": lambda model: ModelGraph(model).to_model(),
    "FP16": in_float16,
    "open batch": opened,
    "graph": lambda model: Graph(model).to_model(),
    "Q/DQ": lambda model: insert_qdq(Graph(model), DynamicRanges.from_amax({"x": 4.0})).to_model(),
    "load": load_model,
}


@pytest.mark.parametrize("ir_version", [3, 7])
@pytest.mark.parametrize("rewrite", REWRITES)
def test_no_initializer_becomes_an_input_that_has_to_be_fed(rewrite, ir_version) -> None:
    model = with_initializers_as_inputs(convolution(), ir_version)
    result = REWRITES[rewrite](model)
    assert [value.name for value in result.graph.input] == ["x"]
    assert result.ir_version >= 4
    feeds = random_feeds(convolution())
    expected, found = run(convolution(), feeds)["y"], run(result, feeds)["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.1 * np.abs(expected).max())
    assert len(model.graph.input) == 3  # what was given is not changed


def without_domain(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in model.graph.node:
        if node.op_type == "EfficientNMS_TRT":
            node.domain = ""
    kept = [entry for entry in model.opset_import if entry.domain != PLUGIN_DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def test_a_plugin_in_the_default_domain_can_be_cut_off() -> None:
    """So onnx-graphsurgeon writes it where it is not told otherwise."""
    options = {"head": "efficient_nms", "width": 0.125, "num_classes": 3}
    models = (without_domain(build_yolox(**options)), build_yolox(**options))
    found, expected = (HeadCut().run(model).model for model in models)
    assert found.graph == expected.graph


def test_a_plugin_in_the_default_domain_in_fp16() -> None:
    model = without_domain(build_yolox(head="efficient_nms", width=0.125, num_classes=3))
    half = in_float16(model)
    assert [n.domain for n in half.graph.node if n.op_type == "EfficientNMS_TRT"] == ["TRT"]
    assert any(entry.domain == "TRT" for entry in half.opset_import)


def test_the_usual_form_is_not_copied() -> None:
    model = build_yolox(width=0.125)
    assert normalized(model) is model
