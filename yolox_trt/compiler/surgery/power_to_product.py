# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PowerToProduct: small whole powers as products."""

from __future__ import annotations

from yolox_trt.compiler.surgery.surgery_pass import Rule
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node, Value

#: Largest exponent: three products.
_LARGEST = 8


class PowerToProduct(Rule):
    """x ^ n -> x * x * ..., for a constant whole n from 1 to 8.

    x^2 = x * x, x^3 = x^2 * x, x^4 = x^2 * x^2, and so on by repeated squaring. Up to TensorRT 8.6
    the DLA takes products and no powers. YOLOv5 decodes its boxes' sizes with a square. Equal up to
    the rounding of each product.
    """

    name = "pow-to-mul"
    summary = "a small whole power -> products"
    ops = ("Pow",)

    def pattern(self, node: Node) -> int | None:
        exponents = node.constant(1)
        if exponents is None or not exponents.size:
            return None
        first = float(exponents.flat[0])
        rank = node.inputs[0].shape
        if exponents.ndim and (rank is None or exponents.ndim > len(rank)):
            return None  # it would give the result another rank
        if exponents.size != 1 or not first.is_integer() or not 1 <= first <= _LARGEST:
            return None
        return int(first)

    def apply(self, graph: Graph, node: Node, match: int) -> str:
        result: Value | None = None
        power, rest = node.inputs[0], match
        while rest:
            if rest % 2:
                name = f"{node.name}_product"
                result = power if result is None else graph.add_node("Mul", name, [result, power])
            rest //= 2
            if rest:
                power = graph.add_node("Mul", f"{node.name}_square", [power, power])
        assert result is not None
        graph.replace(node.outputs[0], result)
        return f"power of {match} -> products"
