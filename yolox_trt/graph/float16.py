# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""FP16 form of a graph, for TensorRT versions that take precisions from the graph.

ONNX Runtime's converter keeps chosen nodes in FP32 as well, but writes a graph with two nodes of
one name where two such nodes read the same tensor (seen in onnxruntime 1.31), as a decoded head's
do.
"""

from __future__ import annotations

import numpy as np

from yolox_trt.core.errors import ModelError
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.outputs import split_output
from yolox_trt.graph.values import Node, Value

#: Counts in the fingerprint of engines built from a converted graph: raise it when the same graph
#: is converted in another way.
REVISION = 1

_FLOAT, _FLOAT16 = 1, 10  # onnx.TensorProto.FLOAT, FLOAT16

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Inputs that stay FP32 whatever the node computes in: Resize's roi and scales.
_FP32_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
#: What makes a tensor of a type of its own, whatever it reads.
_GENERATORS = frozenset({
    "Bernoulli", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomNormalLike",
    "RandomUniform", "RandomUniformLike",
})  # fmt: skip
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_FP16_MAX = float(np.finfo(np.float16).max)


def computes_in_float16(graph: Graph) -> bool:
    """Tell whether a convolution gives FP16 (weights that are only stored in FP16 do not count)."""
    graph.infer_shapes()
    return any(node.outputs[0].elem_type == _FLOAT16 for node in graph.find(*_CONVOLUTIONS))


def nodes_before_heads(graph: Graph) -> set[Node]:
    """Return the nodes that are convolutions or lead to one.

    The others decode the head. In FP16, box coordinates above 1024 pixels have steps of a whole
    pixel; those nodes are few and cheap, so they stay in FP32.
    """
    chosen: set[Node] = set()
    for node in reversed(graph.nodes):
        later = (reader for value in node.outputs for reader in value.readers)
        if node.op in _CONVOLUTIONS or any(reader in chosen for reader in later):
            chosen.add(node)
    return chosen


def quantized_nodes(graph: Graph) -> set[Node]:
    """Return the Q/DQ nodes, and the convolutions that read a DequantizeLinear.

    These compute in INT8 and accumulate in 32 bits whatever the type around them, and their
    scales are FP32: small ones would vanish in FP16.
    """
    return {
        node
        for node in graph.nodes
        if node.op in _QUANTIZERS
        or (node.op in _CONVOLUTIONS and any(n.op == "DequantizeLinear" for n in node.sources))
    }


@refuses_damaged
def to_float16(graph: Graph, *, float16_input: bool = False, float16_outputs: bool = False) -> None:
    """Let a graph compute everything up to the last convolutions in FP16; INT8 stays as it is.

    Args:
        graph: an FP32 graph, which is changed (half way, where an error is raised).
        float16_input: the image input becomes FP16 (else it is cast in the graph).
        float16_outputs: the outputs become FP16 (else they are FP32).

    Raises:
        ModelError: the graph has branches (If, Loop) or a weight that FP16 cannot hold, or is not
            valid.
    """
    for node in graph.nodes:
        if node.has_graph:
            raise ModelError(
                f"node {node.name} ({node.op}) with a graph inside",
                expected="a graph without branches",
                fix="yolox_trt optimize MODEL, or build with --precision fp32",
            )
    graph.infer_shapes()
    generators = {node for node in graph.nodes if node.op in _GENERATORS}
    _Rewriter(graph, nodes_before_heads(graph) - quantized_nodes(graph) - generators).rewrite(
        float16_input=float16_input, float16_outputs=float16_outputs
    )
    try:
        graph.check()
    except ModelError as error:
        raise ModelError(
            f"a graph that is not valid in FP16 ({error.found})",
            expected="a graph that onnx's checker takes in FP32",
            fix="yolox_trt optimize MODEL, or build with --precision fp32",
        ) from error


class _Rewriter:
    """Rewrites the nodes of a graph, with as few casts as tensors that need one."""

    def __init__(self, graph: Graph, chosen: set[Node]) -> None:
        self._graph = graph
        self._chosen = chosen
        #: FP32 values as the graph had them; their elem_type changes on the way.
        self._floats = {v for v in graph.values().values() if v.elem_type == _FLOAT}
        self._cast: dict[tuple[Value, int], Value] = {}

    def rewrite(self, *, float16_input: bool, float16_outputs: bool) -> None:
        graph, outputs = self._graph, self._graph.outputs
        if float16_input:
            for value in self._floats.intersection(graph.inputs):
                value.elem_type = _FLOAT16
        for node in list(graph.nodes):
            kind = _FLOAT16 if node in self._chosen else _FLOAT
            fp32 = _FP32_INPUTS.get(node.op, ())
            node.inputs = [
                self._as(value, _FLOAT if index in fp32 else kind)
                for index, value in enumerate(node.inputs)
            ]
            if kind == _FLOAT16:
                if node.op == "Cast" and node.attrs["to"] == _FLOAT:
                    node.attrs["to"] = _FLOAT16
                for value in self._floats.intersection(node.outputs):
                    value.elem_type = _FLOAT16
        for value in (output for output in outputs if output in self._floats):
            self._fix_output(value, _FLOAT16 if float16_outputs else _FLOAT)
        graph.sort()

    def _as(self, value: Value, kind: int) -> Value:
        """Return a value in FP16 or FP32, cast if need be; other types stay."""
        if value not in self._floats or value.elem_type == kind:
            return value
        key = (value, kind)
        name = f"{value.name}_{'fp16' if kind == _FLOAT16 else 'fp32'}"
        if key not in self._cast and value.is_constant:
            values = value.values
            assert values is not None
            if values.size and not np.abs(values).max() <= _FP16_MAX:
                raise ModelError(
                    f"weight '{value.name}' with a magnitude of {np.abs(values).max():g}",
                    expected=f"at most {_FP16_MAX:g}, the largest FP16 number",
                    fix="build with --precision fp32",
                )
            self._cast[key] = self._graph.constant(name, values, np.float16)
        elif key not in self._cast:
            made = Value(self._graph.unused_name(name))
            self._graph.add_node("Cast", f"{name}_cast", [value], {"to": kind}, output=made)
            self._cast[key] = made
        return self._cast[key]

    def _fix_output(self, value: Value, kind: int) -> None:
        """Keep an output's name, with a cast before it where its type must change."""
        if value.elem_type == kind:
            return
        inner = split_output(self._graph, value, "inner")
        value.elem_type = kind
        name = f"{value.name}_to_output"
        self._graph.add_node("Cast", name, [inner], {"to": kind}, output=value)
