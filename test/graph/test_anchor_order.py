# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Heads that mix up their cells or channels are refused, though every shape is right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from support.yolox_graphs import build_yolox

from yolox_trt.core.errors import ModelError
from yolox_trt.graph import anchor_order
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.spec import read_spec
from yolox_trt.graph.values import Value


def yolox(**options: object) -> Graph:
    small = {"num_classes": 3, "width": 0.125, "height": 64, "width_px": 64}
    graph = Graph(build_yolox(**{**small, **options}))  # type: ignore[arg-type]
    graph.infer_shapes()
    return graph


def behind(graph: Graph, value: Value, op: str, **attrs: object) -> None:
    """Put a node between a value and its readers."""
    readers = value.readers
    new = graph.add_node(op, f"{value.name}_{op}", [value], attrs)
    for node in readers:
        node.replace_input(value, new)
    graph.sort()


def columns_first(graph: Graph) -> None:
    """Flatten each level by columns: right for no YOLOX, and invisible where H = W."""
    for node in graph.find("Reshape")[-3:]:
        behind(graph, node.inputs[0], "Transpose", perm=[0, 1, 3, 2])


def without_transpose(graph: Graph) -> None:
    """Cut (N, 8, A) anew into rows of 8, as `view(N, -1, 8)` does, instead of transposing it."""
    transpose = graph.find("Transpose")[-1]
    shape = graph.constant("rows", transpose.outputs[0].static_shape, np.int64)
    transpose.op, transpose.attrs, transpose.inputs = "Reshape", {}, [transpose.inputs[0], shape]


def classes_first(graph: Graph) -> None:
    for node in graph.find("Concat"):
        widths = [(value.shape or ())[1] for value in node.inputs if len(value.shape or ()) > 1]
        if widths == [4, 1, 3]:
            box, objectness, classes = node.inputs
            node.inputs = (classes, box, objectness)


def rows_for_columns(graph: Graph) -> None:
    """Add the row of a cell to x, its column to y."""
    for node in graph.find("Add"):
        grid = node.constant(1)
        if grid is not None and grid.ndim == 3 and grid.shape[-1] == 2:
            node.set_input(1, graph.constant("swapped", grid[..., ::-1].copy()))


@pytest.mark.parametrize(
    ("options", "mix_up", "told"),
    [
        ({}, columns_first, "one after the other"),
        ({"head": "decoded"}, columns_first, "one after the other"),
        ({}, without_transpose, "one after the other"),
        ({}, classes_first, "whose channels are not box"),
        ({"head": "decoded"}, rows_for_columns, "other cells or strides"),
    ],
)
def test_a_mixed_up_head_is_refused(
    options: dict[str, object], mix_up: Callable[[Graph], None], told: str
) -> None:
    graph = yolox(**options)
    read_spec(graph)
    mix_up(graph)
    onnx.checker.check_model(graph.to_model(), full_check=True)
    with pytest.raises(ModelError, match=told):
        read_spec(graph)


def test_a_level_by_columns_is_refused() -> None:
    graph = yolox(head="raw_levels", sigmoid=False)
    graph.outputs = [
        graph.add_node("Transpose", f"{v.name}_turned", [v], {"perm": [0, 1, 3, 2]})
        for v in graph.outputs
    ]
    with pytest.raises(ModelError, match="one after the other"):
        read_spec(graph)


def test_what_cannot_be_computed_is_let_through() -> None:
    graph = yolox()
    output = graph.outputs[0]
    unknown = Value("own", output.elem_type, output.shape)
    graph.opsets["own"] = 1
    graph.add_node("Own", "own", [output], domain="own", output=unknown)
    graph.outputs = [unknown]
    assert read_spec(graph).num_classes == 3


def test_a_huge_batch_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check leaves it out: it would take gigabytes for itself alone."""
    model = build_yolox(num_classes=3, width=0.125, height=64, width_px=64)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 100_000

    def refuse(*_: object) -> None:
        raise AssertionError("the head is computed")

    monkeypatch.setattr(anchor_order, "fold_constants", refuse)
    assert read_spec(model).batch == 100_000
