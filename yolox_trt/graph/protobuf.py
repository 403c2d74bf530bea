# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What a Graph reads out of protobuf: constants, functions, and the names of inner graphs."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
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


def inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs inside a node: the branches of an If, the body of a Loop."""
    return [
        inner
        for attribute in node.attribute
        for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs)
    ]


def dense(sparse: onnx.SparseTensorProto, folder: Path | None) -> npt.NDArray[Any]:
    """Return the values of a sparse initialiser that check_graph() let pass, zeros among them."""
    to_array = require("onnx.numpy_helper", purpose="the model's constants").to_array
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


@dataclass(frozen=True)
class _Form:
    """What ONNX says of an operator in one version.

    Attributes:
        counts: least and most of its inputs, and of its outputs.
        types: element types of each input, by their names in ONNX ("tensor(int64)").
        repeats: whether the last of them stands for all that follow.
        attributes: whether it is required, and its type, by name.
    """

    counts: dict[str, tuple[int, int]]
    types: tuple[frozenset[str], ...]
    repeats: bool
    attributes: dict[str, tuple[bool, int]]


@cache
def _form(op: str, version: int) -> _Form | None:
    """Return the form of an operator; None where onnx does not know it, or not in this version."""
    defs = require("onnx", purpose="the model's nodes").defs
    try:
        schema = defs.get_schema(op, version, "")
    except defs.SchemaError:
        return None
    last = schema.inputs[-1:]
    return _Form(
        {
            "inputs": (schema.min_input, schema.max_input),
            "outputs": (schema.min_output, schema.max_output),
        },
        tuple(frozenset(each.types) for each in schema.inputs),
        bool(last) and last[0].option == defs.OpSchema.FormalParameterOption.Variadic,
        {name: (bool(a.required), int(a.type)) for name, a in schema.attributes.items()},
    )


def check_graph(model: onnx.ModelProto) -> None:
    """Raise ValueError for names that are no text, and for what is not of ONNX's form, or large."""
    check_texts(model)
    versions = {o.domain: o.version for o in model.opset_import}
    _check_nodes(model.graph, versions.get("", versions.get("ai.onnx", 1)), ChainMap(), _Sparse())


class _Sparse:
    """Adds up what a model's sparse tensors take once they are written out, wherever they stand."""

    def __init__(self) -> None:
        self._bytes = 0

    def check(self, tensor: onnx.SparseTensorProto) -> None:
        """Raise ValueError for one that is too large, or too many in all."""
        values = math.prod(tensor.dims)
        if not (min(tensor.dims, default=0) >= 0 and values <= LIMITS.tensor_size):
            raise ValueError(f"constant '{tensor.values.name}' of size {list(tensor.dims)}")
        helper = require("onnx.helper", purpose="the model's constants")
        self._bytes += values * helper.tensor_dtype_to_np_dtype(tensor.values.data_type).itemsize
        if self._bytes > LIMITS.folded_bytes:
            raise ValueError(f"sparse constants of more than {LIMITS.folded_bytes} bytes")


def _check_nodes(
    graph: onnx.GraphProto, version: int, constants: ChainMap[str, int], sparse: _Sparse
) -> None:
    """Check the nodes of a graph, and of those inside them.

    Args:
        graph: the graph.
        version: of the operators.
        constants: element types of the constants around it, by name.
        sparse: adds up the sparse tensors.
    """
    constants = constants.new_child({t.name: t.data_type for t in graph.initializer})
    for tensor in graph.initializer:
        _check_tensor(tensor)
    for each in graph.sparse_initializer:
        sparse.check(each)
    for node in graph.node:
        constant = constant_tensor(node)
        if constant is not None:
            _check_tensor(constant)
            constants[node.output[0]] = constant.data_type
        form = _form(node.op_type, version) if node.domain in ("", "ai.onnx") else None
        if form is not None:
            _check_node(node, form, constants)
        for attribute in node.attribute:
            for each in attribute.sparse_tensors:
                sparse.check(each)
            if attribute.HasField("sparse_tensor"):
                sparse.check(attribute.sparse_tensor)
        for inner in inner_graphs(node):
            if node.op_type == "If" and inner.node and len(inner.output) != len(node.output):
                raise ValueError(
                    f"node '{node.name}' (If) with a branch of {len(inner.output)} outputs"
                )
            _check_nodes(inner, version, constants, sparse)


def _check_tensor(tensor: onnx.TensorProto) -> None:
    """Refuse a constant that says of itself that it is larger than what the file holds of it.

    onnx's shape inference takes the memory before it looks. No value takes less than four bits.
    """
    values = math.prod(tensor.dims)
    if not tensor.data_location and not 0 <= values <= 2 * tensor.ByteSize():
        raise ValueError(
            f"constant '{tensor.name}' of {values} values in {tensor.ByteSize()} bytes"
        )


def _check_node(node: onnx.NodeProto, form: _Form, constants: ChainMap[str, int]) -> None:
    where = f"node '{node.name}' ({node.op_type})"
    for what, given in (("inputs", node.input), ("outputs", node.output)):
        least, most = form.counts[what]
        if not least <= len(given) <= most:
            raise ValueError(f"{where} with {len(given)} {what}, not {least} to {most}")
    kinds = {attribute.name: attribute.type for attribute in node.attribute}
    for name, (required, kind) in form.attributes.items():
        if required and name not in kinds:
            raise ValueError(f"{where} without its attribute {name}")
        if kinds.get(name) not in (None, 0, kind):
            raise ValueError(f"{where} with an attribute {name} of another type")
    names = require("onnx", purpose="the model's nodes").TensorProto.DataType
    for index, name in enumerate(node.input):
        at = min(index, len(form.types) - 1) if form.repeats else index
        if not name and form.repeats and index >= len(form.types) - 1:
            # ONNX Runtime reads it all the same, and ends the process.
            raise ValueError(f"{where} without its input {index}, none of which can be left out")
        if name in constants and at < len(form.types):
            found = f"tensor({names.Name(constants[name]).lower()})"
            if found not in form.types[at]:
                raise ValueError(f"{where} with a constant '{name}', a {found}, as input {index}")


def check_functions(model: onnx.ModelProto) -> None:
    """Refuse too many nodes, with the functions written out, also those that call one another.

    Raises:
        ValueError: more than a limit, or functions nested too deep, as in a circle.
    """
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
            for inner in inner_graphs(node):
                total += size(inner.node, depth + 1)
        return total

    if size(model.graph.node, 0) > LIMITS.graph_nodes:
        raise ValueError(f"more than {LIMITS.graph_nodes} nodes, its functions written out")


def free_names(graph: onnx.GraphProto) -> list[str]:
    """Return the names that a graph inside a node reads from the graph around it."""
    own = {value.name for value in (*graph.input, *graph.initializer)}
    own.update(name for node in graph.node for name in node.output)
    read = [name for node in graph.node for name in node.input if name]
    read += [value.name for value in graph.output]
    for node in graph.node:
        for inner in inner_graphs(node):
            read += free_names(inner)
    return [name for name in dict.fromkeys(read) if name not in own]
