# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DivisionToProduct: divisions by constants as products."""

from __future__ import annotations

import numpy as np

from yolox_trt.compiler.surgery.surgery_pass import Rule
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Array, Node


class DivisionToProduct(Rule):
    """x / c -> x * (1 / c), for a constant c in floating point.

    Up to TensorRT 8.6 the DLA takes products and no divisions. PyTorch writes a hard swish with
    one, x * Clip(x + 3, 0, 6) / 6. Equal up to the rounding of 1 / c.
    """

    name = "div-to-mul"
    summary = "division by a constant -> product with its reciprocal"
    ops = ("Div",)

    def pattern(self, node: Node) -> Array | None:
        divisor = node.constant(1)
        return divisor if divisor is not None and divisor.dtype.kind == "f" else None

    def check(self, graph: Graph, node: Node, match: Array) -> str:
        with np.errstate(all="ignore"):
            return "" if np.isfinite(1 / match).all() else "its divisor has no reciprocal"

    def apply(self, graph: Graph, node: Node, match: Array) -> str:
        node.op = "Mul"
        node.set_input(1, graph.constant(f"{node.inputs[1].name}_reciprocal", 1 / match))
        return "division -> product"
