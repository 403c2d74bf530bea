# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What passes that fold arithmetic into convolutions have in common."""

from __future__ import annotations

import numpy as np

from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Array, Node


def per_channel(constant: Array | None, channels: int) -> Array | None:
    """Return a constant that holds one number for each channel of (N, C, H, W) as float64 (C,).

    Returns:
        None where it is missing or of another form.
    """
    if constant is None:
        return None
    shape = (1,) * (4 - constant.ndim) + constant.shape
    if len(shape) != 4 or shape[0] != 1 or shape[2:] != (1, 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(np.asarray(constant, np.float64).ravel(), (channels,))


def bias_of(conv: Node, channels: int) -> Array:
    """Return a convolution's bias as float64, zeros where it has none."""
    bias = conv.constant(2)
    return np.zeros(channels) if bias is None else np.asarray(bias, np.float64)


def set_weights(graph: Graph, conv: Node, weights: Array, bias: Array, suffix: str) -> None:
    """Give a convolution weights and a bias of its own, in the type of its present weights."""
    name, dtype = f"{conv.inputs[1].name}_{suffix}", conv.inputs[1].dtype
    conv.inputs = [
        conv.inputs[0],
        graph.constant(name, weights, dtype),
        graph.constant(f"{name}_bias", bias, dtype),
    ]
