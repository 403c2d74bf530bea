# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What onnx works out of a graph: types and shapes of a whole model or of one node, and values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ModelError
from yolox_trt.core.optional import require

if TYPE_CHECKING:
    import onnx

Shape = tuple[int | str | None, ...]

#: Tensors up to this many elements take part in shape arithmetic (axes, sizes, scales).
SMALL = 64


def infer_model(light: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return types and shapes of a model's tensors and outputs, through shape arithmetic too.

    Args:
        light: a model without its large weights: onnx serialises it for this.

    Raises:
        ModelError: the shapes contradict each other.
    """
    onnx_ = require("onnx", purpose="the model's shapes")
    with ModelError.instead_of(
        Exception,  # onnx raises its own C++ errors, without a common base
        "a graph whose shapes cannot be inferred",
        expected="consistent shapes",
        fix="export the model again, or fix its input size (yolox_trt optimize MODEL "
        "--input-size HxW -o OUT)",
    ):
        inferred = onnx_.shape_inference.infer_shapes(light, data_prop=True).graph
    return [*inferred.value_info, *inferred.output]


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
    made = {name: onnx_.helper.make_tensor_type_proto(*types[name]) for name in node.input if name}
    data = {
        name: onnx_.numpy_helper.from_array(values[name], name)
        for name in node.input
        if name in values
    }
    imports = [onnx_.helper.make_opsetid(d, v) for d, v in opsets.items()]
    try:
        schema = onnx_.defs.get_schema(node.op_type, opsets.get(domain, 1), domain)
        found = onnx_.shape_inference.infer_node_outputs(
            schema, node, made, data, opset_imports=imports
        )
    except Exception:  # no schema, or C++ errors without a common base: nothing is known
        return {}
    return {name: read_type(kind.tensor_type) for name, kind in found.items()}


def read_type(kind: onnx.TypeProto.Tensor) -> tuple[int, Shape | None]:
    """Return element type (0 where unknown) and shape of a tensor type."""
    if not kind.HasField("shape"):
        return kind.elem_type, None
    return kind.elem_type, tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim
    )


def evaluate(
    node: onnx.NodeProto, values: Mapping[str, npt.NDArray[Any]], opsets: Mapping[str, int]
) -> list[npt.NDArray[Any]] | None:
    """Compute a node from the values of its inputs; None where onnx's reference cannot."""
    onnx_ = require("onnx", purpose="folding constants")
    reference = require("onnx.reference", purpose="folding constants")
    make = onnx_.helper.make_empty_tensor_value_info
    names = list(dict.fromkeys(name for name in node.input if name))
    outputs = [name for name in node.output if name]
    graph = onnx_.helper.make_graph(
        [node], "node", [make(name) for name in names], [make(name) for name in outputs]
    )
    imports = [onnx_.helper.make_opsetid(d, v) for d, v in opsets.items()]
    model = onnx_.helper.make_model(graph, opset_imports=imports)
    try:
        with np.errstate(all="ignore"):
            found = reference.ReferenceEvaluator(model).run(None, {n: values[n] for n in names})
    except Exception:  # an operator or opset that it lacks
        return None
    return [np.asarray(value) for value in found]


def describe(shape: Sequence[int | str | None] | None) -> str:
    """Return a shape as a reader sees it: 1x3x?x640, "?" for what has no number and no name."""
    return "?" if shape is None else "x".join("?" if d is None else str(d) for d in shape)


def is_small(shape: Sequence[int]) -> bool:
    """Whether a tensor is small enough to take part in shape arithmetic."""
    return math.prod(shape) <= SMALL
