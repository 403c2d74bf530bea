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

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.int8.dynamic_ranges import INT8_MAX, SMALLEST_AMAX, DynamicRanges
from yolox_trt.compiler.int8.layers import QDQ_OPSET, is_within_kernel, weighted_layers
from yolox_trt.compiler.int8.options import QuantizeOptions
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.option import options_of
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.inference import describe
from yolox_trt.graph.outputs import split_output
from yolox_trt.graph.values import Node, Value, folded

#: Largest magnitude of a bias in integer units: half of int32's, to leave room for the sum.
_LARGEST_BIAS_CODE = 2.0**30

#: Where a quantised tensor is read: (node, place among its inputs).
_Reader = tuple[Node, int]


def insert_qdq(
    graph: Graph,
    ranges: DynamicRanges,
    *,
    keep_float: Collection[str] = (),
    every_tensor: bool = False,
    float_weights: bool = False,
    quantize_residual: bool = True,
    outputs: bool = False,
) -> Graph:
    """Return a quantised model.

    Args:
        graph: float model.
        ranges: scales of the activations.
        keep_float: names of layers (or of their outputs) that stay in floating point.
        every_tensor: quantise every activation that has a range, as the DLA's implicit mode does:
            a convolution's output too, where a SiLU reads it, and not within the kernel of a
            convolution and its ReLU.
        float_weights: store weights in floating point behind Q/DQ, as TensorRT 8.5 and 8.6 take
            them, instead of INT8 at a quarter of the size.
        quantize_residual: quantise the skip branch of residual adds.
        outputs: quantise the graph's outputs, which must be raw heads.

    Returns:
        The model with QuantizeLinear and DequantizeLinear nodes, of opset 13 or newer.

    Raises:
        ConfigurationError: a tensor that must be quantised has no range, or `keep_float` names
            a layer that does not exist.
        ModelError: a layer computes in FP16, or `outputs` of other outputs than raw heads.
    """
    graph = graph.copy()
    graph.upgrade(QDQ_OPSET)
    refuse_half(graph)
    if outputs:
        refuse_decoded(graph)
    quantized = layers_to_quantize(graph, keep_float)
    wanted: dict[Value, list[_Reader]] = {}
    for node in quantized:
        wanted.setdefault(node.inputs[0], []).append((node, 0))
    if every_tensor:
        _want_everything(graph, ranges, wanted)
    elif quantize_residual:
        _want_residuals(graph, wanted)
    read = [*wanted, *(graph.outputs if outputs else ())]
    missing = [value.name for value in read if value.name not in ranges]
    if missing:
        raise ConfigurationError(
            f"no range for tensor '{missing[0]}' (and {len(missing) - 1} more)",
            expected="a range for every input of a quantised layer",
            fix=(
                "yolox_trt calibrate MODEL on this same file, or name the layer in ",
                options_of(QuantizeOptions)["keep_fp16"],
            ),
        )

    zero = graph.constant("int8_zero", 0, np.int8)
    weights = {
        node: _quantized_weights(graph, node, ranges, in_float=float_weights) for node in quantized
    }
    for value, readers in wanted.items():
        scale = graph.constant(f"{value.name}_scale", ranges[value.name])
        dequantized = _add_pair(graph, value, scale, zero)
        for node, index in readers:
            node.set_input(index, dequantized)
    for node, new in weights.items():
        node.set_input(1, new)
    for value in graph.outputs if outputs else ():
        scale = graph.constant(f"{value.name}_scale", ranges[value.name])
        _add_pair(graph, split_output(graph, value, "float"), scale, zero, output=value)
    graph.sort()
    return graph


def layers_to_quantize(graph: Graph, keep_float: Collection[str]) -> list[Node]:
    """Return the layers with weights but those that stay in floating point.

    Args:
        graph: float model.
        keep_float: names of layers, or of their outputs.

    Raises:
        ConfigurationError: a name that no layer has.
    """
    keep, layers = set(keep_float), weighted_layers(graph)
    names = {node: {node.name, node.outputs[0].name} for node in layers}
    if unknown := keep.difference(*names.values()):
        fix = ("set ", options_of(QuantizeOptions)["keep_fp16"])
        what, known = "layer to keep in floating point", (node.name for node in layers)
        raise ConfigurationError.unknown(what, min(unknown), known, fix=fix)
    return [node for node in layers if keep.isdisjoint(names[node])]


