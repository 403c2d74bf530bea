# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""BatchNormFusion: per-channel factors behind a convolution go into its weights."""

from __future__ import annotations

import numpy as np

from yolox_trt.compiler.surgery.convolutions import bias_of, per_channel, set_weights
from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Array, Node


class BatchNormFusion(SurgeryPass):
    """Convolution + BatchNormalization (or Mul / Add of one constant a channel) -> convolution.

    gamma (Wx + b - mean) / sqrt(var + eps) + beta is a convolution with the weights scaled by
    gamma / sqrt(var + eps) for each output channel. Computed in float64, so that what is left is
    the rounding of the new weights.
    """

    name = "fuse-batch-norm"
    summary = "Conv or ConvTranspose + BatchNormalization (or per-channel Mul, Add) -> one conv"

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        fused = 0
        for conv in graph.find("Conv", "ConvTranspose"):
            while True:
                follower = conv.outputs[0].only_reader
                if follower is None or conv.constant(1) is None:
                    break
                if len(conv.inputs) > 2 and conv.constant(2) is None:
                    break
                affine = _affine(conv, follower)
                if affine is None:
                    break
                _scale(graph, conv, *affine)
                # The convolution takes over the follower's output, and with it its name.
                output = follower.outputs[0]
                follower.outputs = ()
                conv.outputs = [output]
                fused += 1
        left = [n.name for n in graph.find("BatchNormalization") if n.outputs]
        if fused:
            log.change(f"fused {fused} per-channel operators into the convolutions before them")
        if left:
            log.note(f"{len(left)} BatchNormalization without a convolution before: {left[0]}...")


def _channels(conv: Node) -> int | None:
    """Return the channels that a convolution makes; None for groups that its weights have not."""
    weights, groups = conv.constant(1), int(conv.attrs.get("group", 1))
    assert weights is not None
    if conv.op == "Conv":
        return int(weights.shape[0])
    return int(weights.shape[1]) * groups if 0 < groups <= weights.shape[0] else None


def _affine(conv: Node, node: Node) -> tuple[Array, Array] | None:
    """Return factor and offset of each channel, float64 (C,), that a node applies; or None."""
    channels = _channels(conv)
    if channels is None:
        return None
    if node.op == "BatchNormalization":
        values = [node.constant(i) for i in range(1, 5)]
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
    value = per_channel(node.constant(other), channels)
    if value is None:
        return None
    one = np.ones(channels)
    return (value, 0 * one) if node.op == "Mul" else (one, value)


def _scale(graph: Graph, conv: Node, factor: Array, offset: Array) -> None:
    weights = conv.constant(1)
    assert weights is not None
    if conv.op == "Conv":
        scaled = weights * factor.reshape(-1, 1, 1, 1)
    else:
        # (Cin, Cout / groups, kh, kw): the g-th block of rows makes the g-th block of outputs.
        groups = conv.attrs.get("group", 1)
        rows = weights.shape[0] // groups
        per_group = factor.reshape(groups, 1, -1, 1, 1).repeat(rows, 1)
        scaled = weights * per_group.reshape(weights.shape[0], -1, 1, 1)
    set_weights(graph, conv, scaled, bias_of(conv, len(factor)) * factor + offset, "fused")
