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
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.graph.int8_graph import Graph, attribute

#: Smallest factor above which a tensor is left alone: less than one bit would be won.
LEAST_FACTOR = 0.5

#: Largest ratio between two channels' factors: keeps float16 engines out of denormal numbers.
MAX_RATIO = 2.0**12


@dataclass(frozen=True)
class EqualizedTensor:
    """One equalised tensor, for the report.

    Attributes:
        tensor: name of the activation.
        layers: names of the layers that read it.
        alpha: share of the range's ratio that the weights took over, 1 for depthwise.
        gain: largest over median channel range before, divided by the same after.
    """

    tensor: str
    layers: tuple[str, ...]
    alpha: float
    gain: float


def equalize(
    model: onnx.ModelProto,
    channel_amax: Mapping[str, npt.NDArray[np.float32]],
    *,
    alpha: float = 1.0,
    depthwise_only: bool = False,
) -> tuple[onnx.ModelProto, list[EqualizedTensor]]:
    """Equalise the inputs of all convolutions.

    Args:
        model: a float model.
        channel_amax: tensor name -> float32 (C,), largest magnitude of each channel over the
            calibration images (collect.collect_statistics gives them).
        alpha: 0 to 1 for layers that are not depthwise; 1 equalises the activation fully.
        depthwise_only: leave layers that are not depthwise as they are (fewer added nodes).

    Returns:
        (a model that computes the same function, one record for each equalised tensor). The
        graph's own inputs are left alone.

    Raises:
        ConfigurationError: alpha is not in 0..1.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ConfigurationError(f"alpha {alpha}", expected="0 to 1", fix="--alpha")
    graph = Graph(model)
    inputs = set(graph.inputs)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.weighted_nodes():
        tensor = node.input[0]
        if node.op_type == "Conv" and tensor in channel_amax and tensor not in inputs:
            readers.setdefault(tensor, []).append(node)
    divided: dict[str, str] = {}  # tensor -> its equalised form
    divisor_nodes: dict[str, onnx.NodeProto] = {}
    new_weights: dict[str, str] = {}  # a layer's output -> its new weights
    report = []
    for tensor, nodes in readers.items():
        depthwise = all(_is_depthwise(graph, node) for node in nodes)
        if depthwise_only and not depthwise:
            continue
        used_alpha = 1.0 if depthwise else alpha
        factors = _factors(graph, nodes, channel_amax[tensor], used_alpha)
        if factors is None:
            continue
        name = graph.unique(f"{tensor}_equalized")
        reciprocal = graph.add_constant(
            f"{tensor}_equalizer", (1.0 / factors).astype(np.float32).reshape(1, -1, 1, 1)
        )
        divided[tensor] = name
        divisor_nodes[tensor] = onnx.helper.make_node(
            "Mul", [tensor, reciprocal], [name], name=graph.unique(f"{name}_mul")
        )
        for node in nodes:
            weights = graph.weights(node)
            assert weights is not None
            shape = (-1, 1, 1, 1) if _is_depthwise(graph, node) else (1, -1, 1, 1)
            new_weights[node.output[0]] = graph.add_constant(
                f"{node.input[1]}_equalized",
                (weights * factors.astype(np.float32).reshape(shape)).astype(weights.dtype),
            )
        before = channel_amax[tensor]
        after = before / factors
        report.append(
            EqualizedTensor(
                tensor,
                tuple(node.name or node.output[0] for node in nodes),
                used_alpha,
                float(_spread(before) / _spread(after)),
            )
        )
    nodes_out: list[onnx.NodeProto] = []
    emitted: set[str] = set()
    for node in graph.nodes:
        if node.output[0] in new_weights:
            tensor = node.input[0]
            if tensor not in emitted:
                nodes_out.append(divisor_nodes[tensor])
                emitted.add(tensor)
            node.input[0] = divided[tensor]
            node.input[1] = new_weights[node.output[0]]
        nodes_out.append(node)
    graph.set_nodes(nodes_out)
    return graph.finish(), report


def _is_depthwise(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether each input channel has a filter of its own, so that k only rescales filters."""
    weights = graph.weights(node)
    groups = int(attribute(node, "group", 1))
    return weights is not None and groups > 1 and weights.shape[0] == groups


def _factors(
    graph: Graph,
    nodes: list[onnx.NodeProto],
    amax: npt.NDArray[np.float32],
    alpha: float,
) -> npt.NDArray[np.float64] | None:
    """Return k (C,) with the largest at 1.0, or None where nothing can be won."""
    weight_amax = np.zeros(len(amax))
    for node in nodes:
        weights = graph.weights(node)
        if weights is None or weights.ndim != 4:
            return None
        magnitude = np.abs(weights)
        if _is_depthwise(graph, node):
            per_channel = magnitude.max(axis=(1, 2, 3))
        elif int(attribute(node, "group", 1)) == 1:
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


def _spread(amax: npt.NDArray[np.floating]) -> float:
    return float(amax.max() / max(float(np.median(amax)), 1e-12))
