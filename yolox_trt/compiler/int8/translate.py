# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Translation between explicit (Q/DQ) and implicit (calibration cache) INT8 models.

The DLA of JetPack 5 and 6 takes no Q/DQ, TensorRT 11 and TensorRT-RTX take nothing else. NVIDIA's
cuDLA-samples translate in one direction; here both are exact inverses on the scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.infer_ranges import infer_missing, unify_for_dla
from yolox_trt.core.errors import ModelError
from yolox_trt.graph.int8_graph import WEIGHTED_OPS, Graph


@dataclass
class ImplicitModel:
    """An INT8 model in the form that calibration-based builders take.

    Attributes:
        model: float model without Q/DQ.
        ranges: scales of the tensors that carried Q/DQ, and of inferred ones where asked for.
        explicit: names of the tensors that carried Q/DQ.
        keep_float: names of the layers that were not quantised: build them in FP16
            (layer precisions).
    """

    model: onnx.ModelProto
    ranges: DynamicRanges
    explicit: tuple[str, ...]
    keep_float: tuple[str, ...]


def remove_qdq(model: onnx.ModelProto, *, for_dla: bool = False) -> ImplicitModel:
    """Turn a Q/DQ model into a float model, its scales and its layer precisions.

    Weights become what they dequantise to, so that TensorRT finds the same codes again.

    Args:
        model: model with QuantizeLinear/DequantizeLinear.
        for_dla: infer the ranges of all other tensors and make equal those that the DLA wants
            equal.

    Raises:
        ModelError: zero points other than 0, per-channel activations, one tensor quantised
            with two scales, or a DequantizeLinear without a constant or QuantizeLinear before it.
    """
    graph = Graph(model)
    ranges = DynamicRanges(algorithm="qdq")
    renamed: dict[str, str] = {}
    outputs = set(graph.outputs)
    kept: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            continue
        if node.op_type == "DequantizeLinear":
            _check_zero_point(graph, node)
            constant = graph.folded(node.output[0])
            if constant is not None:
                renamed[node.output[0]] = graph.add_constant(
                    _weight_name(node.input[0]), constant.astype(np.float32)
                )
                continue
            source = graph.producer.get(node.input[0])
            scale = graph.constant(node.input[1])
            if source is None or source.op_type != "QuantizeLinear" or scale is None:
                raise ModelError(
                    f"DequantizeLinear '{node.name}' on '{node.input[0]}'",
                    expected="a constant, or a QuantizeLinear with a constant scale, before it",
                )
            if scale.size != 1:
                raise ModelError(
                    f"activation '{source.input[0]}' with {scale.size} scales",
                    expected="one scale a tensor, as TensorRT takes activations",
                    fix="yolox_trt quantize --equalize for channels of different ranges",
                )
            # Behind another pair it is the tensor in front of that one.
            tensor = renamed.get(source.input[0], source.input[0])
            value = np.float32(scale.reshape(-1)[0])
            if ranges.scales.setdefault(tensor, value) != value:
                raise ModelError(
                    f"tensor '{tensor}' quantised with scales {ranges.scales[tensor]} and {value}",
                    expected="one scale a tensor: a calibration cache holds one",
                )
            renamed[node.output[0]] = tensor
            if node.output[0] in outputs:
                name = graph.unique(f"{node.output[0]}_identity")
                kept.append(onnx.helper.make_node("Identity", [tensor], [node.output[0]], name))
            continue
        kept.append(node)
    for node in kept:
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
    quantized_layers = {
        node.output[0] for node in kept if node.op_type in WEIGHTED_OPS and node.input[0] in ranges
    }
    # A layer whose input is quantised for another reader only, but which itself reads float.
    read_quantized = {
        reader.output[0]
        for dequantized, tensor in renamed.items()
        if tensor in ranges
        for reader in graph.consumers[dequantized]
    }
    graph.set_nodes(kept)
    clean = graph.finish()
    explicit = tuple(ranges)
    keep_float = tuple(
        node.name or node.output[0]
        for node in Graph(clean).weighted_nodes()
        if node.output[0] not in quantized_layers & read_quantized
    )
    if for_dla:
        infer_missing(clean, ranges)
        unify_for_dla(clean, ranges)
    return ImplicitModel(clean, ranges, explicit, keep_float)


def _weight_name(name: str) -> str:
    for suffix in ("_int8", "_quantized", "_float"):
        name = name.removesuffix(suffix)
    return name


def _check_zero_point(graph: Graph, node: onnx.NodeProto) -> None:
    if len(node.input) > 2 and node.input[2]:
        zero = graph.constant(node.input[2])
        if zero is None or np.any(zero != 0):
            raise ModelError(
                f"DequantizeLinear '{node.name}' with a zero point other than 0",
                expected="symmetric quantisation, the only kind that TensorRT takes",
                fix="quantise again with yolox_trt quantize MODEL",
            )
