# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Graph: what goes in comes out, links follow rewrites, shapes and names are kept up to date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.onnx_graphs import in_float16, make_graph, random_feeds, run, worst
from support.passes import apply
from support.yolox_graphs import build_yolox

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.surgery.head_cut import HeadCut
from yolox_trt.core.errors import ModelError
from yolox_trt.graph.batch import open_batch
from yolox_trt.graph.graph import PLUGIN_DOMAIN, Graph
from yolox_trt.graph.shape_walk import fold_constants

CONV = ("Conv", ["x", "w", "b"], ["a"], {"pads": [1] * 4})


def conv_relu(outputs: tuple[str, ...] = ("y",), **options) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "b": np.arange(8, dtype=np.float32),
    }
    nodes = [CONV, ("Relu", ["a"], ["y"], {})]
    return make_graph(nodes, {"x": (1, 3, 8, 8)}, outputs, constants, **options)


def plain(node: onnx.NodeProto) -> tuple:
    attributes = sorted(a.SerializeToString() for a in node.attribute)
    return node.op_type, node.domain, tuple(node.input), tuple(node.output), attributes


def test_what_is_read_is_written_again() -> None:
    model = conv_relu()
    helper.set_model_props(model, {"yolox_trt.strides": "[8]"})
    model.producer_name = "somebody"
    written = Graph(model).to_model()
    assert [plain(n) for n in written.graph.node] == [plain(n) for n in model.graph.node]
    assert list(written.graph.initializer) == list(model.graph.initializer)
    assert written.metadata_props == model.metadata_props
    assert (written.producer_name, written.ir_version) == ("somebody", model.ir_version)
    assert written.opset_import == model.opset_import


def test_links_lead_both_ways_and_follow_a_replacement() -> None:
    graph = Graph(conv_relu())
    conv, relu = graph.nodes
    assert relu.source() is conv and conv.outputs[0].only_reader is relu
    assert conv.constant(1).shape == (8, 3, 3, 3) and relu.constant(0) is None
    clip = graph.add_node("LeakyRelu", "leaky", conv.outputs, {"alpha": 0.5})
    kept = graph.replace(relu.outputs[0], clip)
    graph.sort()
    assert [node.op for node in graph.nodes] == ["Conv", "LeakyRelu"]
    assert kept.name == "y" and graph.outputs == (kept,)
    model = graph.to_model()
    onnx.checker.check_model(model, full_check=True)
    assert run(model, random_feeds(model))["y"].min() < 0


def test_an_output_that_would_take_a_second_name_gets_an_identity() -> None:
    graph = Graph(conv_relu(("a", "y")))
    relu = graph.nodes[1]
    graph.replace(relu.outputs[0], relu.inputs[0])
    graph.sort()
    outputs = run(graph.to_model(), random_feeds(graph.to_model()))
    assert np.array_equal(outputs["a"], outputs["y"])


def test_new_nodes_are_typed_shaped_and_sorted() -> None:
    graph = Graph(conv_relu())
    graph.infer_shapes()
    conv = graph.nodes[0]
    half = graph.add_node("Cast", "half", conv.outputs, {"to": TensorProto.FLOAT16})
    part = graph.slice(half, "part", 2, 5, 1)
    assert part.static_shape == (1, 3, 8, 8) and part.dtype == np.float16
    graph.outputs = [part]
    graph.sort()
    assert [node.op for node in graph.nodes] == ["Conv", "Cast", "Slice"]
    assert graph.add_node("Relu", "half", [part]).name == "half_out_1"


def test_a_copy_is_independent() -> None:
    graph = Graph(conv_relu())
    graph.infer_shapes()
    twin = graph.copy()
    twin.nodes[0].attrs["pads"][0] = 5
    twin.replace(twin.nodes[1].outputs[0], twin.nodes[0].outputs[0])
    twin.sort()
    assert graph.nodes[0].attrs["pads"] == [1] * 4
    assert [node.op for node in graph.nodes] == ["Conv", "Relu"]
    model = conv_relu()
    feeds = random_feeds(model)
    assert worst(run(model, feeds), run(graph.to_model(), feeds)) == 0


