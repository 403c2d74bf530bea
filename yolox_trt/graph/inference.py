# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What onnx works out of a graph: types and shapes of a whole model or of one node, and values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ModelError
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.optional import require
from yolox_trt.graph.growth import HARMLESS, MOST_AXES, guarded_nodes, is_safe
from yolox_trt.graph.protobuf import inner_graphs

if TYPE_CHECKING:
    import onnx

Shape = tuple[int | str | None, ...]

#: Put before the name of an operator that onnx shall not know.
_HIDDEN = "hidden "
#: Tensors up to this many elements take part in shape arithmetic (axes, sizes, scales).
SMALL = 64
#: Operators that NumPy computes in one go, for which onnx tells how much comes out.
_QUICK = frozenset({
    "Abs", "Add", "And", "BitShift", "Cast", "CastLike", "Ceil", "Clip", "Concat",
    "ConstantOfShape", "Cos", "CumSum", "Div", "Equal", "Exp", "Expand", "Flatten", "Floor",
    "Gather", "Greater", "GreaterOrEqual", "Identity", "IsInf", "IsNaN", "Less", "LessOrEqual",
    "Log", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Not", "OneHot", "Or", "Pad", "Pow",
    "Range", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "Relu", "Reshape", "Round", "Shape", "Sigmoid", "Sign", "Sin", "Size", "Slice",
    "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose", "Trilu",
    "Unsqueeze", "Where", "Xor",
})  # fmt: skip
#: Operators that onnx's reference computes element by element, or by more than that, and how many
#: elements are computed so. Windows (Conv, MaxPool, Resize) are left alone: a kernel costs as much
#: as it claims to be large.
_SLOW = frozenset({
    "ArgMax", "ArgMin", "Compress", "Erf", "EyeLike", "GatherElements", "GatherND", "Gemm",
    "HardSigmoid", "HardSwish", "MatMul", "NonZero", "ReverseSequence", "ScatterElements",
    "ScatterND", "TopK", "Unique",
})  # fmt: skip
_SLOW_SIZE = 1 << 14
#: The most rounds in which Slices are shown to onnx, and nodes that are looked at in all of them.
_ROUNDS, _LOOKS = 200, 400_000
#: Values of vectors that onnx follows through the guarded nodes of a model: 70 bytes each, twice.
_FOLLOWED_VALUES = 1 << 21


