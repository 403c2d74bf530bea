# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Which nodes onnx must not look at before it is known what they read.

onnx notes the size of each axis of every tensor, and of vectors each value, which sizes may follow
from. Nodes that each join a tensor to itself double these again and again, what a Reshape makes has
as many axes as its target has values, and an image in one row is a vector, too: a file of 150 bytes
fills the memory. A Slice of a negative size, which a kernel larger than its image may make, ends
the process.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from yolox_trt.graph.protobuf import constant_tensor, inner_graphs

if TYPE_CHECKING:
    import onnx

_INT64 = 7  # onnx.TensorProto.INT64
#: Most axes of a tensor, as in NumPy, and most values of what may tell sizes.
MOST_AXES = 64
#: Operators through which onnx follows values; those of the first line do no harm without that.
HARMLESS = frozenset({"Add", "Cast", "Concat", "Mul", "Size", "Squeeze", "Sub"})
_FOLLOWED = HARMLESS | {"Gather", "Slice", "Unsqueeze"}
#: Operators whose result has as many axes as an input has values, and which input that is.
_SHAPED = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1}
#: Operators whose result may have the axes of both inputs, or one more than the input.
_JOINED, _STACKED = ("Gather", "GatherND"), ("Loop", "OneHot", "Scan")
#: Operators that make vectors as long as the longest that they read, or at most so.
_SAME = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Div", "Equal", "Floor", "Greater", "Identity", "Less",
    "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Sub", "Where",
})  # fmt: skip
_SHORTER = frozenset({"ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Slice", "Squeeze"})
#: Operators whose result has as many axes as an input at least.
_KEEPS = (_SAME | {
    "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "ConvTranspose",
    "DepthToSpace", "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "Expand", "Flatten",
    "GatherElements", "GlobalAveragePool", "GlobalMaxPool", "GridSample", "HardSigmoid",
    "HardSwish", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Log", "MaxPool",
    "Mish", "PRelu", "Pad", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Resize",
    "ScatterElements", "ScatterND", "Sigmoid", "Slice", "Softmax", "Softplus", "SpaceToDepth",
    "Split", "Sqrt", "Sum", "Tanh", "Tile", "TopK", "Transpose", "Upsample",
})  # fmt: skip


class _Bounds(NamedTuple):
    """What is known of a tensor before any shape is.

    Attributes:
        axes: it has at most.
        least_axes: it has.
        values: it has at most, where they may tell sizes; None where nothing is known.
        least_values: it has then.
        number: the value of a constant whole number.
    """

    axes: int = 0
    least_axes: int = 0
    values: int | None = None
    least_values: int = 0
    number: int | None = None

    @classmethod
    def of(cls, tensor: onnx.TensorProto) -> _Bounds:
        axes, count = len(tensor.dims), math.prod(tensor.dims)
        number = None
        if tensor.data_type == _INT64 and count == len(tensor.int64_data) == 1:
            number = tensor.int64_data[0]
        elif tensor.data_type == _INT64 and count == 1 and len(tensor.raw_data) == 8:
            number = int.from_bytes(tensor.raw_data, "little", signed=True)
        return cls(axes, axes, count, count, number)


def guarded_nodes(
    graph: onnx.GraphProto, around: ChainMap[str, _Bounds] | None = None
) -> Iterator[tuple[onnx.NodeProto, bool]]:
    """Yield the nodes that onnx may look at only where `is_safe`, and whether vectors are why.

    Args:
        graph: the graph.
        around: what is known around it, for a graph inside a node.
    """
    # What is left out is no vector.
    known = (around or ChainMap({"": _Bounds(0, 2)})).new_child()
    for info in (*graph.input, *graph.value_info):
        axes = len(info.type.tensor_type.shape.dim)  # 0 where it is not known
        known[info.name] = _Bounds(axes, axes)
    known.update((tensor.name, _Bounds.of(tensor)) for tensor in graph.initializer)
    for node in graph.node:
        read = [known.get(name, _Bounds()) for name in node.input]
        made = _made_by(node, read)
        inside = (each for inner in inner_graphs(node) for each in guarded_nodes(inner, known))
        vectors = node.op_type in _FOLLOWED and any(
            each.values is None and each.least_axes < 2 for each in read
        )
        grows = max(made.axes, made.values or 0) > MOST_AXES
        if node.op_type == "Slice" or vectors or grows or next(inside, None) is not None:
            yield node, vectors or grows
            values = None if made.values is None else min(made.values, MOST_AXES)
            made = made._replace(axes=min(made.axes, MOST_AXES), values=values)
        known.update(dict.fromkeys(node.output, made))