def test_a_copy_after_some_values_leaves_out_what_computes_them() -> None:
    graph = Graph(conv_relu())
    convolved = graph.nodes[0].outputs[0].name
    twin = graph.copy(after={convolved})
    assert [node.op for node in twin.nodes] == ["Relu"]
    assert twin.values()[convolved].producer is None
    assert graph.values()[convolved].producer is graph.nodes[0]


def test_constants_have_one_form() -> None:
    nodes = [
        ("Constant", [], ["two"], {"value_float": 2.0}),
        ("Mul", ["x", "two"], ["y"], {}),
        ("Add", ["y", "one"], ["z"], {}),
    ]
    model = make_graph(nodes, {"x": (1, 4)}, ["z"], {"one": np.float32(1)})
    model.graph.input.append(helper.make_tensor_value_info("one", TensorProto.FLOAT, []))
    graph = Graph(model)
    assert [node.op for node in graph.nodes] == ["Mul", "Add"]
    assert [value.name for value in graph.inputs] == ["x"]
    assert graph.nodes[0].constant(1).dtype == np.float32
    assert run(graph.to_model(), {"x": np.ones((1, 4), np.float32)})["z"].tolist() == [[3.0] * 4]


def test_weights_are_seen_through_quantisation() -> None:
    quantised = np.arange(-4, 4, dtype=np.int8).reshape(8, 1)
    nodes = [
        ("DequantizeLinear", ["q", "s", "z"], ["w"], {"axis": 0}),
        ("MatMul", ["x", "w"], ["y"], {}),
    ]
    scales = np.arange(1, 9, dtype=np.float32)
    constants = {"q": quantised, "s": scales, "z": np.zeros(8, np.int8)}
    graph = Graph(make_graph(nodes, {"x": (2, 8)}, ["y"], constants))
    assert np.array_equal(graph.nodes[1].weights(), quantised * scales[:, None])


def test_what_a_graph_inside_reads_stays_under_its_name() -> None:
    def branch(op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(op, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["a"], [op])], op, [], [out])

    inside = {"then_branch": branch("Relu"), "else_branch": branch("Neg")}
    nodes = [
        ("Abs", ["x"], ["a"], {}),
        ("Identity", ["a"], ["c"], {}),
        ("If", ["t"], ["y"], inside),
    ]
    model = make_graph(nodes, {"x": (2,)}, ["y"], {"t": np.asarray(True)})
    graph = Graph(model)
    graph.sort()
    assert [node.op for node in graph.nodes] == ["Abs", "If"]
    assert graph.nodes[0].outputs[0].is_output
    feeds = {"x": np.asarray([-1, 2], np.float32)}
    assert run(graph.to_model(), feeds)["y"].tolist() == [1, 2]


def test_weights_in_other_files_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    model = conv_relu()
    feeds = random_feeds(model)
    wanted = run(model, feeds)
    path = tmp_path / "model.onnx"
    onnx.save(
        model, path, save_as_external_data=True, location="weights.bin", size_threshold=0,
        convert_attribute=False,
    )  # fmt: skip
    graph = Graph.load(path)
    assert worst(wanted, run(graph.to_model(), feeds)) == 0
    (tmp_path / "weights.bin").unlink()
    graph = Graph.load(path)
    graph.infer_shapes()
    assert graph.outputs[0].static_shape == (1, 8, 8, 8)
    with pytest.raises(ModelError, match="external weights"):
        graph.to_model()


def test_an_old_opset_is_converted_and_the_metadata_stay() -> None:
    model = conv_relu(opset=9)
    helper.set_model_props(model, {"key": "value"})
    graph = Graph(model)
    graph.upgrade(13)
    assert (graph.opset, graph.metadata) == (13, {"key": "value"})
    feeds = random_feeds(model)
    assert worst(run(model, feeds), run(graph.to_model(), feeds)) < 1e-6


