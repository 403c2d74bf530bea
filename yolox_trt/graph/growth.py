# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Which nodes onnx must not look at before it is known what they read.

onnx notes the size of each axis of every tensor, and the values of those that sizes follow from.
Nodes that each join a tensor to itself double these again and again, and what a Reshape makes has
as many axes as its target has values: a file of 500 bytes fills the memory. A Slice of a negative
size, which a kernel larger than its image may make, ends the process.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from yolox_trt.graph.protobuf import constant_tensor, inner_graphs

if TYPE_CHECKING:
    import onnx

#: Most axes of a tensor, as in NumPy, and most values that onnx follows of one.
MOST_AXES = 64
#: Operators whose result has as many axes as an input has values, and which input that is.
_SHAPED = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1}
#: Operators whose result may have the axes of both inputs, or one more than the input.
_JOINED, _STACKED = ("Gather", "GatherND"), ("Loop", "OneHot", "Scan")
#: Operators that make of vectors none that is longer.
_SAME = frozenset({
    "Abs", "Add", "Cast", "Ceil", "Div", "Equal", "Floor", "Greater", "Identity", "Less", "Max",
    "Min", "Mod", "Mul", "Neg", "Not", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Slice",
    "Squeeze", "Sub", "Unsqueeze", "Where",
})  # fmt: skip


class _Most(NamedTuple):
    """What a tensor has at most: axes, and values where it may tell sizes (None: not known)."""

    axes: int = 0
    values: int | None = None


def guarded_nodes(
    graph: onnx.GraphProto, around: ChainMap[str, _Most] | None = None
) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that onnx may look at only where `is_safe`: Slices, and those that may grow.

    Args:
        graph: the graph.
        around: what is known around it, for a graph inside a node.
    """
    known = (around or ChainMap()).new_child()
    for info in (*graph.input, *graph.value_info):
        known[info.name] = _Most(len(info.type.tensor_type.shape.dim))
    for tensor in graph.initializer:
        known[tensor.name] = _Most(len(tensor.dims), math.prod(tensor.dims))
    for node in graph.node:
        made = _made_by(node, [known.get(name, _Most()) for name in node.input])
        inside = (each for inner in inner_graphs(node) for each in guarded_nodes(inner, known))
        if (
            node.op_type == "Slice"
            or max(made.axes, made.values or 0) > MOST_AXES
            or next(inside, None) is not None
        ):
            yield node
            made = _Most(min(made.axes, MOST_AXES), made.values and min(made.values, MOST_AXES))
        known.update(dict.fromkeys(node.output, made))


def _made_by(node: onnx.NodeProto, read: Sequence[_Most]) -> _Most:
    """Return what a node makes of what it reads, at most."""
    tensor = constant_tensor(node)
    if tensor is not None:
        return _Most(len(tensor.dims), math.prod(tensor.dims))
    op, axes = node.op_type, max((each.axes for each in read), default=0)
    counts = [each.values for each in read if each.values is not None]
    is_known = 0 < len(counts) == len(read)
    if op == "Shape":
        return _Most(1, axes)
    if op == "Size":
        return _Most(0, 1)
    if op in _SHAPED:
        target = read[_SHAPED[op]].values if len(read) > _SHAPED[op] else 0
        return _Most(max(axes, MOST_AXES + 1 if target is None else target))
    if op in _JOINED:
        return _Most(sum(each.axes for each in read), counts[-1] if is_known else None)
    if op == "Unsqueeze":
        given = max((len(attribute.ints) for attribute in node.attribute), default=0)
        axes += read[1].values or 0 if len(read) > 1 else given
    if op == "Concat":
        return _Most(axes, sum(counts) if is_known else None)
    return _Most(
        axes + (op in _STACKED), max(counts) if is_known and op in _SAME and axes < 2 else None
    )


def is_safe(
    node: onnx.NodeProto, op: str, shapes: Mapping[str, Sequence[int | None]]
) -> bool | None:
    """Whether onnx may look at a node; None where that is not known yet.

    Args:
        node: one of `guarded_nodes`, or any without a graph inside it.
        op: its operator.
        shapes: those that are known, None for an open size.
    """
    if inner_graphs(node):
        return False
    read = [shapes.get(name) for name in node.input]
    if op == "Slice":
        return True if read and read[0] is not None else None
    if op in _SHAPED:
        read = read[_SHAPED[op] :][:1]
    known = [shape for shape in read if shape is not None]
    if not known or len(known) < len(read):
        return None
    if op in (*_SHAPED, "Concat"):
        vectors = [shape for shape in known if op != "Concat" or len(shape) == 1]
        counts = [math.prod(size or 0 for size in shape) for shape in vectors]
        is_open = any(None in shape for shape in vectors)
        return False if sum(counts) > MOST_AXES else None if is_open else True
    axes = [len(shape) for shape in known]
    return (sum(axes) if op in _JOINED else max(axes)) < MOST_AXES
