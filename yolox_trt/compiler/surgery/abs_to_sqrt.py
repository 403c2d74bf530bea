# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""AbsToSqrt: magnitudes for compilers that have no Abs."""

from __future__ import annotations

from yolox_trt.compiler.surgery.surgery_pass import Rule
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node


class AbsToSqrt(Rule):
    """|x| -> Sqrt(x * x), where it is asked for.

    TensorRT and the DLA take Abs; other accelerators' compilers do not. Equal up to the rounding of
    the square for magnitudes from 1e-19 to 1e19 (float32): beyond, the square is 0 or infinite.
    """

    name = "abs-to-sqrt"
    summary = "Abs -> Sqrt of the square (`--replace-abs`; for compilers without Abs)"
    ops = ("Abs",)

    @property
    def is_wanted(self) -> bool:
        return self.options.replace_abs

    def pattern(self, node: Node) -> bool | None:
        kind = node.inputs[0].dtype
        return True if kind is not None and kind.kind == "f" else None

    def apply(self, graph: Graph, node: Node, match: bool) -> str:
        source = node.inputs[0]
        square = graph.add_node("Mul", f"{node.name}_square", [source, source])
        graph.replace(node.outputs[0], graph.add_node("Sqrt", f"{node.name}_sqrt", [square]))
        return "magnitude -> Sqrt of the square"
