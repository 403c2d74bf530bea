# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Shapes of every tensor of an ONNX graph, with shape arithmetic worked out. Changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.optional import require
from yolox_trt.graph.model_graph import infer_shapes

if TYPE_CHECKING:
    import onnx

Shapes = dict[str, tuple[int | None, ...]]
Values = dict[str, npt.NDArray[Any]]

#: Constants up to this many elements take part in shape arithmetic.
_SMALL = 64
# fmt: off
_ARITHMETIC = frozenset({
    "Add", "Cast", "Ceil", "Concat", "Div", "Equal", "Floor", "Gather", "Identity", "Max", "Min",
    "Mul", "Neg", "ReduceProd", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where",

})
# fmt: on


def static_shapes(
    model: onnx.ModelProto, image: str, example_size: tuple[int, int]
) -> tuple[Shapes, Values]:
    """Return the shapes of a graph's tensors (None for an unknown dimension), and its constants.

    ONNX's own inference stops at a Reshape or Resize whose sizes are computed.

    Args:
        model: a graph without functions (it is not changed).
        image: name of the image input.
        example_size: (height, width) taken where the graph leaves them open.

    Returns:
        Shapes by tensor, and the values of Constant nodes by tensor.

    Raises:
        ModelError: the shapes contradict each other.
    """
    onnx_ = require("onnx", purpose="the model compiler")
    shadow = onnx_.ModelProto()
    shadow.CopyFrom(model)
    for value in shadow.graph.input:
        if value.name == image:
            dims = value.type.tensor_type.shape.dim[2:]
            for dim, example in zip(dims, example_size, strict=True):
                if not dim.dim_value:
                    dim.dim_value = example
                    for output in shadow.graph.output:
                        output.type.tensor_type.ClearField("shape")
    constants = {
        node.output[0]: constant_of(node) for node in model.graph.node if node.op_type == "Constant"
    }
    shapes: Shapes = {}
    while True:
        inferred = infer_shapes(shadow).graph
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            if value.type.tensor_type.HasField("shape"):
                shape = value.type.tensor_type.shape.dim
                shapes[value.name] = tuple(d.dim_value or None for d in shape)
        if not _fold(shadow, shapes, constants):
            break
    shapes.update((tensor.name, tuple(tensor.dims)) for tensor in model.graph.initializer)
    shapes.update((name, values.shape) for name, values in constants.items())
    return shapes, constants


def constant_of(node: onnx.NodeProto) -> npt.NDArray[Any]:
    """Return the value of a Constant node."""
    onnx_ = require("onnx", purpose="the model compiler")
    attribute = node.attribute[0]
    value = onnx_.helper.get_attribute_value(attribute)
    if isinstance(value, onnx_.TensorProto):
        return np.asarray(onnx_.numpy_helper.to_array(value))
    return np.asarray(value, np.float32 if attribute.name.startswith("value_float") else None)


def _fold(shadow: onnx.ModelProto, shapes: Shapes, constants: Values) -> bool:
    """Replace shape arithmetic of known values by initialisers; return whether there was any.

    Shapes behind it are only known then.
    """
    onnx_ = require("onnx", purpose="the model compiler")
    known = {
        tensor.name: onnx_.numpy_helper.to_array(tensor)
        for tensor in shadow.graph.initializer
        if np.prod(tensor.dims) <= _SMALL
    }
    known.update((name, value) for name, value in constants.items() if value.size <= _SMALL)
    kept, folded = [], []
    for node in shadow.graph.node:
        result = None
        if node.op_type == "Shape":
            shape = shapes.get(node.input[0])
            if shape is not None and None not in shape:
                result = _part(node, shape)
        elif node.op_type in _ARITHMETIC and all(name in known for name in node.input if name):
            result = _evaluate(shadow, node, known)
        if result is None:
            kept.append(node)
            continue
        known[node.output[0]] = result
        folded.append(onnx_.numpy_helper.from_array(result, node.output[0]))
    if not folded:
        return False
    del shadow.graph.node[:]
    shadow.graph.node.extend(kept)
    shadow.graph.initializer.extend(folded)
    shapes.update((tensor.name, tuple(tensor.dims)) for tensor in folded)
    return True


def _part(node: onnx.NodeProto, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    """Return what a Shape node gives (from opset 15 on it may be a part)."""
    limits = {attribute.name: attribute.i for attribute in node.attribute}
    return np.asarray(shape[limits.get("start") : limits.get("end")], np.int64)


def _evaluate(
    shadow: onnx.ModelProto, node: onnx.NodeProto, known: Values
) -> npt.NDArray[Any] | None:
    """Compute one node of shape arithmetic; None where ONNX's reference cannot."""
    onnx_ = require("onnx", purpose="the model compiler")
    reference = require("onnx.reference", purpose="the model compiler")
    names = list(dict.fromkeys(name for name in node.input if name))
    graph = onnx_.helper.make_graph(
        [node],
        "shapes",
        [onnx_.helper.make_empty_tensor_value_info(name) for name in names],
        [onnx_.helper.make_empty_tensor_value_info(node.output[0])],
    )
    model = onnx_.helper.make_model(graph, opset_imports=shadow.opset_import)
    try:
        (result,) = reference.ReferenceEvaluator(model).run(None, {n: known[n] for n in names})
    except Exception:  # an operator or opset that it lacks: the shape stays unknown
        return None
    return np.asarray(result)
