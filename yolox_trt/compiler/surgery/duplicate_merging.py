# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DuplicateMerging: what is computed twice is computed once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.model_graph import ModelGraph

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"})


class DuplicateMerging(SurgeryPass):
    """Nodes with the same operator, attributes and inputs (equal constants) -> one node.

    After models that share a backbone were merged, the backbone runs once.
    """

    name = "merge-duplicates"
    summary = "equal nodes on equal inputs -> one node"

    def rewrite(self, graph: ModelGraph, log: PassLog) -> None:
        graph.toposort()
        seen: dict[tuple[Any, ...], gs.Node] = {}
        merged = 0
        for node in graph.nodes:
            if node.op in _RANDOM or not node.outputs:
                continue
            key = _key(graph, node)
            first = seen.setdefault(key, node)
            outputs = node.outputs
            if first is node or any(graph.is_output(t) for t in outputs):
                continue
            for mine, theirs in zip(list(outputs), list(first.outputs), strict=True):
                graph.replace_tensor(mine, theirs)
            merged += 1
        if merged:
            log.change(f"{merged} duplicated nodes merged")


def _key(graph: ModelGraph, node: gs.Node) -> tuple[Any, ...]:
    inputs = tuple(_contents(graph, tensor) or (tensor.name,) for tensor in node.inputs)
    attrs = tuple(sorted((k, _contents(graph, v) or repr(v)) for k, v in node.attrs.items()))
    return node.op, node.domain, attrs, inputs, len(node.outputs)


def _contents(graph: ModelGraph, value: Any) -> tuple[Any, ...] | None:
    """Return what tells a constant or graph from others, None for anything else."""
    if hasattr(value, "nodes"):
        return (id(value),)  # a graph inside is like no other
    constant = graph.constant_value(value)
    if constant is None:
        return None
    digest = hashlib.sha256(np.ascontiguousarray(constant).tobytes()).hexdigest()
    return constant.dtype.str, constant.shape, digest