@pytest.mark.parametrize(
    ("content", "found"),
    [(None, "no file"), (b"not onnx", "read as ONNX|no graph"), (b"", "no graph")],
)
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes | None, found: str) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=found):
        Graph.load(path)


def test_a_graph_that_onnx_cannot_follow_is_refused() -> None:
    model = conv_relu()
    model.graph.node[1].domain = "nobody.imports.this"
    with pytest.raises(ModelError, match="shapes"):
        Graph(model).infer_shapes()


def _branch(*outputs: str) -> onnx.GraphProto:
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    nodes = [helper.make_node("Identity", ["a"], [name]) for name in outputs]
    return helper.make_graph(nodes, "branch", [], made)


def _with_inner_node(inner: onnx.NodeProto) -> onnx.NodeProto:
    other = _branch("v")
    other.node.append(inner)
    return helper.make_node("If", ["c"], ["y"], then_branch=_branch("u"), else_branch=other)


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (helper.make_node("If", ["c"], ["y"], else_branch=_branch("u")), "attribute then_branch"),
        (
            helper.make_node(
                "If", ["c"], ["y"], then_branch=_branch("u"), else_branch=_branch("v", "w")
            ),
            "a branch of 2 outputs",
        ),
        (helper.make_node("If", ["c"], ["y"], then_branch=1, else_branch=1), "another type"),
        (helper.make_node("Cast", ["a"], ["y"]), "attribute to"),
        (helper.make_node("Conv", ["a"], ["y"]), "1 inputs, not 2 to 3"),
        (helper.make_node("Relu", ["a"], ["y", "z"]), "2 outputs"),
        (_with_inner_node(helper.make_node("Concat", ["a"], ["t"])), "attribute axis"),
        (helper.make_node("Slice", ["a", "b", "b"], ["y"]), r"'b', a tensor\(float\), as input 1"),
        (_with_inner_node(helper.make_node("Reshape", ["a", "b"], ["t"])), "Reshape.* as input 1"),
        (helper.make_node("Max", ["a", "", "a"], ["y"]), "without its input 1"),
    ],
)
def test_a_node_that_is_not_of_the_form_of_onnx_is_refused(
    node: onnx.NodeProto, found: str
) -> None:
    model = conv_relu()
    model.graph.node[1].CopyFrom(node)
    with pytest.raises(ModelError, match=f"damaged graph .*{found}"):
        Graph(model)


def test_a_constant_that_the_file_does_not_hold_is_refused() -> None:
    model = conv_relu()
    model.graph.initializer[0].dims[0] = 2**63 - 1
    with pytest.raises(
        ModelError, match=r"damaged graph \(constant 'w' of \d+ values in \d+ bytes"
    ):
        Graph(model)


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
    "FP16": in_float16,
    "open batch": opened,
    "graph": lambda model: Graph(model).to_model(),
    "Q/DQ": lambda model: insert_qdq(Graph(model), DynamicRanges.from_amax({"x": 4.0})).to_model(),
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
    """So some exporters write it."""
    options = {"head": "efficient_nms", "width": 0.125, "num_classes": 3}
    models = (without_domain(build_yolox(**options)), build_yolox(**options))
    found, expected = (apply(HeadCut(), model).model for model in models)
    assert found.graph == expected.graph


def test_a_plugin_in_the_default_domain_in_fp16() -> None:
    model = without_domain(build_yolox(head="efficient_nms", width=0.125, num_classes=3))
    half = in_float16(model)
    assert [n.domain for n in half.graph.node if n.op_type == "EfficientNMS_TRT"] == ["TRT"]
    assert any(entry.domain == "TRT" for entry in half.opset_import)


