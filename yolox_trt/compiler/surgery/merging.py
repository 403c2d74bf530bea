# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""merge_models: several models on one input as one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from yolox_trt.compiler.surgery.duplicate_merging import DuplicateMerging
from yolox_trt.core.errors import ModelError
from yolox_trt.engines.engine_file import open_model
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.inference import describe
from yolox_trt.graph.values import Value

if TYPE_CHECKING:
    import onnx


@refuses_damaged
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
    if len(models) < 2:
        raise ModelError(
            f"{len(models)} model to merge", expected="two or more", fix="name more models"
        )
    graphs = {key: open_model(model).copy() for key, model in models.items()}
    for graph in graphs.values():
        graph.upgrade()
        graph.infer_shapes()
    first_key, merged = next(iter(graphs.items()))
    image = _input(first_key, merged)
    for key, graph in graphs.items():
        own = _input(key, graph)
        if _comparable(own) != _comparable(image):
            raise ModelError(
                f"input of '{key}' is {_describe(own)}",
                expected=f"{_describe(image)}, as '{first_key}' has it",
                fix="bring both to one size first (optimize --input-size HxW --batch N)",
            )
        for domain, version in graph.opsets.items():
            given = merged.opsets.setdefault(domain, version)
            if given != version:
                raise ModelError(
                    f"opset {version} of '{key}'",
                    expected=f"opset {given}, as '{first_key}' has it",
                    fix="export both with the same opset",
                )
        _add_prefix(graph, f"{key}/")
        if graph is not merged:
            for node in own.readers:
                node.replace_input(own, image)
            merged.nodes += graph.nodes
            merged.outputs = (*merged.outputs, *graph.outputs)
            merged.metadata |= graph.metadata
    merged.name = "+".join(graphs)
    DuplicateMerging().run(merged)
    merged.check()
    return merged.to_model()


def _add_prefix(graph: Graph, prefix: str) -> None:
    """Prefix every name but that of the input."""
    for value in graph.values().values():
        if value not in graph.inputs:
            value.name = prefix + value.name
    for node in graph.nodes:
        node.name = prefix + node.name
    graph.metadata = {prefix + key: text for key, text in graph.metadata.items()}


def _input(key: str, graph: Graph) -> Value:
    if len(graph.inputs) != 1:
        raise ModelError(
            f"{len(graph.inputs)} inputs of '{key}'",
            expected="one image input",
            fix="cut the others off",
        )
    return graph.inputs[0]


def _comparable(value: Value) -> tuple[int, list[int]]:
    """Return element type and sizes, 0 for an open one: exporters name those as they like."""
    return value.elem_type, [d if isinstance(d, int) else 0 for d in value.shape or ()]


def _describe(value: Value) -> str:
    return f"{value.name} {describe(value.shape)} ({value.dtype})"
