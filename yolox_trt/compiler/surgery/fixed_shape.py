# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""FixedShape: batch, height and width of the input become given numbers."""

from __future__ import annotations

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.fixed_size import fix_size
from yolox_trt.graph.graph import Graph


class FixedShape(SurgeryPass):
    """Set the input's dimensions and derive again every constant that was written for the old ones.

    A DLA takes static batches only: an open batch becomes 1 for it where none is asked for.
    """

    name = "fix-shape"
    summary = "fixed batch and H x W; constants of the old size derived again"

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        batch, given = self.options.batch, (graph.image.shape or [None])[0]
        if batch is None and self.options.target == "dla" and not isinstance(given, int):
            batch = 1
        log.changes += fix_size(graph, batch, *(self.options.fixed_size or (None, None)))
