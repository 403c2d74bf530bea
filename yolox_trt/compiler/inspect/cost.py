# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Cost of each node of a graph: operations, parameters, bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from yolox_trt.compiler.inspect.options import InspectOptions
from yolox_trt.core.errors import ModelError
from yolox_trt.core.option import options_of
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.inference import describe
from yolox_trt.graph.values import Array, Node, Value, folded


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

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel is its own group."""
        return self.groups > 1 and self.groups == self.input_shape[1]

    def bytes_moved(self, element_size: float) -> float:
        """Return bytes read and written with tensors and weights of that size, each once."""
        return (self.input_elements + self.output_elements + self.parameters) * element_size

    def intensity(self, element_size: float) -> float:
        """Return operations for each byte moved."""
        moved = self.bytes_moved(element_size)
        return self.flops / moved if moved else 0.0


def node_costs(graph: Graph) -> list[NodeCost]:
    """Return the cost of every node, in topological order.

    A convolution takes 2 Ho Wo Cin Kh Kw Cout / groups operations: TIER IV's
    2 H W Cin K K / S Cout with H, W at the input and S the product of both strides. Bias,
    normalisation, activation and pooling are not counted, as in YOLOX's own figures but for
    1 to 2 %.

    Raises:
        ModelError: sizes are open.
    """
    graph.infer_shapes()
    return [_cost(node) for node in graph.nodes]


def count_parameters(graph: Graph) -> int:
    """Return the weights of convolutions, matrix products and normalisations of a graph.

    Each constant counts once, however many nodes read it. Running statistics of a batch norm are
    not parameters (PyTorch calls them buffers).
    """
    seen = {
        value: constant.size
        for node in graph.nodes
        for value, constant in _parameters(node).items()
    }
    return sum(seen.values())


def _parameters(node: Node) -> dict[Value, Array]:
    """Return the inputs of a node that are its parameters, with what they hold."""
    last = {"MatMul": 1, "PRelu": 1, "Conv": 2, "ConvTranspose": 2, "Gemm": 2}.get(node.op, 0)
    last = 2 if node.op == "BatchNormalization" else last
    found = {value: folded(value) for value in node.inputs[1 : last + 1]}
    return {value: constant for value, constant in found.items() if constant is not None}


def _cost(node: Node) -> NodeCost:
    parameters = _parameters(node)
    variables = [value for value in node.variables if value not in parameters]
    shapes = []
    for value in [*variables, *node.outputs]:
        shape = value.static_shape
        if shape is None and node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            raise _open_size(node, value)
        shapes.append(shape or ())
    inputs, outputs = shapes[: len(variables)], shapes[len(variables) :]
    first_in = inputs[0] if inputs else ()
    first_out = outputs[0] if outputs else ()
    return NodeCost(
        node.name,
        node.op,
        _flops(node, first_in, first_out),
        sum(constant.size for constant in parameters.values()),
        sum(math.prod(s) for s in inputs if s),
        sum(math.prod(s) for s in outputs if s),
        first_in,
        first_out,
        _kernel(node),
        tuple(node.attrs.get("strides", ())) if node.op.startswith(("Conv", "Max", "Ave")) else (),
        int(node.attrs.get("group", 1)),
    )


def _open_size(node: Node, value: Value) -> ModelError:
    """Make the error of a tensor without a size; it names the operator that loses the size."""
    found = f"tensor '{value.name}' of size {describe(value.shape)}"
    while (source := _unsized(node)) is not None:
        node = source
    if all(v.static_shape is not None for v in node.variables):
        return ModelError(
            f"{found} behind '{node.name}' ({node.op}), whose result has a size that is not known",
            expected="operators of ONNX, with sizes that follow from the input's",
            fix="export the model without this operator",
        )
    declared = options_of(InspectOptions)
    return ModelError(
        found,
        expected="fixed sizes",
        fix=("set ", declared["input_size"], " and ", declared["batch"]),
    )


def _unsized(node: Node) -> Node | None:
    """Return a node that makes an input without a size."""
    sources = (value.producer for value in node.variables if value.static_shape is None)
    return next((source for source in sources if source is not None), None)


def _kernel(node: Node) -> tuple[int, ...]:
    if node.op in ("Conv", "ConvTranspose"):
        weights = node.weights()
        return () if weights is None else tuple(int(k) for k in weights.shape[2:])
    return tuple(node.attrs.get("kernel_shape", ()))


def _flops(node: Node, source: tuple[int, ...], result: tuple[int, ...]) -> int:
    weights = node.weights()
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
