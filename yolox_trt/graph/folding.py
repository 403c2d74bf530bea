# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Folding of what does not depend on the image, shape arithmetic included."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from yolox_trt.core.optional import require
from yolox_trt.graph.model_graph import ModelGraph

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

# A chain of shape arithmetic folds in one or two rounds; each round may make new shapes known.
_MAX_ROUNDS = 6


# Q/DQ around constant weights tell TensorRT their precision: they are not to be computed away.
_QUANTISATION = frozenset({"QuantizeLinear", "DequantizeLinear"})


def _is_quantisation(node: gs.Node) -> bool:
    return node.op in _QUANTISATION


def fold_once(graph: ModelGraph) -> bool:
    """Fold what the known shapes and constants allow; return whether any node went away."""
    count = len(graph.graph.nodes)
    # graphsurgeon evaluates with ONNX Runtime, which warns of every Unsqueeze it sees there.
    runtime = require("onnxruntime", purpose="folding constants")
    runtime.set_default_logger_severity(3)
    try:
        graph.graph.fold_constants(error_ok=True, should_exclude_node=_is_quantisation)
    finally:
        runtime.set_default_logger_severity(2)
    graph.toposort()
    return len(graph.graph.nodes) < count


def fold_constants(graph: ModelGraph) -> Counter[str]:
    """Fold until nothing changes, inferring shapes between rounds.

    Returns:
        Operators of the nodes that went away.
    """
    before = Counter(node.op for node in graph.graph.nodes)
    for _ in range(_MAX_ROUNDS):
        if not fold_once(graph):
            break
        graph.graph = ModelGraph(graph.to_model()).graph
    return before - Counter(node.op for node in graph.graph.nodes)