def _made_by(node: onnx.NodeProto, read: Sequence[_Bounds]) -> _Bounds:
    """Return what is known of what a node makes."""
    tensor = constant_tensor(node)
    if tensor is not None:
        return _Bounds.of(tensor)
    op, axes = node.op_type, max((each.axes for each in read), default=0)
    least = max((each.least_axes for each in read if each.axes), default=0)
    if op == "MatMul" and read:  # a matrix times a vector is one
        least = least if min(each.least_axes for each in read) > 1 else 0
    elif op.startswith("Reduce") and read:
        least = max(0, read[0].least_axes - _reduced(node, read))
    elif op not in _KEEPS:
        least = 0
    counts = [each.values for each in read if each.values is not None]
    lengths = [each.least_values for each in read]
    is_known = 0 < len(counts) == len(read)
    if op == "Shape":
        return _Bounds(1, 1, axes, read[0].least_axes if read else 0)
    if op == "Size":
        return _Bounds(0, 0, 1, 1)
    if op in _SHAPED:
        target = read[_SHAPED[op]] if len(read) > _SHAPED[op] else _Bounds()
        most = MOST_AXES + 1 if target.values is None else target.values
        return _Bounds(max(axes, most), max(least, target.least_values))
    if op in _JOINED:
        axes = max(0, sum(each.axes for each in read) - 1)
        least = max(0, sum(each.least_axes for each in read) - 1) if op == "Gather" else 0
        return _Bounds(axes, least, counts[-1], lengths[-1]) if is_known else _Bounds(axes, least)
    if op == "Unsqueeze" and read:
        given = max((len(attribute.ints) for attribute in node.attribute), default=0)
        more = read[1].values or 0 if len(read) > 1 else given
        return read[0]._replace(axes=read[0].axes + more)
    if not is_known or op not in (*_SAME, *_SHORTER, "Concat") or max(axes, 1) > 1:
        return _Bounds(axes + (op in _STACKED), least)
    if op == "Concat":
        return _Bounds(axes, least, sum(counts), sum(lengths))
    if op == "Slice" and (count := _cut(*read)) is not None:
        return _Bounds(axes, least, count, count)
    return _Bounds(axes, least, max(counts), max(lengths) if op in _SAME else 0)


def _reduced(node: onnx.NodeProto, read: Sequence[_Bounds]) -> int:
    """Return how many axes a reduction takes away at most."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if "keepdims" not in attributes or attributes["keepdims"].i:
        return 0
    given = len(attributes["axes"].ints) if "axes" in attributes else 0
    return given or (read[1].values if len(read) > 1 else None) or read[0].least_axes


def _cut(vector: _Bounds, *bounds: _Bounds) -> int | None:
    """Return how many values a Slice takes of a vector; None where that is not known."""
    numbers = [each.number for each in bounds if each.number is not None]
    if len(numbers) < len(bounds) or not 2 <= len(numbers) <= 4:
        return None
    step = numbers[3] if len(numbers) == 4 else 1
    if not step or vector.values is None or vector.values != vector.least_values:
        return None
    return len(range(vector.values)[numbers[0] : numbers[1] : step])


def is_safe(
    node: onnx.NodeProto,
    op: str,
    shapes: Mapping[str, Sequence[int | None]],
    longest: int | None,
) -> bool | None:
    """Whether onnx may look at a node; None where that is not known yet.

    Args:
        node: one of `guarded_nodes`, or any without a graph inside it.
        op: its operator.
        shapes: those that are known, None for an open size.
        longest: values of vectors that are followed through it; None where there is none too long.
    """
    if inner_graphs(node):
        return False
    read = [shapes.get(name) for name in node.input if name]
    if op == "Slice":
        read = read[:1]
    elif op in _SHAPED:
        read, longest = read[_SHAPED[op] :][:1], MOST_AXES
    known = [shape for shape in read if shape is not None]
    if not known or len(known) < len(read):
        return None
    axes = [len(shape) for shape in known]
    if (sum(axes) if op in _JOINED else max(axes)) >= MOST_AXES:
        return False
    if longest is None or op not in (*_FOLLOWED, *_SHAPED):
        return True
    lengths = [shape[0] for shape in known if len(shape) == 1]
    if sum(length or 0 for length in lengths) > longest:
        return False
    return None if None in lengths else True
