# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""merge_models: several models on one input as one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from yolox_trt.compiler.surgery.duplicate_merging import DuplicateMerging
from yolox_trt.core.errors import ModelError
from yolox_trt.core.optional import require
from yolox_trt.graph.model_graph import ModelGraph, load_model

if TYPE_CHECKING:
    import onnx


def merge_models(models: Mapping[str, str | Path | onnx.ModelProto]) -> onnx.ModelProto:
    """Merge models that take the same image into one graph with one input.

    Names of nodes, tensors and outputs get the model's key as a prefix (`lights/reg_8`); the
    metadata go under the same prefix. What the models compute alike (a shared backbone, the
    same stem) is computed once.

    Args:
        models: prefix -> model. The first one gives the input its name.

    Returns:
        The merged model.

    Raises:
        ModelError: inputs of different shape or type, opsets that differ, fewer than two models.
    """
    onnx_ = require("onnx", purpose="merging models")
    if len(models) < 2:
        raise ModelError(
            f"{len(models)} model to merge", expected="two or more", fix="name more models"
        )
    graphs = {key: ModelGraph(load_model(model)).to_model() for key, model in models.items()}
    first_key, first = next(iter(graphs.items()))
    image = _input(first_key, first)
    merged = onnx_.ModelProto()
    merged.CopyFrom(first)
    for field in ("node", "initializer", "output", "value_info", "input"):
        del getattr(merged.graph, field)[:]
    del merged.metadata_props[:]
    merged.graph.input.append(image)
    opsets = {o.domain: o.version for o in first.opset_import}
    for key, model in graphs.items():
        own = _input(key, model)
        if _comparable(own) != _comparable(image):
            raise ModelError(
                f"input of '{key}' is {_describe(own)}",
                expected=f"{_describe(image)}, as '{first_key}' has it",
                fix="bring both to one size first (optimize --input-size HxW --batch N)",
            )
        for opset in model.opset_import:
            given = opsets.setdefault(opset.domain, opset.version)
            if given != opset.version:
                raise ModelError(
                    f"opset {opset.version} of '{key}'",
                    expected=f"opset {given}, as '{first_key}' has it",
                    fix="export both with the same opset",
                )
            if all(o.domain != opset.domain for o in merged.opset_import):
                merged.opset_import.append(opset)
        prefixed = onnx_.compose.add_prefix(model, f"{key}/", rename_inputs=True)
        graph = prefixed.graph
        for node in graph.node:
            node.input[:] = [image.name if n == f"{key}/{own.name}" else n for n in node.input]
        for field in ("node", "initializer", "output"):
            getattr(merged.graph, field).extend(getattr(graph, field))
        for entry in model.metadata_props:
            new = merged.metadata_props.add()
            new.key, new.value = f"{key}/{entry.key}", entry.value
    merged.graph.name = "+".join(graphs)
    onnx_.checker.check_model(merged)
    return DuplicateMerging().run(merged).model


def _input(key: str, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    initializers = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in initializers]
    if len(inputs) != 1:
        raise ModelError(
            f"{len(inputs)} inputs of '{key}'", expected="one image input", fix="cut the others off"
        )
    return inputs[0]


def _comparable(value: onnx.ValueInfoProto) -> tuple[int, list[int]]:
    """Return element type and sizes, 0 for an open one: exporters name those as they like."""
    tensor = value.type.tensor_type
    return tensor.elem_type, [d.dim_value for d in tensor.shape.dim]


def _describe(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = "x".join(str(d.dim_value or d.dim_param or "?") for d in tensor.shape.dim)
    return f"{value.name} {dims} (type {tensor.elem_type})"
