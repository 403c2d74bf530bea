# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile graphs: one ModelError each; neither the process nor memory ends."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.yolox_graphs import build_yolox

from yolox_trt.core.errors import ModelError
from yolox_trt.core.faults import OutOfMemoryError
from yolox_trt.core.limits import LIMITS
from yolox_trt.graph import inference, onnx_session, shape_walk
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.head import Head
from yolox_trt.graph.onnx_session import check_memory, require_memory
from yolox_trt.graph.predictions import sample_images
from yolox_trt.graph.shape_walk import fold_constants
from yolox_trt.graph.spec import read_spec

Change = Callable[[onnx.ModelProto], None]


def model_of(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """Return a model of nodes that make `y` of the image `x`, 1 x 3 x 16 x 16."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", 1, (1, 3, 16, 16))],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


@pytest.mark.parametrize(
    ("op", "attributes", "constants"),
    [
        ("MaxPool", {"kernel_shape": [3, 64]}, {}),
        ("Conv", {"dilations": [1, 64]}, {"w": np.ones((4, 3, 3, 3), np.float32)}),
        ("Pad", {}, {"pads": [0, 0, 0, -64, 0, 0, 0, 0]}),
        ("Split", {"axis": 3}, {"sizes": [-5, 21]}),
        ("TopK", {}, {"k": [-5]}),
    ],
)
def test_a_slice_of_a_negative_size_does_not_end_the_process(
    op: str, attributes: dict[str, Any], constants: dict[str, Any]
) -> None:
    made = ["m", "other"] if op in ("Split", "TopK") else ["m"]
    model = model_of(
        helper.make_node(op, ["x", *constants], made, **attributes),
        helper.make_node("Slice", ["m", "first", "last", "axis"], ["y"]),
        **constants,
        first=[0],
        last=[5],
        axis=[-1],
    )
    with pytest.raises(ModelError, match=r"tensor '\w+' of size .*-.*; expected sizes from 0"):
        Graph(model).infer_shapes()


def _add_functions(model: onnx.ModelProto, calls: list[list[str]]) -> None:
    """Add functions F0, F1, ..., each of which calls others one after the other."""
    opsets = [helper.make_opsetid("own", 1), helper.make_opsetid("", 13)]
    model.opset_import.append(opsets[0])
    for number, called in enumerate(calls):
        names = ["x", *(f"v{i}" for i in range(1, len(called))), "y"]
        nodes = [
            helper.make_node(op, [a], [b], domain="own" if op.startswith("F") else "")
            for op, a, b in zip(called, names[:-1], names[1:], strict=True)
        ]
        function = helper.make_function("own", f"F{number}", ["x"], ["y"], nodes, opsets)
        model.functions.append(function)
    last = f"F{len(calls) - 1}"
    model.graph.node[0].CopyFrom(helper.make_node(last, ["x"], ["y"], domain="own"))


def _branch(model: onnx.ModelProto, depth: int) -> None:
    """Add functions F0 ..., each of which calls the one before in both branches of an If."""
    _add_functions(model, [["Relu"]] * (depth + 1))
    for number in range(1, depth + 1):
        call = helper.make_node(f"F{number - 1}", ["x"], ["z"], domain="own")
        z = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)
        branch = helper.make_graph([call], "branch", [], [z])
        node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
        model.functions[number].node[0].CopyFrom(node)


def _sparse(size: int) -> onnx.SparseTensorProto:
    sparse = onnx.SparseTensorProto(dims=[size])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "i"))
    return sparse


def _sparse_in_a_branch(model: onnx.ModelProto) -> None:
    y = helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, None)
    branch = helper.make_graph([], "branch", [], [y], sparse_initializer=[_sparse(1 << 27)])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    model.graph.node[0].CopyFrom(node)


def _set_size(size: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = size

    return change


def _set_constant_size(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [-32]


def _set_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 99


def _make_cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "y"


def _add_empty_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"]))


def _add_sparse(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "i"))
    sparse.dims.extend([1_000_000, 1_000_000])


def _break_a_name(model: onnx.ModelProto) -> None:
    data = model.SerializeToString().replace(b"named", b"n\xf7med")
    model.CopyFrom(onnx.ModelProto.FromString(data))


def _nest_metadata(model: onnx.ModelProto) -> None:
    helper.set_model_props(model, {"yolox_trt.strides": "[" * 100_000})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set_size(-32), "input 'x' of size"),
        (_set_size(0), "input 'x' of size"),
        (_set_size(2**62), "input 'x' of size"),
        (_set_constant_size, "constant 'b' of"),
        (_set_type, "input x of type None"),
        (_make_cycle, "reads what follows from it"),
        (_add_empty_constant, "fix: "),
        (_add_sparse, "constant 's' of size"),
        (lambda m: m.graph.sparse_initializer.extend([_sparse(1 << 26)] * 5),
         "sparse constants of more than 1073741824 bytes"),
        (lambda m: m.graph.node.append(
            helper.make_node("Constant", [], ["c"], sparse_value=_sparse(1 << 27))),
         "constant 's' of size"),
        (_sparse_in_a_branch, "constant 's' of size"),
        (lambda m: _branch(m, 20), "more than 100000 nodes"),
        (lambda m: _branch(m, 70), "functions nested more than 64 deep"),
        (_break_a_name, "which is no UTF-8"),
        (_nest_metadata, "expected a JSON list"),
        (lambda m: _add_functions(m, [["F0"]]), "functions nested more than 64 deep"),
        (lambda m: _add_functions(m, [["F1"], ["F0"]]), "functions nested more than 64 deep"),
        (lambda m: _add_functions(m, [["Relu"] * 9, *([f"F{k}"] * 9 for k in range(9))]),
         "more than 100000 nodes, its functions written out"),
    ],
)  # fmt: skip
def test_a_hostile_graph_is_refused(change: Change, reason: str) -> None:
    model = model_of(
        helper.make_node("Add", ["x", "b"], ["y"], name="named"), b=np.ones(16, np.float32)
    )
    change(model)
    with pytest.raises(ModelError, match=reason):
        read_spec(model)


def test_functions_that_mean_well_are_inlined() -> None:
    model = model_of(helper.make_node("Relu", ["x"], ["y"]))
    _add_functions(model, [["Relu", "Neg"], ["F0", "F0"]])
    assert [node.op for node in Graph(model).nodes] == ["Relu", "Neg", "Relu", "Neg"]


def test_a_constant_that_would_fill_memory_is_not_computed() -> None:
    graph = Graph(
        model_of(
            helper.make_node("Expand", ["one", "size"], ["large"]),
            helper.make_node("ReduceMax", ["large"], ["most"], keepdims=0),
            helper.make_node("Add", ["x", "most"], ["y"]),
            one=np.float32(1.0),
            size=[100_000, 100_000],
        )
    )
    fold_constants(graph)
    assert [node.op for node in graph.nodes] == ["Expand", "ReduceMax", "Add"]


def test_memory_is_that_of_all_tensors_that_are_there_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # x and y stay; a is kept for the end, while b, twice as long, comes and goes.
    graph = Graph(
        model_of(
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Concat", ["a", "a"], ["b"], axis=1),
            helper.make_node("ReduceMax", ["b"], ["c"], axes=[1], keepdims=1),
            helper.make_node("Add", ["a", "c"], ["y"]),
        )
    )
    graph.infer_shapes()
    x = 4 * math.prod(graph.inputs[0].shape or ())
    needed: list[float] = []
    monkeypatch.setattr(onnx_session, "require_memory", lambda size, _: needed.append(size))
    check_memory(graph, 1)
    check_memory(graph, 1, calls=3)
    check_memory(graph, 5)
    channels = (graph.inputs[0].shape or ())[1]
    most = (1 + 1 + 1 + 2 + 1 / channels) * x  # x, y, a, b, c
    assert needed == [onnx_session._TAKEN * most * times for times in (1, 3, 5)]


def test_memory_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_session, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("900000000\n")
    require_memory(2e8, "this")
    (tmp_path / "memory.max").write_text("1000000000\n")
    with pytest.raises(OutOfMemoryError, match=r"this, which needs about 0\.2 GB; expected"):
        require_memory(2e8, "this")


def test_memory_is_estimated_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(build_yolox(width=0.125))
    check_memory(graph, 4)
    with pytest.raises(ModelError, match="a batch of 1025; expected at most 1024; fix: set a smal"):
        check_memory(graph, 1025)
    monkeypatch.setattr(onnx_session, "_TAKEN", 1e6)
    with pytest.raises(OutOfMemoryError, match=r"a batch of 1000, which needs about .* GB"):
        check_memory(graph, 1000)
    with pytest.raises(OutOfMemoryError, match="images of 640x640"):
        sample_images(10_000_000, 640, 640)


def test_slices_in_a_row_are_not_shown_to_onnx_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one takes another inference of the whole model: 1,500 would take minutes."""
    monkeypatch.setattr(inference, "_ROUNDS", 3)
    nodes, last = [], "x"
    for i in range(12):
        nodes.append(helper.make_node("Slice", [last, "first", "last", "axis"], [f"s{i}"]))
        nodes.append(helper.make_node("Relu", [f"s{i}"], [f"r{i}"]))
        last = f"r{i}"
    model = model_of(
        *nodes, helper.make_node("Relu", [last], ["y"]), first=[0], last=[16], axis=[3]
    )
    calls: list[int] = []
    infer = onnx.shape_inference.infer_shapes

    def counted(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
        calls.append(len(model.graph.node))
        return infer(model, **options)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", counted)
    graph = Graph(model)
    graph.infer_shapes()
    assert len(calls) == 4
    assert graph.values()["r2"].shape == (1, 3, 16, 16)


def doubled(op: str, first: str, times: int, **attributes: Any) -> list[onnx.NodeProto]:
    """Return nodes that each join what the one before has made to itself; they make `d`."""
    names = [first, *(f"{first}{i}" for i in range(1, times)), "d"]
    return [helper.make_node(op, [a, a], [b], **attributes) for a, b in itertools.pairwise(names)]


INTEGERS = helper.make_node("Cast", ["x"], ["i"], to=onnx.TensorProto.INT64)
LINE = helper.make_node("Reshape", ["i", "all"], ["line"])


@pytest.mark.parametrize(
    "nodes",
    [
        doubled("Concat", "one", 40, axis=0),
        [helper.make_node("Shape", ["x"], ["s"]), *doubled("Concat", "s", 40, axis=-1)],
        [INTEGERS, *doubled("Gather", "i", 40)],
        [INTEGERS, LINE, helper.make_node("ConstantOfShape", ["line"], ["d"])],
        [INTEGERS, LINE, helper.make_node("Expand", ["one", "line"], ["d"])],
        [INTEGERS, LINE, helper.make_node("Reshape", ["one", "line"], ["d"])],
        [INTEGERS, LINE, helper.make_node("Cast", ["line"], ["d"], to=1)],
        [INTEGERS, LINE, helper.make_node("Gather", ["one", "line"], ["d"])],
        [INTEGERS, LINE, helper.make_node("Slice", ["line", "one", "one"], ["d"])],
    ],
)
@pytest.mark.parametrize("side", [1 << 12, 1 << 20])
@pytest.mark.parametrize("is_inside", [False, True])
def test_axes_and_values_that_sizes_follow_from_do_not_fill_the_memory(
    nodes: list[onnx.NodeProto], is_inside: bool, side: int
) -> None:
    """onnx takes about 70 bytes for each of them, and would hold more than 2 ** 40."""
    last = helper.make_node("Cast", ["d"], ["y"], to=onnx.TensorProto.FLOAT)
    made = [*nodes, last]
    if is_inside:
        branch = helper.make_graph(made, "b", [], [helper.make_empty_tensor_value_info("y")])
        made = [
            helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
            helper.make_node("Cast", ["m"], ["c"], to=onnx.TensorProto.BOOL),
            helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        ]
    model = model_of(*made, one=[1], all=[-1])
    set_size(model, (1, 3, side, side))
    graph = Graph(model)
    with contextlib.suppress(ModelError):  # one axis of 2 ** 27, say
        graph.infer_shapes()
    for node in graph.nodes:
        graph.infer_node(node)
    assert len(graph.outputs[0].shape or ()) <= 64


def test_a_tensor_of_too_many_axes_is_refused() -> None:
    model = model_of(helper.make_node("Relu", ["x"], ["y"]))
    set_size(model, (1,) * 65)
    with pytest.raises(ModelError, match=r"and 65 axes; .*at most 64 axes"):
        Graph(model).infer_shapes()


def set_size(model: onnx.ModelProto, size: tuple[int, ...]) -> None:
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", 1, size))


def test_constants_are_computed_up_to_a_limit_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = dataclasses.replace(LIMITS, folded_bytes=5 << 18)
    monkeypatch.setattr(shape_walk, "LIMITS", limits)
    fills = [helper.make_node("ConstantOfShape", ["size"], [f"c{i}"]) for i in range(4)]
    made = [fill.output[0] for fill in fills]
    graph = Graph(model_of(*fills, helper.make_node("Sum", ["x", *made], ["y"]), size=[512, 512]))
    for _ in range(2):
        fold_constants(graph)
        assert len(graph.find("ConstantOfShape")) == 3


@pytest.mark.parametrize(
    ("op", "attributes", "size"),
    [
        ("MaxPool", {"kernel_shape": [3, 3]}, [1, 1, 64, 64]),
        ("AveragePool", {"kernel_shape": [9999] * 2, "pads": [5000] * 4}, [1, 1, 4, 4]),
        ("Erf", {}, [1 << 15]),
    ],
)
def test_what_takes_long_is_not_computed(
    op: str, attributes: dict[str, Any], size: list[int]
) -> None:
    """onnx's reference takes minutes for a pooling of a large constant, and pads it first."""
    fill = helper.make_node("ConstantOfShape", ["size"], ["c"])
    slow = helper.make_node(op, ["c"], ["m"], **attributes)
    graph = Graph(model_of(fill, slow, helper.make_node("Sum", ["x", "m"], ["y"]), size=size))
    fold_constants(graph)
    assert [node.op for node in graph.nodes] == [op, "Sum"]


def test_a_tensor_larger_than_the_limit_is_not_computed() -> None:
    fill = helper.make_node("ConstantOfShape", ["size"], ["c"])
    shrink = helper.make_node("ReduceMax", ["c"], ["m"])
    model = model_of(fill, shrink, helper.make_node("Sum", ["x", "m"], ["y"]), size=[1 << 40])
    nodes = inference.evaluate(model.graph.node[0], {"size": np.array([1 << 40])}, {"": 13})
    assert nodes is None


def test_a_concatenation_of_a_tensor_with_itself_again_and_again_is_no_head() -> None:
    """Of 22 of them, each of two times the one before, the convolution stands there 4 M times."""
    model = model_of(
        helper.make_node("Conv", ["x", "w"], ["c0"]),
        *(helper.make_node("Concat", [f"c{i}"] * 2, [f"c{i + 1}"], axis=1) for i in range(22)),
        helper.make_node("Relu", ["c22"], ["y"]),
        w=np.ones((1, 3, 1, 1), np.float32),
    )
    graph = Graph(model)
    graph.infer_shapes()
    assert Head(graph, (16, 16)).channel_layout(graph.outputs[0]) == []
