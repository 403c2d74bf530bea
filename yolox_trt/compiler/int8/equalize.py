# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Per-channel equalisation of the tensors that are quantised, exact in floating point.

One INT8 scale has to serve all channels of an activation. Where their ranges differ by orders of
magnitude (SiLU networks with depthwise convolutions above all), the small channels are left with
a few codes. Equalisation divides channel c of a layer's input by k[c] before it is quantised and
multiplies the layer's weights for that channel by k[c]:

    W * x = (W diag(k)) * (diag(1 / k) x)

Depthwise weights have a scale of their own for each channel, so k = the channel's range costs
them nothing. For other layers k trades the activation's error against the weights', as in
SmoothQuant (Xiao et al., 2022, equation 4): k[c] = amax(x[c])^alpha / amax(W[:, c])^(1 - alpha).

The division is a Mul with a constant (1, C, 1, 1) after the activation function. TensorRT fuses
it into the pointwise kernel of the activation (conv + SiLU + Mul + quantise); on the DLA it is a
per-channel Scale layer.

Where every tensor is quantised, it stands too late: the convolution's result x and the SiLU's own
are quantised before it. There the convolution's weights take 1 / k, and the Mul gives the sigmoid
what it had:

    x * sigmoid(x) / k = x' * sigmoid(k * x'), x' = x / k
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.int8.layers import weighted_layers
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node, Value, folded

#: Smallest factor above which a tensor is left alone: less than one bit would be won.
LEAST_FACTOR = 0.5

#: Largest ratio between two channels' factors: keeps float16 engines out of denormal numbers.
MAX_RATIO = 2.0**12


def equalize(
    graph: Graph,
    channel_amax: Mapping[str, npt.NDArray[np.float32]],
    *,
    alpha: float = 1.0,
    every_tensor: bool = False,
) -> tuple[Graph, dict[str, float]]:
    """Equalise the inputs of all convolutions.

    Args:
        graph: a float model.
        channel_amax: tensor name -> float32 (C,), largest magnitude of each channel over the
            calibration images (collect.collect_statistics gives them).
        alpha: 0 to 1 for layers that are not depthwise; 1 equalises the activation fully.
        every_tensor: whether every tensor will be quantised, not the inputs of layers alone.

    Returns:
        (a model that computes the same function; equalised tensor -> the alpha that it took, 1 for
        depthwise layers). The graph's own inputs are left alone.
    """
    graph = graph.copy()
    readers: dict[Value, list[Node]] = {}
    for node in weighted_layers(graph):
        tensor = node.inputs[0]
        if node.op == "Conv" and tensor.name in channel_amax and tensor not in graph.inputs:
            readers.setdefault(tensor, []).append(node)
    report: dict[str, float] = {}
    gated: list[tuple[Node, Node, npt.NDArray[np.float32]]] = []
    for tensor, nodes in readers.items():
        used_alpha = 1.0 if all(_is_depthwise(node) for node in nodes) else alpha
        factors = _factors(nodes, channel_amax[tensor.name], used_alpha)
        if factors is None:
            continue
        layers = _gated(tensor, nodes) if every_tensor else None
        if layers is not None:
            gated.append((*layers, factors.astype(np.float32)))
            divided = tensor
        else:
            divided = _multiplied(graph, tensor, 1.0 / factors, "equalize")
        for node in nodes:
            weights = node.weights()
            assert weights is not None
            shape = (-1, 1, 1, 1) if _is_depthwise(node) else (1, -1, 1, 1)
            scaled = weights * factors.astype(np.float32).reshape(shape)
            name = f"{node.inputs[1].name}_equalized"
            node.set_input(0, divided)
            node.set_input(1, graph.constant(name, scaled, weights.dtype))
        report[tensor.name] = used_alpha
    # Last, since they change what the factors of the layers before them are made of.
    for conv, sigmoid, divisor in gated:
        _divide_result(graph, conv, sigmoid, divisor)
    graph.sort()
    return graph, report


def _multiplied(graph: Graph, value: Value, factors: npt.NDArray[Any], name: str) -> Value:
    """Return a value times a factor a channel."""
    factors = factors.astype(np.float32).reshape(1, -1, 1, 1)
    name = f"{value.name}_{name}"
    return graph.add_node(
        "Mul",
        name,
        [value, graph.constant(f"{name}r", factors)],
        output=Value(graph.unused_name(f"{name}d")),
    )


def _gated(tensor: Value, readers: list[Node]) -> tuple[Node, Node] | None:
    """Return convolution and sigmoid where a tensor is a SiLU that nothing else reads."""
    product = tensor.producer
    if product is None or product.op != "Mul" or {*tensor.readers} != {*readers}:
        return None
    sigmoid = next((node for node in product.sources if node.op == "Sigmoid"), None)
    if sigmoid is None or tensor.is_output:
        return None
    result = sigmoid.inputs[0]
    conv = result.producer
    if result not in product.inputs or {*result.readers} != {sigmoid, product}:
        return None
    bias = None if conv is None else conv.input(2)
    if conv is None or conv.op != "Conv" or conv.weights() is None:
        return None
    return None if bias is not None and folded(bias) is None else (conv, sigmoid)


def _divide_result(
    graph: Graph, conv: Node, sigmoid: Node, factors: npt.NDArray[np.float32]
) -> None:
    """Divide a convolution's result by k in its weights, and give the sigmoid what it had."""
    weights, bias = conv.weights(), conv.input(2)
    assert weights is not None
    name = f"{conv.inputs[1].name}_divided"
    divided = weights / factors.reshape(-1, 1, 1, 1)
    conv.set_input(1, graph.constant(name, divided, weights.dtype))
    if bias is not None:
        values = folded(bias)
        assert values is not None
        conv.set_input(2, graph.constant(f"{bias.name}_divided", values / factors, values.dtype))
    sigmoid.set_input(0, _multiplied(graph, sigmoid.inputs[0], factors, "restore"))


def _is_depthwise(node: Node) -> bool:
    """Whether each input channel has a filter of its own, so that k only rescales filters."""
    weights, groups = node.weights(), node.attrs.get("group", 1)
    return weights is not None and groups > 1 and weights.shape[0] == groups


def _factors(
    nodes: list[Node], amax: npt.NDArray[np.float32], alpha: float
) -> npt.NDArray[np.float64] | None:
    """Return k (C,) with the largest at 1.0, or None where nothing can be won."""
    weight_amax = np.zeros(len(amax))
    for node in nodes:
        weights = node.weights()
        if weights is None or weights.ndim != 4:
            return None
        magnitude = np.abs(weights)
        if _is_depthwise(node):
            per_channel = magnitude.max(axis=(1, 2, 3))
        elif node.attrs.get("group", 1) == 1:
            per_channel = magnitude.max(axis=(0, 2, 3))
        else:
            return None  # grouped, not depthwise: k would have to be shared inside a group
        if len(per_channel) != len(amax):
            return None
        weight_amax = np.maximum(weight_amax, per_channel)
    activation = np.maximum(amax.astype(np.float64), 1e-5)
    factors = activation**alpha / np.maximum(weight_amax, 1e-5) ** (1.0 - alpha)
    factors = np.maximum(factors / factors.max(), 1.0 / MAX_RATIO)
    return None if factors.min() > LEAST_FACTOR else np.asarray(factors)
