# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Q/DQ placement, as TensorRT fuses layers.

TensorRT fuses convolution, bias, activation and residual add into one kernel and quantises what
goes into a kernel. So Q/DQ stands on the inputs of layers with weights, not between a
convolution and its activation: there it would quantise a tensor that never exists, and it costs
a ReLU6 or SiLU YOLOX nearly all its accuracy. One tensor has one Q/DQ pair, shared by all its
quantised readers, so that TensorRT sees one INT8 tensor. Weights carry one scale an output
channel.

A residual add whose skip branch is already quantised for a convolution reads the quantised
tensor: TensorRT fuses conv + add only if the skip branch arrives in INT8.
"""

from __future__ import annotations

import enum
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx

from yolox_trt.compiler.int8.dynamic_ranges import INT8_MAX, SMALLEST_AMAX, DynamicRanges
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.graph.int8_graph import Graph, attribute, with_opset

#: Suffixes of the tensors that insert_qdq adds; the translator finds pairs by structure instead.
SCALE_SUFFIX = "_scale"

#: Largest magnitude of a bias in integer units: half of int32's, to leave room for the sum.
_LARGEST_BIAS_CODE = 2.0**30


class Placement(enum.Enum):
    """Which activations carry Q/DQ."""

    CONV_INPUTS = "conv_inputs"
    """Inputs of layers with weights, as TensorRT fuses."""
    ALL = "all"
    """Every tensor that has a range, convolution outputs included: ONNX Runtime's default, and
    what the DLA's implicit mode amounts to without fusion. For comparison."""


class WeightFormat(enum.Enum):
    """How quantised weights are stored."""

    INT8 = "int8"
    """INT8 constant + DequantizeLinear: a quarter of the size; TensorRT 10, 11, RTX."""
    FLOAT = "float"
    """Float constant + QuantizeLinear + DequantizeLinear: TensorRT 8.5 and 8.6."""


def insert_qdq(
    model: onnx.ModelProto,
    ranges: DynamicRanges,
    *,
    keep_float: Collection[str] = (),
    placement: Placement = Placement.CONV_INPUTS,
    weight_format: WeightFormat = WeightFormat.INT8,
    quantize_residual: bool = True,
) -> onnx.ModelProto:
    """Write a quantised model.

    Args:
        model: float model; it is converted to opset 13 where it is older.
        ranges: scales of the activations.
        keep_float: names of layers (or of their outputs) that stay in floating point.
        placement: which activations are quantised.
        weight_format: how weights are stored.
        quantize_residual: quantise the skip branch of residual adds.

    Returns:
        The model with QuantizeLinear and DequantizeLinear nodes.

    Raises:
        ConfigurationError: a tensor that must be quantised has no range, or `keep_float` names
            a layer that does not exist.
        ModelError: a layer computes in FP16.
    """
    graph = Graph(with_opset(model, 13))
    keep = set(keep_float)
    refuse_half(graph)
    layers = list(graph.weighted_nodes())
    known = {name for node in layers for name in (node.name, *node.output)}
    if keep - known:
        raise ConfigurationError(
            f"layer '{sorted(keep - known)[0]}' to keep in floating point",
            expected="the name of a convolution of the model",
            fix="yolox_trt inspect MODEL lists them",
        )
    quantized = [n for n in layers if n.name not in keep and n.output[0] not in keep]
    wanted: dict[str, list[tuple[str, int]]] = {}  # tensor -> (reader's output, input index)
    for node in quantized:
        wanted.setdefault(node.input[0], []).append((node.output[0], 0))
    if placement is Placement.ALL:
        _want_everything(graph, ranges, wanted)
    elif quantize_residual:
        _want_residuals(graph, wanted)
    missing = [tensor for tensor in wanted if tensor not in ranges]
    if missing:
        raise ConfigurationError(
            f"no range for tensor '{missing[0]}' (and {len(missing) - 1} more)",
            expected="a range for every input of a quantised layer",
            fix="yolox_trt calibrate MODEL on this same file, or name the layer in --keep-fp16",
        )

    zero = graph.add_constant("int8_zero", np.asarray(0, np.int8))
    replaced: dict[tuple[str, int], str] = {}
    pair_of: dict[str, list[onnx.NodeProto]] = {}
    for tensor, readers in wanted.items():
        scale = graph.add_constant(tensor + SCALE_SUFFIX, np.asarray(ranges.scales[tensor]))
        pair, output = _pair(graph, tensor, scale, zero)
        pair_of[tensor] = pair
        replaced.update({reader: output for reader in readers})
    weight_nodes: dict[str, list[onnx.NodeProto]] = {}
    for node in quantized:
        nodes, output = _quantized_weights(
            graph, node, zero, weight_format, ranges.scales[node.input[0]]
        )
        weight_nodes[node.output[0]] = nodes
        replaced[node.output[0], 1] = output

    result: list[onnx.NodeProto] = []
    for tensor in graph.inputs:
        result.extend(pair_of.pop(tensor, []))
    for node in graph.nodes:
        result.extend(weight_nodes.get(node.output[0], []))
        for index in range(len(node.input)):
            name = replaced.get((node.output[0], index))
            if name is not None:
                node.input[index] = name
        result.append(node)
        for output in node.output:
            result.extend(pair_of.pop(output, []))
    graph.set_nodes(result)
    return graph.finish()


