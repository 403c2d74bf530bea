# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ActivationPatterns: SiLU and hard swish in the forms that TensorRT and the DLA take."""

from __future__ import annotations

from collections.abc import Iterator

from yolox_trt.compiler.surgery.hard_swish import hard_swish
from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node, Value


class ActivationPatterns(SurgeryPass):
    """Exporters' forms of SiLU -> x * Sigmoid(x); hard swish -> x * Clip(x + 3, 0, 6) / 6.

    TensorRT fuses Sigmoid + Mul with the convolution before; the DLA takes Sigmoid (in FP16) and
    Mul, but neither Exp nor HardSigmoid nor HardSwish. A hard swish, in whatever spelling (see
    surgery.hard_swish), becomes Add, Clip and two Mul, all of which it takes. HardSigmoid alone is
    Clip(alpha x + beta, 0, 1).
    """

    name = "activations"
    summary = "forms of SiLU -> Sigmoid + Mul; HardSwish, HardSigmoid -> Add, Clip, Mul"

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        counts = {"silu": 0, "hard swish": 0, "hard sigmoid": 0}
        for node in list(graph.nodes):
            if (source := _silu_source(node)) is not None:
                self._silu(graph, node, source)
                counts["silu"] += 1
            elif (found := hard_swish(node)) is not None:
                self._hard_swish(graph, *found)
                counts["hard swish"] += 1
        # Those that were part of a hard swish have no reader any more.
        graph.sort()
        for node in graph.find("HardSigmoid"):
            self._hard_sigmoid(graph, node)
            counts["hard sigmoid"] += 1
        for kind, count in counts.items():
            if count:
                log.change(f"{count} {kind} rewritten")
        plain = sum(silu_gate(n) is not None for n in graph.nodes)
        if plain:
            log.note(
                f"{plain} SiLU as Sigmoid + Mul: the DLA computes their sigmoids in FP16; a ReLU6 "
                "model has no such cost (it must be trained, see docs/training.md)"
            )

    @staticmethod
    def _silu(graph: Graph, node: Node, source: Value) -> None:
        gate = graph.add_node("Sigmoid", f"{node.name}_sigmoid", [source])
        graph.replace(node.outputs[0], graph.add_node("Mul", f"{node.name}_mul", [source, gate]))

    @staticmethod
    def _hard_swish(graph: Graph, node: Node, source: Value) -> None:
        name = node.name
        moved = graph.add_node("Add", f"{name}_add3", [source, 3.0])
        gate = graph.add_node("Clip", f"{name}_clip", [moved, 0.0, 6.0])
        product = graph.add_node("Mul", f"{name}_gate", [source, gate])
        graph.replace(node.outputs[0], graph.add_node("Mul", f"{name}_sixth", [product, 1.0 / 6.0]))

    @staticmethod
    def _hard_sigmoid(graph: Graph, node: Node) -> None:
        name, alpha, beta = node.name, node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5)
        x = graph.add_node("Mul", f"{name}_mul", [node.inputs[0], alpha])
        x = graph.add_node("Add", f"{name}_add", [x, beta])
        graph.replace(node.outputs[0], graph.add_node("Clip", f"{name}_clip", [x, 0.0, 1.0]))


def _operands(node: Node) -> Iterator[tuple[Node, Value]]:
    """Yield what makes each operand of a node with two, and the other operand."""
    if len(node.inputs) == 2:
        for made, other in (node.inputs, reversed(node.inputs)):
            if made.producer is not None:
                yield made.producer, other


def silu_gate(node: Node) -> Node | None:
    """Return the Sigmoid of x * Sigmoid(x), given its Mul; None for other nodes."""
    for gate, source in _operands(node) if node.op == "Mul" else ():
        if gate.op == "Sigmoid" and gate.inputs[0] is source:
            return gate
    return None


def activation_behind(conv: Node) -> str:
    """Return "silu", "relu6", "relu", "lrelu" or "" for what follows a convolution directly.

    The words are those of the metadata `yolox_trt.activation`.
    """
    readers = conv.outputs[0].readers
    if any(silu_gate(n) is not None for n in readers):
        return "silu"
    if len(readers) != 1:
        return ""
    node = readers[0]
    if node.op == "Clip":
        bounds = [node.constant(i) for i in (1, 2)]
        values = [None if b is None else float(b.ravel()[0]) for b in bounds]
        return "relu6" if values == [0.0, 6.0] else ""
    return {"Relu": "relu", "LeakyRelu": "lrelu"}.get(node.op, "")


def _scalar(tensor: Value) -> float | None:
    value = tensor.values
    return float(value.ravel()[0]) if value is not None and value.size == 1 else None


def _silu_source(node: Node) -> Value | None:
    """Return x of Swish(x), x / (1 + exp(-x)) or x * (1 / (1 + exp(-x))); None otherwise."""
    if node.op == "Swish" and node.attrs.get("alpha", 1.0) == 1.0:
        return node.inputs[0]
    if node.op == "Div":
        return _gated(node.inputs[0], node.inputs[1])
    for inverse, source in _operands(node) if node.op == "Mul" else ():
        if inverse.op == "Reciprocal":
            return _gated(source, inverse.inputs[0])
        if inverse.op == "Div" and _scalar(inverse.inputs[0]) == 1.0:
            return _gated(source, inverse.inputs[1])
    return None


def _gated(source: Value, denominator: Value) -> Value | None:
    """Return `source` if `denominator` is 1 + exp(-source)."""
    add = denominator.producer
    for exp, one in _operands(add) if add is not None and add.op == "Add" else ():
        negative = exp.source()
        if _scalar(one) != 1.0 or exp.op != "Exp" or negative is None:
            continue
        if negative.op == "Neg" and negative.inputs[0] is source:
            return source
        if negative.op == "Mul":
            factors = [_scalar(t) for t in negative.inputs]
            if -1.0 in factors and negative.inputs[1 - factors.index(-1.0)] is source:
                return source
    return None