@pytest.mark.parametrize("order", ["reversed", "constants last"])
def test_nodes_in_any_order_are_read(order: str) -> None:
    model = build_yolox(style="opset13", head="decoded")
    expected = run(model, random_feeds(model))
    ordered = Graph(onnx.ModelProto.FromString(model.SerializeToString()))
    ordered.infer_shapes()
    shapes = {name: value.shape for name, value in ordered.values().items()}
    nodes = list(model.graph.node)
    shuffled = nodes[::-1] if order == "reversed" else sorted(
        nodes, key=lambda node: node.op_type == "Constant"
    )  # fmt: skip
    del model.graph.node[:]
    model.graph.node.extend(shuffled)
    graph = Graph(model)
    graph.infer_shapes()
    graph.check(rewritten=False)
    assert {name: value.shape for name, value in graph.values().items()} == shapes
    assert worst(expected, run(graph.to_model(), random_feeds(model))) == 0


@pytest.mark.parametrize("places", ["linear", "by axis"])
def test_a_sparse_initialiser_is_a_constant(places: str) -> None:
    model = conv_relu()
    expected = run(model, random_feeds(model))
    weights = model.graph.initializer[0]
    dense = onnx.numpy_helper.to_array(weights)
    indices = np.arange(dense.size) if places == "linear" else np.argwhere(np.ones(dense.shape))
    sparse = helper.make_sparse_tensor(
        onnx.numpy_helper.from_array(dense.ravel(), weights.name),
        onnx.numpy_helper.from_array(indices.astype(np.int64), "places"),
        list(dense.shape),
    )
    model.graph.sparse_initializer.append(sparse)
    del model.graph.initializer[0]
    graph = Graph(model)
    assert np.array_equal(graph.nodes[0].constant(1), dense)
    assert worst(expected, run(graph.to_model(), random_feeds(model))) == 0


def test_weights_of_a_graph_inside_a_node_are_read_from_other_files(tmp_path: Path) -> None:
    shape = (1, 3, 8, 8)
    added = onnx.numpy_helper.from_array(np.ones(shape, np.float32), "added")
    result = [helper.make_tensor_value_info("r", TensorProto.FLOAT, shape)]
    branches = {
        "then_branch": helper.make_graph(
            [helper.make_node("Add", ["x", "added"], ["r"])], "then", [], result, [added]
        ),
        "else_branch": helper.make_graph(
            [helper.make_node("Identity", ["x"], ["r"])], "else", [], result
        ),
    }
    nodes = [("If", ["given"], ["y"], branches)]
    model = make_graph(nodes, {"x": shape}, ("y",), {"given": np.asarray(True)})
    expected = run(model, random_feeds(model))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    assert worst(expected, run(Graph.load(path).to_model(), random_feeds(model))) == 0


def test_names_do_not_grow_with_each_graph_that_is_put_in_place_of_its_node() -> None:
    """3,000 nodes of one name took ten seconds, in which the names grew to 6,000 characters."""
    names = ["x", *(f"r{i}" for i in range(100)), "y"]
    branches = [
        helper.make_graph(
            [helper.make_node("Relu", [name], ["r"])],
            "branch",
            [],
            [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
        )
        for name in names[:-1]
    ]
    nodes = [
        ("If", ["given"], [name], {"then_branch": branch, "else_branch": branch})
        for name, branch in zip(names[1:], branches, strict=True)
    ]
    graph = Graph(make_graph(nodes, {"x": (1, 3, 8, 8)}, ["y"], {"given": np.asarray(True)}))
    fold_constants(graph)
    assert [node.op for node in graph.nodes] == ["Relu"] * 101
    assert max(len(node.name) for node in graph.nodes) < 12
    assert not any(value.is_output for node in graph.nodes[:-1] for value in node.outputs)


def test_a_constant_that_is_an_output_is_written() -> None:
    model = conv_relu()
    model.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [8]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "c"))
    model.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [2]))
    assert run(Graph(model).to_model(), random_feeds(model))["c"].tolist() == [1, 1]


def test_the_text_about_a_graph_is_kept() -> None:
    model = conv_relu()
    model.doc_string, model.graph.doc_string = "about the model", "about the graph"
    written = Graph(model).to_model()
    assert (written.doc_string, written.graph.doc_string) == (
        "about the model",
        "about the graph",
    )
