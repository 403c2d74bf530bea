# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ActivationPatterns: SiLU and hard swish in the forms that TensorRT and the DLA take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.model_graph import ModelGraph

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


class ActivationPatterns(SurgeryPass):
    """Exporters' forms of SiLU -> x * Sigmoid(x); hard swish -> x * Clip(x + 3, 0, 6) / 6.

    TensorRT fuses Sigmoid + Mul with the convolution before; the DLA takes Sigmoid (in FP16) and
    Mul, but neither Exp nor HardSigmoid nor HardSwish. A hard swish becomes Add, Clip and two Mul,
    all of which it takes. HardSigmoid alone is Clip(alpha x + beta, 0, 1).
    """

    name = "activations"
    summary = "forms of SiLU -> Sigmoid + Mul; HardSwish, HardSigmoid -> Add, Clip, Mul"

    def rewrite(self, graph: ModelGraph, log: PassLog) -> None:
        counts = {"silu": 0, "hard swish": 0, "hard sigmoid": 0}
        for node in list(graph.graph.nodes):
            if node.op == "Swish" and node.attrs.get("alpha", 1.0) == 1.0:
                self._silu(graph, node, node.inputs[0])
                counts["silu"] += 1
            elif node.op in ("Div", "Mul") and (source := _exp_form(graph, node)) is not None:
                self._silu(graph, node, source)
                counts["silu"] += 1
            elif node.op == "HardSwish":
                self._hard_swish(graph, node, node.inputs[0])
                counts["hard swish"] += 1
            elif node.op == "Mul" and (source := _hard_swish_source(graph, node)) is not None:
                self._hard_swish(graph, node, source)
                counts["hard swish"] += 1
        # Those that were part of a hard swish have no reader any more.
        graph.toposort()
        for node in [n for n in graph.graph.nodes if n.op == "HardSigmoid"]:
            self._hard_sigmoid(graph, node)
            counts["hard sigmoid"] += 1
        for kind, count in counts.items():
            if count:
                log.change(f"{count} {kind} rewritten")
        plain = sum(is_silu(graph, n) for n in graph.graph.nodes)
        if plain:
            log.note(
                f"{plain} SiLU as Sigmoid + Mul: the DLA computes their sigmoids in FP16; a ReLU6 "
                "model has no such cost (it must be trained, see docs/training.md)"
            )

    @staticmethod
    def _silu(graph: ModelGraph, node: gs.Node, source: gs.Tensor) -> None:
        shape, dtype = source.shape, source.dtype
        gate = graph.add_node("Sigmoid", f"{node.name}_sigmoid", [source], dtype=dtype, shape=shape)
        result = graph.add_node("Mul", f"{node.name}_mul", [source, gate], dtype=dtype, shape=shape)
        graph.replace_tensor(node.outputs[0], result)

    @staticmethod
    def _hard_swish(graph: ModelGraph, node: gs.Node, source: gs.Tensor) -> None:
        shape, dtype = source.shape, source.dtype or np.float32
        base = node.name

        def op(kind: str, suffix: str, inputs: list[gs.Tensor]) -> gs.Tensor:
            return graph.add_node(kind, f"{base}_{suffix}", inputs, dtype=dtype, shape=shape)

        def scalar(suffix: str, value: float) -> gs.Tensor:
            return graph.constant(f"{base}_{suffix}", np.asarray(value, dtype))

        moved = op("Add", "add3", [source, scalar("three", 3.0)])
        gate = op("Clip", "clip", [moved, scalar("zero", 0.0), scalar("six", 6.0)])
        product = op("Mul", "gate", [source, gate])
        result = op("Mul", "sixth", [product, scalar("one_sixth", 1.0 / 6.0)])
        graph.replace_tensor(node.outputs[0], result)

    @staticmethod
    def _hard_sigmoid(graph: ModelGraph, node: gs.Node) -> None:
        source = node.inputs[0]
        shape, dtype = source.shape, source.dtype or np.float32
        alpha, beta = node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5)
        values = [
            graph.constant(f"{node.name}_{n}", np.asarray(v, dtype))
            for n, v in (("alpha", alpha), ("beta", beta), ("zero", 0.0), ("one", 1.0))
        ]
        x = graph.add_node("Mul", f"{node.name}_mul", [source, values[0]], dtype=dtype, shape=shape)
        x = graph.add_node("Add", f"{node.name}_add", [x, values[1]], dtype=dtype, shape=shape)
        inputs = [x, values[2], values[3]]
        result = graph.add_node("Clip", f"{node.name}_clip", inputs, dtype=dtype, shape=shape)
        graph.replace_tensor(node.outputs[0], result)


