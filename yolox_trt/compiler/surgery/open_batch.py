# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""OpenBatch: a batch that is built in becomes any batch."""

from __future__ import annotations

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.batch import open_batch
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.model_graph import ModelGraph


class OpenBatch(SurgeryPass):
    """Open the first dimension of input and outputs, and write constants that named it for any.

    Every node is understood or refused (graph.batch): a graph that mixes images, drops the
    batch, or has an operator without a rule keeps its batch.
    """

    name = "open-batch"
    summary = "a fixed batch -> any batch (`--open-batch`; GPU, CPU)"

    def rewrite(self, graph: ModelGraph, log: PassLog) -> None:
        opened = Graph(graph.to_model())
        changes = open_batch(opened)
        if not changes:
            return
        graph.graph = ModelGraph(opened.to_model()).graph
        for change in changes:
            log.change(change)