def infer_model(light: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return types and shapes of a model's tensors and outputs, through shape arithmetic too.

    Args:
        light: a model without its large weights: onnx serialises it for this.

    Raises:
        ModelError: the shapes contradict each other.
    """
    onnx_ = require("onnx", purpose="the model's shapes")
    # Each of them is shown to onnx when what it reads is known, and sound.
    hidden = _hide(light.graph)
    # Those that read an input of the model, or a constant, need no run of their own.
    shapes: dict[str, list[int | None]] = {t.name: [*t.dims] for t in light.graph.initializer}
    shapes |= _sound_shapes(light.graph.input)
    shown = [each for each in hidden if each.is_safe(shapes) or each.op in HARMLESS]
    # How long a vector may be tells a first run in which onnx follows no values.
    follows = all(each.is_safe(shapes) for each in shown)
    rounds = 1 + min(_ROUNDS, _LOOKS // max(1, len(light.graph.node)))
    while True:
        rounds -= 1
        for each in shown:
            each.node.op_type = each.op
        with ModelError.instead_of(
            Exception,  # onnx raises its own C++ errors, without a common base
            "a graph whose shapes cannot be inferred",
            expected="consistent shapes",
            fix="export the model again, or fix its input size (yolox_trt optimize MODEL "
            "--input-size HxW -o OUT)",
        ):
            inferred = onnx_.shape_inference.infer_shapes(light, data_prop=follows).graph
        found = [*inferred.value_info, *inferred.output]
        for info in (*found, *inferred.input):
            sizes = _sizes(info)
            if not all(map(is_sound, sizes)) or len(sizes) > MOST_AXES:
                axes = "" if len(sizes) <= MOST_AXES else f" and {len(sizes)} axes"
                raise ModelError(
                    f"tensor '{info.name}' of size {sizes[:MOST_AXES]}{axes}",
                    expected=f"sizes from 0 to {LIMITS.tensor_size}, and at most {MOST_AXES} axes",
                    fix="give another input size, or export the model again",
                )
        shapes |= _sound_shapes((*found, *inferred.input))
        if not follows:
            for each in hidden:
                each.node.op_type = f"{_HIDDEN}{each.op}"
        hidden = [each for each in hidden if each.node.op_type != each.op]
        shown = [each for each in hidden if each.is_safe(shapes)]
        if follows and not shown:  # where nothing tells the size, the type is passed on
            typed = {*shapes, *(info.name for info in found)}
            open_ = [each for each in hidden if each.is_safe(shapes) is None]
            shown = [each for each in open_ if not typed.isdisjoint(each.node.input[:1])]
        if follows and (not shown or not rounds):  # behind too many of them all stays unknown
            return found
        follows = True


class _Hidden(NamedTuple):
    """A node that onnx does not see yet.

    Attributes:
        node: the node.
        op: its operator.
        longest: values of the vectors that it may read, None for any number.
    """

    node: onnx.NodeProto
    op: str
    longest: int | None

    def is_safe(self, shapes: Mapping[str, Sequence[int | None]]) -> bool | None:
        return is_safe(self.node, self.op, shapes, self.longest)


def _hide(graph: onnx.GraphProto) -> list[_Hidden]:
    """Hide the nodes of a graph that onnx must not look at yet, and return them."""
    guarded = list(guarded_nodes(graph))
    longest = max(MOST_AXES, _FOLLOWED_VALUES // max(1, len(guarded)))
    hidden = [_Hidden(node, node.op_type, longest if long else None) for node, long in guarded]
    for each in hidden:
        each.node.op_type = f"{_HIDDEN}{each.op}"
    return hidden


def _sound_shapes(infos: Iterable[onnx.ValueInfoProto]) -> dict[str, list[int | None]]:
    """Return the shapes that are known, by name; None for an open size."""
    return {
        info.name: [
            each.dim_value if each.HasField("dim_value") else None
            for each in info.type.tensor_type.shape.dim
        ]
        for info in infos
        if info.type.tensor_type.HasField("shape") and all(map(is_sound, _sizes(info)))
    }


def _sizes(info: onnx.ValueInfoProto) -> list[int]:
    return [dimension.dim_value for dimension in info.type.tensor_type.shape.dim]


def infer_node(
    node: onnx.NodeProto,
    types: Mapping[str, tuple[int, Shape | None]],
    values: Mapping[str, npt.NDArray[Any]],
    opsets: Mapping[str, int],
) -> dict[str, tuple[int, Shape | None]]:
    """Return element type and shape of the outputs of one node, as far as onnx knows them.

    Args:
        node: the node.
        types: element type and shape of each of its inputs.
        values: those of its inputs that are known and small: targets, sizes, axes.
        opsets: version by operator domain.

    Returns:
        By output; {} for operators that onnx does not know and inputs that contradict each other.
    """
    onnx_ = require("onnx", purpose="the model's shapes")
    domain = "" if node.domain == "ai.onnx" else node.domain
    if any(not types[name][0] for name in node.input if name):
        return {}
    shapes = {
        name: [size if isinstance(size, int) else None for size in shape]
        for name, (_, shape) in types.items()
        if shape is not None
    }
    # Of a node alone onnx follows no values.
    if not inner_graphs(node) and is_safe(node, node.op_type, shapes, None) is False:
        return {}
    try:
        made = {n: onnx_.helper.make_tensor_type_proto(*types[n]) for n in node.input if n}
        data = {n: onnx_.numpy_helper.from_array(values[n], n) for n in node.input if n in values}
        imports = [onnx_.helper.make_opsetid(d, v) for d, v in opsets.items()]
        schema = onnx_.defs.get_schema(node.op_type, opsets.get(domain, 1), domain)
        found = onnx_.shape_inference.infer_node_outputs(
            schema, node, made, data, opset_imports=imports
        )
    except Exception:  # no schema, or C++ errors without a common base: nothing is known
        return {}
    read = {name: read_type(kind.tensor_type) for name, kind in found.items()}
    sizes = [size for _, shape in read.values() for size in shape or () if isinstance(size, int)]
    return read if all(map(is_sound, sizes)) else {}


def has_schema(op: str, domain: str) -> bool:
    """Whether onnx knows an operator."""
    return bool(require("onnx", purpose="the model's shapes").defs.has(op, domain))


def read_type(kind: onnx.TypeProto.Tensor) -> tuple[int, Shape | None]:
    """Return element type (0 where unknown) and shape of a tensor type; -1 is an open size."""
    if not kind.HasField("shape"):
        return kind.elem_type, None
    return kind.elem_type, tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value != -1 else d.dim_param or None
        for d in kind.shape.dim
    )


def evaluate(
    node: onnx.NodeProto,
    values: Mapping[str, npt.NDArray[Any]],
    opsets: Mapping[str, int],
    *,
    most: int = LIMITS.folded_bytes,
) -> list[npt.NDArray[Any]] | None:
    """Compute a node from the values of its inputs; None where that is too much.

    Too much for onnx's reference, or more than a model needs as constants.

    Args:
        node: the node.
        values: of its inputs.
        opsets: version by operator domain.
        most: bytes of its inputs and outputs.
    """
    onnx_ = require("onnx", purpose="folding constants")
    reference = require("onnx.reference", purpose="folding constants")
    make = onnx_.helper.make_empty_tensor_value_info
    names = list(dict.fromkeys(name for name in node.input if name))
    outputs = [name for name in node.output if name]
    number_of = onnx_.helper.np_dtype_to_tensor_dtype
    try:
        kinds = {name: (number_of(array.dtype), array.shape) for name, array in values.items()}
        small = {name: array for name, array in values.items() if is_small(array.shape)}
        inferred = infer_node(node, kinds, small, opsets)
        cost, most_values = sum(values[name].nbytes for name in names), 0
        for name in outputs:
            number, shape = inferred.get(name, (0, None))
            sizes = [size for size in shape or () if isinstance(size, int)]
            if node.op_type in _QUICK and (shape is None or len(sizes) < len(shape)):
                return None
            most_values = max(most_values, math.prod(sizes))
            cost += math.prod(sizes) * (np.dtype(_dtype_of(number)).itemsize if number else 8)
        most_values = max(most_values, *(values[name].size for name in names))
        texts = any(
            number == onnx_.TensorProto.STRING
            for number, _ in [*kinds.values(), *inferred.values()]
        )
        quick = node.op_type in _QUICK and not texts
        if not quick and (node.op_type not in _SLOW | _QUICK or most_values > _SLOW_SIZE):
            return None
        if cost > most or most_values > LIMITS.tensor_size:
            return None
        graph = onnx_.helper.make_graph(
            [node], "node", [make(name) for name in names], [make(name) for name in outputs]
        )
        imports = [onnx_.helper.make_opsetid(d, v) for d, v in opsets.items()]
        model = onnx_.helper.make_model(graph, opset_imports=imports)
        with np.errstate(all="ignore"):
            found = reference.ReferenceEvaluator(model).run(None, {n: values[n] for n in names})
        results = [np.asarray(value) for value in found]
        for result in results:
            number_of(result.dtype)
    except Exception:  # an operator, type or opset that it lacks
        return None
    return results


def _dtype_of(number: int) -> Any:
    return require("onnx.helper", purpose="folding constants").tensor_dtype_to_np_dtype(number)


def describe(shape: Sequence[int | str | None] | None) -> str:
    """Return a shape as a reader sees it: 1x3x?x640, "?" for what has no number and no name."""
    return "?" if shape is None else "x".join("?" if d is None else str(d) for d in shape)


def is_sound(size: int) -> bool:
    """Whether a number may be a tensor's size along one axis."""
    return 0 <= size <= LIMITS.tensor_size


def is_small(shape: Sequence[int]) -> bool:
    """Whether a tensor is small enough to take part in shape arithmetic."""
    return math.prod(shape) <= SMALL
