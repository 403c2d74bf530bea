# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The layers that INT8 is about: those with weights."""

from __future__ import annotations

from yolox_trt.graph.graph import Graph
from yolox_trt.graph.head import Head
from yolox_trt.graph.values import Node, Value

#: Layers whose inputs TensorRT runs in INT8, with weights of their own.
WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

#: Activations that are computed in the kernel of the layer before them.
KERNEL_ACTIVATIONS = ("Clip", "LeakyRelu", "PRelu", "Relu")

#: Per-channel Q/DQ needs this opset.
QDQ_OPSET = 13


def weighted_layers(graph: Graph) -> list[Node]:
    """Return the layers with constant weights, through Q/DQ and Cast nodes too, in order."""
    return [node for node in graph.find(*WEIGHTED_OPS) if node.weights() is not None]


def quantizable_inputs(graph: Graph) -> list[str]:
    """Return the tensors that layers with weights read: those that Q/DQ is placed on."""
    return list(dict.fromkeys(node.inputs[0].name for node in weighted_layers(graph)))


def is_within_kernel(value: Value) -> bool:
    """Whether a value lies between a layer with weights and its activation, and in no memory."""
    layer, reader = value.producer, value.only_reader
    return (
        layer is not None
        and layer.op in WEIGHTED_OPS
        and reader is not None
        and reader.op in KERNEL_ACTIVATIONS
    )


def last_layers(graph: Graph) -> list[str]:
    """Return the names of the convolutions that give a graph's outputs."""
    return [conv.name for conv in Head(graph, (0, 0)).convs]
