# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The layers that INT8 is about: those with weights."""

from __future__ import annotations

from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node

#: Layers whose inputs TensorRT runs in INT8, with weights of their own.
WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

#: Per-channel Q/DQ needs this opset.
QDQ_OPSET = 13


def weighted_layers(graph: Graph) -> list[Node]:
    """Return the layers with constant weights, through Q/DQ and Cast nodes too, in order."""
    return [node for node in graph.find(*WEIGHTED_OPS) if node.weights() is not None]


def quantizable_inputs(graph: Graph) -> list[str]:
    """Return the tensors that layers with weights read: those that Q/DQ is placed on."""
    return list(dict.fromkeys(node.inputs[0].name for node in weighted_layers(graph)))
