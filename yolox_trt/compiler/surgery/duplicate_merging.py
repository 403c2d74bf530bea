# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DuplicateMerging: what is computed twice is computed once."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node, Value

_RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"})


class DuplicateMerging(SurgeryPass):
    """Nodes with the same operator, attributes and inputs (equal constants) -> one node.

    After models that share a backbone were merged, the backbone runs once.
    """

    name = "merge-duplicates"
    summary = "equal nodes on equal inputs -> one node"

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        graph.sort()
        seen: dict[tuple[Any, ...], Node] = {}
        merged = 0
        for node in graph.nodes:
            if node.op in _RANDOM or not node.outputs:
                continue
            key = _key(node)
            first = seen.setdefault(key, node)
            if first is node or any(value.is_output for value in node.outputs):
                continue
            for mine, theirs in zip(node.outputs, first.outputs, strict=True):
                graph.replace(mine, theirs)
            merged += 1
        if merged:
            log.change(f"{merged} duplicated nodes merged")


def _key(node: Node) -> tuple[Any, ...]:
    """Return what equal nodes have in common."""
    if node.has_graph:
        return (node,)
    inputs = tuple(_contents(value) for value in node.inputs)
    attrs = tuple(sorted((name, repr(value)) for name, value in node.attrs.items()))
    return node.op, node.domain, attrs, inputs, len(node.outputs)


def _contents(value: Value) -> tuple[Any, ...]:
    constant = value.values
    if constant is None:
        return (value.name,)
    digest = hashlib.sha256(np.ascontiguousarray(constant).tobytes()).hexdigest()
    return constant.dtype.str, constant.shape, digest
