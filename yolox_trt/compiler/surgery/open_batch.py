# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""OpenBatch: a batch that is built in becomes any batch."""

from __future__ import annotations

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.batch import open_batch
from yolox_trt.graph.graph import Graph


class OpenBatch(SurgeryPass):
    """Open the first dimension of input and outputs, and write constants that named it for any.

    Every node is understood or refused: a graph that mixes images, drops the batch, or has an
    operator without a rule keeps its batch.
    """

    name = "open-batch"
    summary = "a fixed batch -> any batch (`--open-batch`; GPU, CPU)"

    @property
    def is_wanted(self) -> bool:
        return self.options.open_batch

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        log.changes += open_batch(graph)