def refuse_half(graph: Graph) -> None:
    """Refuse a model whose layers compute in FP16: the scales of Q/DQ are FP32.

    Raises:
        ModelError: it has such a layer. Weights that are only stored in FP16 do not count.
    """
    for node in weighted_layers(graph):
        if node.inputs[1].is_constant and node.inputs[1].dtype == np.float16:
            raise ModelError(
                f"layer '{node.name}' with weights in FP16",
                expected="a model in FP32: what is not quantised becomes FP16 when it is built",
                fix="quantise the FP32 model from which this one was made",
            )


def refuse_decoded(graph: Graph) -> None:
    """Refuse outputs that have no scale in common.

    Raises:
        ModelError: an output that is no raw head (N, C, H, W).
    """
    for value in graph.outputs:
        if len(value.shape or ()) != 4:
            raise ModelError(
                f"output '{value.name}' {describe(value.shape)}, which holds boxes beside scores",
                expected="raw heads (N, C, H, W), each with a scale of its own, for INT8 outputs",
                fix="yolox_trt optimize MODEL --head raw -o OUT, and quantise OUT",
            )


def _add_pair(
    graph: Graph,
    value: Value,
    scale: Value,
    zero: Value,
    axis: int | None = None,
    output: Value | None = None,
) -> Value:
    name, attrs = value.name, {} if axis is None else {"axis": axis}
    codes = Value(graph.unused_name(f"{name}_quantized"))
    codes = graph.add_node(
        "QuantizeLinear", f"{name}_quantize", [value, scale, zero], attrs, output=codes
    )
    output = output or Value(graph.unused_name(f"{name}_dequantized"))
    name = f"{name}_dequantize"
    return graph.add_node("DequantizeLinear", name, [codes, scale, zero], attrs, output=output)


def _want_residuals(graph: Graph, wanted: dict[Value, list[_Reader]]) -> None:
    """Let residual adds read a skip branch that is quantised for a convolution anyway."""
    for node in graph.find("Add"):
        # The skip branch is the input that convolutions read too; the other one comes fresh
        # out of a convolution and is added inside its kernel.
        skip = [i for i, value in enumerate(node.inputs) if value in wanted]
        if len(skip) == 1 and len(node.variables) == len(node.inputs):
            wanted[node.inputs[skip[0]]].append((node, skip[0]))


def _want_everything(
    graph: Graph, ranges: DynamicRanges, wanted: dict[Value, list[_Reader]]
) -> None:
    for node in graph.nodes:
        for index, value in enumerate(node.inputs):
            reader = (node, index)
            if value.name not in ranges or value.is_output or is_within_kernel(value):
                continue
            if reader not in wanted.get(value, []):
                wanted.setdefault(value, []).append(reader)


def weight_scales(
    weights: npt.NDArray[np.float32],
    node: Node,
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
    if node.op == "ConvTranspose" or (node.op == "Gemm" and not node.attrs.get("transB", 0)):
        axis = 1
    elif node.op == "MatMul":
        axis = weights.ndim - 1
    others = tuple(i for i in range(weights.ndim) if i != axis)
    amax = np.maximum(np.abs(weights).max(axis=others), SMALLEST_AMAX)
    scales = (amax / np.float32(INT8_MAX)).astype(np.float32)
    if bias is not None and bias.shape == scales.shape:
        least = np.abs(bias).astype(np.float64) / (input_scale * _LARGEST_BIAS_CODE)
        scales = np.maximum(scales, least).astype(np.float32)
    return scales, axis


def _quantized_weights(graph: Graph, node: Node, ranges: DynamicRanges, *, in_float: bool) -> Value:
    """Return a layer's weights behind Q/DQ."""
    weights, bias = node.weights(), node.input(2)
    assert weights is not None
    input_scale = float(ranges[node.inputs[0].name])
    scales, axis = weight_scales(weights, node, folded(bias) if bias else None, input_scale)
    name = node.inputs[1].name
    scale = graph.constant(f"{name}_scale", scales)
    zeros = graph.constant(f"{name}_zero", np.zeros(len(scales), np.int8))
    if in_float:
        return _add_pair(graph, graph.constant(f"{name}_float", weights), scale, zeros, axis)
    shape = [1] * weights.ndim
    shape[axis] = -1
    codes = np.clip(np.rint(weights / scales.reshape(shape)), -INT8_MAX, INT8_MAX).astype(np.int8)
    return graph.add_node(
        "DequantizeLinear",
        f"{name}_dequantize",
        [graph.constant(f"{name}_int8", codes), scale, zeros],
        {"axis": axis},
        output=Value(graph.unused_name(f"{name}_dequantized")),
    )
