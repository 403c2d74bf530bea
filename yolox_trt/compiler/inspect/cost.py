# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Cost of each node of a graph: operations, parameters, bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yolox_trt.core.errors import ModelError
from yolox_trt.graph.model_graph import ModelGraph

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class NodeCost:
    """What one node costs for one run of the graph (its whole batch).

    Attributes:
        name: node name.
        op: ONNX operator.
        flops: floating-point operations, two for each multiply-add; convolutions and matrix
            products only, as the published figures count.
        parameters: weights and biases.
        input_elements: elements of its variable inputs.
        output_elements: elements of its outputs.
        input_shape: of its first variable input.
        output_shape: of its first output.
        kernel: (kh, kw) of convolutions and pools, else ().
        stride: likewise.
        groups: of convolutions, else 1.
    """

    name: str
    op: str
    flops: int
    parameters: int
    input_elements: int
    output_elements: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    groups: int = 1

    @property
    def gflops(self) -> float:
        """Flops / 1e9."""
        return self.flops / 1e9

    def bytes_moved(self, element_size: float) -> float:
        """Return bytes read and written with tensors and weights of that size, each once."""
        return (self.input_elements + self.output_elements + self.parameters) * element_size

    def intensity(self, element_size: float) -> float:
        """Return operations for each byte moved."""
        moved = self.bytes_moved(element_size)
        return self.flops / moved if moved else 0.0


def node_costs(graph: ModelGraph) -> list[NodeCost]:
    """Return the cost of every node, in topological order.

    A convolution takes 2 Ho Wo Cin Kh Kw Cout / groups operations: TIER IV's
    2 H W Cin K K / S Cout with H, W at the input and S the product of both strides. Bias,
    normalisation, activation and pooling are not counted, as in YOLOX's own figures but for
    1 to 2 %.

    Raises:
        ModelError: sizes are open.
    """
    graph.toposort()
    return [_cost(graph, node) for node in graph.nodes]


def count_parameters(graph: ModelGraph) -> int:
    """Return the weights of convolutions, matrix products and normalisations of a graph.

    Each constant counts once, however many nodes read it. Running statistics of a batch norm are
    not parameters (PyTorch calls them buffers).
    """
    seen: dict[int, int] = {}
    for node in graph.nodes:
        for index in _parameter_inputs(node):
            constant = graph.weights(node, index)
            if constant is not None:
                seen[id(node.inputs[index])] = constant.size
    return sum(seen.values())


def _parameter_inputs(node: gs.Node) -> range:
    last = {"MatMul": 1, "PRelu": 1, "Conv": 2, "ConvTranspose": 2, "Gemm": 2}.get(node.op, 0)
    last = 2 if node.op == "BatchNormalization" else last
    return range(1, min(last + 1, len(node.inputs)))


def _cost(graph: ModelGraph, node: gs.Node) -> NodeCost:
    weights = {
        id(node.inputs[i]) for i in _parameter_inputs(node) if graph.weights(node, i) is not None
    }
    variables = [
        t
        for t in node.inputs
        if graph.constant_value(t) is None and not t.is_empty() and id(t) not in weights
    ]
    shapes = []
    for tensor in [*variables, *node.outputs]:
        shape = graph.static_shape(tensor)
        if shape is None:
            if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
                shape = ()
            else:
                raise ModelError(
                    f"tensor '{tensor.name}' of size {tensor.shape}",
                    expected="fixed sizes",
                    fix="give `--input-size HxW` and `--batch N`",
                )
        shapes.append(shape)
    inputs, outputs = shapes[: len(variables)], shapes[len(variables) :]
    first_in = inputs[0] if inputs else ()
    first_out = outputs[0] if outputs else ()
    parameters = sum(
        c.size for i in _parameter_inputs(node) if (c := graph.weights(node, i)) is not None
    )
    return NodeCost(
        node.name,
        node.op,
        _flops(graph, node, first_in, first_out),
        parameters,
        sum(math.prod(s) for s in inputs if s),
        sum(math.prod(s) for s in outputs if s),
        first_in,
        first_out,
        _kernel(graph, node),
        tuple(node.attrs.get("strides", ())) if node.op.startswith(("Conv", "Max", "Ave")) else (),
        int(node.attrs.get("group", 1)),
    )


def _kernel(graph: ModelGraph, node: gs.Node) -> tuple[int, ...]:
    if node.op in ("Conv", "ConvTranspose"):
        weights = graph.weights(node)
        return () if weights is None else tuple(int(k) for k in weights.shape[2:])
    return tuple(node.attrs.get("kernel_shape", ()))


def _flops(
    graph: ModelGraph, node: gs.Node, source: tuple[int, ...], result: tuple[int, ...]
) -> int:
    weights = graph.weights(node)
    if node.op == "Conv" and weights is not None:
        # (Cout, Cin / groups, kh, kw): the product is what one output position takes.
        batch_and_space = result[0] * math.prod(result[2:])
        return 2 * batch_and_space * math.prod(weights.shape)
    if node.op == "ConvTranspose" and weights is not None:
        return 2 * source[0] * math.prod(source[2:]) * math.prod(weights.shape)
    if node.op in ("MatMul", "Gemm") and source and result:
        inner = source[0] if node.attrs.get("transA", 0) else source[-1]
        return 2 * math.prod(result) * inner
    return 0