def refuse_half(graph: Graph) -> None:
    """Refuse a model whose layers compute in FP16: the scales of Q/DQ are FP32.

    Raises:
        ModelError: it has such a layer. Weights that are only stored in FP16 do not count.
    """
    for node in graph.weighted_nodes():
        if getattr(graph.constant(node.input[1]), "dtype", None) == np.float16:
            raise ModelError(
                f"layer '{node.name or node.output[0]}' with weights in FP16",
                expected="a model in FP32: what is not quantised becomes FP16 when it is built",
                fix="quantise the FP32 model from which this one was made",
            )


def _pair(
    graph: Graph, tensor: str, scale: str, zero: str, axis: int | None = None
) -> tuple[list[onnx.NodeProto], str]:
    quantized, output = graph.unique(f"{tensor}_quantized"), graph.unique(f"{tensor}_dequantized")
    extra = {} if axis is None else {"axis": axis}
    make = onnx.helper.make_node
    return [
        make("QuantizeLinear", [tensor, scale, zero], [quantized], name=quantized, **extra),
        make("DequantizeLinear", [quantized, scale, zero], [output], name=output, **extra),
    ], output


def _want_residuals(graph: Graph, wanted: dict[str, list[tuple[str, int]]]) -> None:
    """Let residual adds read a skip branch that is quantised for a convolution anyway."""
    for node in graph.nodes:
        if node.op_type != "Add" or any(graph.is_constant(name) for name in node.input):
            continue
        # The skip branch is the input that convolutions read too; the other one comes fresh
        # out of a convolution and is added inside its kernel.
        skip = [i for i, name in enumerate(node.input) if name in wanted]
        if len(skip) == 1:
            wanted[node.input[skip[0]]].append((node.output[0], skip[0]))


def _want_everything(
    graph: Graph, ranges: DynamicRanges, wanted: dict[str, list[tuple[str, int]]]
) -> None:
    outputs = set(graph.outputs)
    for node in graph.nodes:
        for index, name in enumerate(node.input):
            reader = (node.output[0], index)
            if name in ranges and name not in outputs and reader not in wanted.get(name, []):
                wanted.setdefault(name, []).append(reader)


def weight_scales(
    weights: npt.NDArray[np.float32],
    node: onnx.NodeProto,
    bias: npt.NDArray[np.float32] | None = None,
    input_scale: float = 1.0,
) -> tuple[npt.NDArray[np.float32], int]:
    """Return (scales of the output channels float32 (C,), their axis): per-channel max / 127.

    Runtimes that compute in integers (ONNX Runtime among them) hold the bias as an int32 in units
    of input_scale * weight scale. In a channel whose weights are all but zero that unit would be
    so small that the bias overflows, so such a channel's scale is raised until the bias fits; its
    weights lose nothing that could be seen beside that bias.
    """
    axis = 0
    if node.op_type == "ConvTranspose" or (
        node.op_type == "Gemm" and not attribute(node, "transB", 0)
    ):
        axis = 1
    elif node.op_type == "MatMul":
        axis = weights.ndim - 1
    others = tuple(i for i in range(weights.ndim) if i != axis)
    amax = np.maximum(np.abs(weights).max(axis=others), SMALLEST_AMAX)
    scales = (amax / np.float32(INT8_MAX)).astype(np.float32)
    if bias is not None and bias.shape == scales.shape:
        least = np.abs(bias).astype(np.float64) / (input_scale * _LARGEST_BIAS_CODE)
        scales = np.maximum(scales, least).astype(np.float32)
    return scales, axis


def _quantized_weights(
    graph: Graph,
    node: onnx.NodeProto,
    zero: str,
    weight_format: WeightFormat,
    input_scale: np.float32,
) -> tuple[list[onnx.NodeProto], str]:
    weights = graph.weights(node)
    assert weights is not None
    bias = graph.folded(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    scales, axis = weight_scales(weights, node, bias, float(input_scale))
    name = node.input[1]
    scale = graph.add_constant(f"{name}{SCALE_SUFFIX}", scales)
    zeros = graph.add_constant(f"{name}_zero", np.zeros(len(scales), np.int8))
    if weight_format is WeightFormat.FLOAT:
        source = graph.add_constant(f"{name}_float", weights)
        return _pair(graph, source, scale, zeros, axis)
    shape = [1] * weights.ndim
    shape[axis] = -1
    codes = np.clip(np.rint(weights / scales.reshape(shape)), -INT8_MAX, INT8_MAX).astype(np.int8)
    constant = graph.add_constant(f"{name}_int8", codes)
    output = graph.unique(f"{name}_dequantized")
    return [
        onnx.helper.make_node(
            "DequantizeLinear", [constant, scale, zeros], [output], name=output, axis=axis
        )
    ], output
