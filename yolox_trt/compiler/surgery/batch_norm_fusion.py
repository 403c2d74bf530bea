# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""BatchNormFusion: per-channel factors behind a convolution go into its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.model_graph import ModelGraph

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Array = npt.NDArray[Any]


class BatchNormFusion(SurgeryPass):
    """Convolution + BatchNormalization (or Mul / Add of one constant a channel) -> convolution.

    gamma (Wx + b - mean) / sqrt(var + eps) + beta is a convolution with the weights scaled by
    gamma / sqrt(var + eps) for each output channel. Computed in float64, so that what is left is
    the rounding of the new weights.
    """

    name = "fuse-batch-norm"
    summary = "Conv or ConvTranspose + BatchNormalization (or per-channel Mul, Add) -> one conv"

    def rewrite(self, graph: ModelGraph, log: PassLog) -> None:
        fused = 0
        for conv in [n for n in graph.graph.nodes if n.op in ("Conv", "ConvTranspose")]:
            while True:
                follower = graph.single_consumer(conv.outputs[0])
                if follower is None or graph.input_constant(conv, 1) is None:
                    break
                if len(conv.inputs) > 2 and graph.input_constant(conv, 2) is None:
                    break
                affine = _affine(graph, conv, follower)
                if affine is None:
                    break
                _scale(graph, conv, *affine)
                # The convolution takes over the follower's output, and with it its name.
                output = follower.outputs[0]
                follower.outputs.clear()
                conv.outputs = [output]
                fused += 1
        left = [n.name for n in graph.graph.nodes if n.op == "BatchNormalization" and n.outputs]
        if fused:
            log.change(f"fused {fused} per-channel operators into the convolutions before them")
        if left:
            log.note(f"{len(left)} BatchNormalization without a convolution before: {left[0]}...")


def _channels(graph: ModelGraph, conv: gs.Node) -> int:
    weights = graph.input_constant(conv, 1)
    assert weights is not None
    if conv.op == "Conv":
        return int(weights.shape[0])
    return int(weights.shape[1] * conv.attrs.get("group", 1))


def _affine(graph: ModelGraph, conv: gs.Node, node: gs.Node) -> tuple[Array, Array] | None:
    """Return factor and offset of each channel, float64 (C,), that a node applies; or None."""
    channels = _channels(graph, conv)
    if node.op == "BatchNormalization":
        values = [graph.input_constant(node, i) for i in range(1, 5)]
        if len(node.outputs) > 1 or node.attrs.get("training_mode", 0):
            return None
        if any(v is None for v in values):
            return None
        gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in values)
        factor = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
        return factor, beta - mean * factor
    if node.op not in ("Mul", "Add"):
        return None
    other = 1 if node.inputs[0] is conv.outputs[0] else 0
    constant = graph.input_constant(node, other)
    if constant is None or node.inputs[other] is node.inputs[1 - other]:
        return None
    array = np.asarray(constant, np.float64)
    shape = (1,) * (4 - array.ndim) + array.shape
    if len(shape) != 4 or shape[0] != 1 or shape[2:] != (1, 1) or shape[1] not in (1, channels):
        return None
    value = np.broadcast_to(array.ravel(), (channels,))
    one = np.ones(channels)
    return (value, 0 * one) if node.op == "Mul" else (one, value)


def _scale(graph: ModelGraph, conv: gs.Node, factor: Array, offset: Array) -> None:
    weights = graph.input_constant(conv, 1)
    assert weights is not None
    bias = graph.input_constant(conv, 2)
    if conv.op == "Conv":
        scaled = weights * factor.reshape(-1, 1, 1, 1)
    else:
        # (Cin, Cout / groups, kh, kw): the g-th block of rows makes the g-th block of outputs.
        groups = conv.attrs.get("group", 1)
        rows = weights.shape[0] // groups
        per_group = factor.reshape(groups, 1, -1, 1, 1).repeat(rows, 1)
        scaled = weights * per_group.reshape(weights.shape[0], -1, 1, 1)
    start = np.zeros(len(factor)) if bias is None else np.asarray(bias, np.float64)
    name = conv.inputs[1].name
    new_weights = graph.constant(f"{name}_fused", scaled.astype(weights.dtype))
    new_bias = graph.constant(f"{name}_fused_bias", (start * factor + offset).astype(weights.dtype))
    source = conv.inputs[0]
    conv.inputs = [source, new_weights, new_bias]
