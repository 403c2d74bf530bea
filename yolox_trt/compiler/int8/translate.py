# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Translation between explicit (Q/DQ) and implicit (calibration cache) INT8 models.

The DLA of JetPack 5 and 6 takes no Q/DQ, TensorRT 11 and TensorRT-RTX take nothing else. NVIDIA's
cuDLA-samples translate in one direction; here both are exact inverses on the scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.infer_ranges import infer_missing, unify_for_dla
from yolox_trt.compiler.int8.layers import weighted_layers
from yolox_trt.core.errors import ModelError
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node, Value, folded


@dataclass
class ImplicitModel:
    """An INT8 model in the form that calibration-based builders take.

    Attributes:
        graph: float model without Q/DQ.
        ranges: scales of the tensors that carried Q/DQ, and of inferred ones where asked for.
        explicit: names of the tensors that carried Q/DQ.
        keep_float: names of the layers that were not quantised: build them in FP16
            (layer precisions).
    """

    graph: Graph
    ranges: DynamicRanges
    explicit: tuple[str, ...]
    keep_float: tuple[str, ...]


@refuses_damaged
def remove_qdq(graph: Graph, *, for_dla: bool = False) -> ImplicitModel:
    """Turn a Q/DQ model into a float model, its scales and its layer precisions.

    Weights become what they dequantise to, so that TensorRT finds the same codes again.

    Args:
        graph: model with QuantizeLinear/DequantizeLinear.
        for_dla: infer the ranges of all other tensors and make equal those that the DLA wants
            equal.

    Raises:
        ModelError: no QuantizeLinear, zero points other than 0, per-channel activations, one
            tensor quantised with two scales, or a DequantizeLinear without a constant or
            QuantizeLinear before it.
    """
    graph = graph.copy()
    scales: dict[Value, np.float32] = {}
    kept = [
        node.name
        for node in weighted_layers(graph)
        if any(getattr(node.source(i), "op", "") != "DequantizeLinear" for i in (0, 1))
    ]
    for node in graph.find("DequantizeLinear"):
        _check_zero_point(node)
        output = node.outputs[0]
        weights = folded(output)
        if weights is not None:
            name = _weight_name(node.inputs[0].name)
            graph.replace(output, graph.constant(name, weights, np.float32))
            continue
        # Behind another pair it is the tensor in front of that one, which was replaced already.
        tensor, scale = _quantized_tensor(node)
        if scales.setdefault(tensor, scale) != scale:
            raise ModelError(
                f"tensor '{tensor.name}' quantised with scales {scales[tensor]} and {scale}",
                expected="one scale a tensor: a calibration cache holds one",
            )
        # An output keeps its name, by which a builder looks for its range.
        scales[graph.replace(output, tensor)] = scales.pop(tensor)
    graph.sort()
    ranges = DynamicRanges({value.name: scale for value, scale in scales.items()}, "qdq")
    explicit = tuple(ranges)
    if not explicit:
        raise ModelError(
            "a model without QuantizeLinear",
            expected="a Q/DQ model",
            fix="yolox_trt calibrate MODEL for a float model",
        )
    if for_dla:
        infer_missing(graph, ranges)
        unify_for_dla(graph, ranges, measured=explicit)
    return ImplicitModel(graph, ranges, explicit, tuple(kept))


def _quantized_tensor(node: Node) -> tuple[Value, np.float32]:
    """Return what a DequantizeLinear's QuantizeLinear reads, and their scale."""
    source, scale = node.source(), node.constant(1)
    if source is None or source.op != "QuantizeLinear" or scale is None:
        raise ModelError(
            f"DequantizeLinear '{node.name}' on '{node.inputs[0].name}'",
            expected="a constant, or a QuantizeLinear with a constant scale, before it",
        )
    tensor = source.inputs[0]
    if scale.size != 1:
        raise ModelError(
            f"activation '{tensor.name}' with {scale.size} scales",
            expected="one scale a tensor, as TensorRT takes activations",
            fix="yolox_trt quantize --equalize for channels of different ranges",
        )
    return tensor, np.float32(scale.reshape(-1)[0])


def _weight_name(name: str) -> str:
    for suffix in ("_int8", "_quantized", "_float"):
        name = name.removesuffix(suffix)
    return name


def _check_zero_point(node: Node) -> None:
    if node.input(2) is not None:
        zero = node.constant(2)
        if zero is None or np.any(zero != 0):
            raise ModelError(
                f"DequantizeLinear '{node.name}' with a zero point other than 0",
                expected="symmetric quantisation, the only kind that TensorRT takes",
                fix="quantise again with yolox_trt quantize MODEL",
            )
