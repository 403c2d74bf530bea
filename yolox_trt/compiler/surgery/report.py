# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""SurgeryReport: a model before and after."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from yolox_trt.compiler.dla.linter import check
from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.compiler.inspect.cost import count_parameters, node_costs
from yolox_trt.compiler.surgery.surgery_pass import PassLog
from yolox_trt.core.errors import ModelError
from yolox_trt.graph.graph import Graph


@dataclass(frozen=True)
class GraphFigures:
    """Figures of one model.

    Attributes:
        operators: ONNX operator -> nodes.
        parameters: weights and biases.
        gflops: of one run, None where sizes are open.
        dla_nodes: nodes that a DLA takes.
        gpu_nodes: nodes that fall back.
        subgraphs: DLA loadables.
        transfers: tensors between GPU and DLA in each run, without the network's own input and
            outputs.
    """

    operators: dict[str, int]
    parameters: int
    gflops: float | None
    dla_nodes: int
    gpu_nodes: int
    subgraphs: int
    transfers: int

    @property
    def nodes(self) -> int:
        """All nodes."""
        return sum(self.operators.values())

    @classmethod
    def of(cls, graph: Graph, target: DlaTarget) -> GraphFigures:
        """Measure a graph."""
        try:
            gflops: float | None = sum(c.flops for c in node_costs(graph)) / 1e9
        except ModelError:
            gflops = None
        dla = check(graph, target)
        return cls(
            dict(Counter(n.op for n in graph.nodes).most_common()),
            count_parameters(graph),
            gflops,
            len(dla.dla_nodes),
            len(dla.fallback_nodes),
            len(dla.subgraphs),
            sum(not t.boundary for t in dla.transfers),
        )


@dataclass(frozen=True)
class SurgeryReport:
    """The whole surgery.

    Attributes:
        before: figures of the original.
        after: figures of the result.
        passes: in the order of their run.
        difference: max |after - before| / max |before| of the predictions (boxes, objectness,
            classes; the largest), None where it was not measured.
        not_measured: why, "" where it was.
    """

    before: GraphFigures
    after: GraphFigures
    passes: tuple[PassLog, ...]
    difference: float | None
    not_measured: str = ""
