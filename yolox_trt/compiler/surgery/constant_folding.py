# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ConstantFolding: compute at build time what does not depend on the image."""

from __future__ import annotations

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.shape_walk import fold_constants


class ConstantFolding(SurgeryPass):
    """Replace nodes that compute constants, shape arithmetic included, by their results."""

    name = "fold-constants"
    summary = "nodes that compute constants (Shape chains too) -> their results"

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        gone = fold_constants(graph)
        if gone:
            listed = ", ".join(f"{n} {op}" for op, n in sorted(gone.items()))
            log.change(f"folded {sum(gone.values())} nodes ({listed})")
