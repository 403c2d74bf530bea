# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What a Graph reads out of protobuf: constants, functions, and the names of inner graphs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.limits import LIMITS
from yolox_trt.core.optional import require

if TYPE_CHECKING:
    import onnx

_CONSTANT_FORMS = {"value": None, "value_float": np.float32, "value_floats": np.float32,
                   "value_int": np.int64, "value_ints": np.int64}  # fmt: skip


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the tensor of a Constant node; None for other nodes, texts and sparse tensors."""
    onnx_ = require("onnx", purpose="reading a model's graph")
    if node.op_type != "Constant" or not {a.name for a in node.attribute[:1]} & {*_CONSTANT_FORMS}:
        return None
    value = onnx_.helper.get_attribute_value(node.attribute[0])
    dtype = _CONSTANT_FORMS[node.attribute[0].name]
    return value if dtype is None else onnx_.numpy_helper.from_array(np.asarray(value, dtype))


def dense(sparse: onnx.SparseTensorProto, folder: Path | None) -> npt.NDArray[Any]:
    """Return the values of a sparse initialiser, zeros among them."""
    to_array = require("onnx.numpy_helper", purpose="the model's constants").to_array
    if math.prod(sparse.dims) > LIMITS.tensor_size:
        raise ValueError(f"constant '{sparse.values.name}' of size {list(sparse.dims)}")
    values, places = (to_array(t, str(folder or "")) for t in (sparse.values, sparse.indices))
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if places.ndim == 1:
        dense.ravel()[places] = values
    else:
        dense[tuple(places.T)] = values
    return dense


def check_texts(model: onnx.ModelProto) -> None:
    """Raise ValueError for a name that is no UTF-8, which protobuf hands over as bytes."""
    graph = model.graph
    texts = [
        graph.name,
        *(text for each in model.metadata_props for text in (each.key, each.value)),
    ]
    texts += [each.name for part in (graph.initializer, graph.input, graph.output) for each in part]
    for node in graph.node:
        texts += [node.op_type, node.name, node.domain, *node.input, *node.output]
        texts += [attribute.name for attribute in node.attribute]
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"the name {text!r:.80}, which is no UTF-8")


def check_graph(model: onnx.ModelProto) -> None:
    """Raise ValueError for names that are no text, and for nodes that are not of ONNX's form."""
    check_texts(model)
    versions = {o.domain: o.version for o in model.opset_import}
    version = versions.get("", versions.get("ai.onnx", 1))
    for node in model.graph.node:
        _check_node(node, version)


def _check_node(node: onnx.NodeProto, version: int) -> None:
    """Check inputs, outputs and attributes, of the nodes of graphs inside it, too.

    Operators that onnx does not know, or not in this version, pass: the runtime may know them.
    """
    defs = require("onnx", purpose="the model's nodes").defs
    where = f"node '{node.name}' ({node.op_type})"
    if node.domain in ("", "ai.onnx") and defs.has(node.op_type, ""):
        try:
            schema = defs.get_schema(node.op_type, version, "")
        except defs.SchemaError:
            return
        for what, count, least, most in (
            ("inputs", len(node.input), schema.min_input, schema.max_input),
            ("outputs", len(node.output), schema.min_output, schema.max_output),
        ):
            if not least <= count <= most:
                raise ValueError(f"{where} with {count} {what}, not {least} to {most}")
        given = {attribute.name: attribute.type for attribute in node.attribute}
        for name, attribute in schema.attributes.items():
            if attribute.required and name not in given:
                raise ValueError(f"{where} without its attribute {name}")
            if given.get(name) not in (None, 0, int(attribute.type)):
                raise ValueError(f"{where} with an attribute {name} of another type")
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            if node.op_type == "If" and inner.node and len(inner.output) != len(node.output):
                raise ValueError(f"{where} with a branch of {len(inner.output)} outputs")
            for each in inner.node:
                _check_node(each, version)


def check_functions(model: onnx.ModelProto) -> None:
    """Refuse functions that call each other in a circle, or stand for too many nodes."""
    # `overload` is there since onnx 1.16.
    functions = {(f.domain, f.name, getattr(f, "overload", "")): f.node for f in model.functions}
    sizes: dict[tuple[str, str, str], int] = {}

    def size(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        if depth > LIMITS.document_depth:
            raise ValueError(f"functions nested more than {LIMITS.document_depth} deep")
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type, getattr(node, "overload", ""))
            if key in functions and key not in sizes:
                sizes[key] = size(functions[key], depth + 1)
            total += sizes.get(key, 1)
        return total

    if size(model.graph.node, 0) > LIMITS.graph_nodes:
        raise ValueError(f"functions that stand for more than {LIMITS.graph_nodes} nodes")


def free_names(graph: onnx.GraphProto) -> list[str]:
    """Return the names that a graph inside a node reads from the graph around it."""
    own = {value.name for value in (*graph.input, *graph.initializer)}
    own.update(name for node in graph.node for name in node.output)
    read = [name for node in graph.node for name in node.input if name]
    read += [value.name for value in graph.output]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                read += free_names(inner)
    return [name for name in dict.fromkeys(read) if name not in own]