def is_silu(graph: ModelGraph, node: gs.Node) -> bool:
    """Whether a node is the Mul of x * Sigmoid(x)."""
    if node.op != "Mul" or len(node.inputs) != 2:
        return False
    for gate, source in (node.inputs, reversed(node.inputs)):
        producer = graph.producer(gate)
        if producer is not None and producer.op == "Sigmoid" and producer.inputs[0] is source:
            return True
    return False


def activation_behind(graph: ModelGraph, conv: gs.Node) -> str:
    """Return "silu", "relu6", "relu", "lrelu" or "" for what follows a convolution directly.

    The words are those of the metadata `yolox_trt.activation`.
    """
    readers = list({id(n): n for n in conv.outputs[0].outputs}.values())
    if any(is_silu(graph, n) for n in readers):
        return "silu"
    if len(readers) != 1:
        return ""
    node = readers[0]
    if node.op == "Clip":
        bounds = [graph.input_constant(node, i) for i in (1, 2)]
        values = [None if b is None else float(b.ravel()[0]) for b in bounds]
        return "relu6" if values == [0.0, 6.0] else ""
    return {"Relu": "relu", "LeakyRelu": "lrelu"}.get(node.op, "")


def _scalar(graph: ModelGraph, tensor: gs.Tensor) -> float | None:
    value = graph.constant_value(tensor)
    return float(value.ravel()[0]) if value is not None and value.size == 1 else None


def _exp_form(graph: ModelGraph, node: gs.Node) -> gs.Tensor | None:
    """Return x of x / (1 + exp(-x)), or of x * (1 / (1 + exp(-x))); None otherwise."""
    if node.op == "Div":
        return _gated(graph, node.inputs[0], node.inputs[1])
    for source, inverse in (node.inputs, reversed(node.inputs)):
        producer = graph.producer(inverse)
        if producer is None:
            continue
        if producer.op == "Reciprocal":
            return _gated(graph, source, producer.inputs[0])
        if producer.op == "Div" and _scalar(graph, producer.inputs[0]) == 1.0:
            return _gated(graph, source, producer.inputs[1])
    return None


def _gated(graph: ModelGraph, source: gs.Tensor, denominator: gs.Tensor) -> gs.Tensor | None:
    """Return `source` if `denominator` is 1 + exp(-source)."""
    add = graph.producer(denominator)
    if add is None or add.op != "Add":
        return None
    for one, power in (add.inputs, reversed(add.inputs)):
        exp = graph.producer(power)
        if _scalar(graph, one) != 1.0 or exp is None or exp.op != "Exp":
            continue
        negative = graph.producer(exp.inputs[0])
        if negative is None:
            return None
        if negative.op == "Neg" and negative.inputs[0] is source:
            return source
        if negative.op == "Mul":
            factors = [_scalar(graph, t) for t in negative.inputs]
            if -1.0 in factors and negative.inputs[1 - factors.index(-1.0)] is source:
                return source
    return None


def _hard_swish_source(graph: ModelGraph, node: gs.Node) -> gs.Tensor | None:
    """Return x of x * HardSigmoid(x) with slope 1/6 and offset 1/2; None otherwise."""
    for gate, source in (node.inputs, reversed(node.inputs)):
        producer = graph.producer(gate)
        if producer is None or producer.op != "HardSigmoid" or producer.inputs[0] is not source:
            continue
        slope, offset = producer.attrs.get("alpha", 0.2), producer.attrs.get("beta", 0.5)
        if abs(slope - 1.0 / 6.0) < 1e-6 and abs(offset - 0.5) < 1e-6:
            return source
    return None
