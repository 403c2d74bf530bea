# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Parser support: which ONNX operators TensorRT's parser takes."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from yolox_trt.compiler.inspect.options import InspectOptions
from yolox_trt.core.option import options_of
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.head import head_and_stem
from yolox_trt.graph.image_input import ANY_SIZE, why_no_yolox
from yolox_trt.graph.values import Node

# onnx/onnx-tensorrt, docs/operators.md of release 8.5 (opset up to 17).
_TAKEN_8 = frozenset(
    {
        "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh",
        "AveragePool", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Concat", "Constant",
        "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "Cosh", "CumSum", "DepthToSpace",
        "DequantizeLinear", "Div", "Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand",
        "EyeLike", "Flatten", "Floor", "GRU", "Gather", "GatherElements", "GatherND", "Gemm",
        "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater", "GreaterOrEqual",
        "GridSample", "HardSigmoid", "HardSwish", "Identity", "If", "ImageScaler",
        "InstanceNormalization", "IsNaN", "LRN", "LSTM", "LeakyRelu", "Less", "LessOrEqual", "Log",
        "LogSoftmax", "Loop", "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool", "Mean",
        "MeanVarianceNormalization", "Min", "Mod", "Mul", "Neg", "NonMaxSuppression", "NonZero",
        "Not", "OneHot", "Or", "PRelu", "Pad", "ParametricSoftplus", "Pow", "QuantizeLinear",
        "RNN", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range",
        "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
        "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape",
        "Resize", "ReverseSequence", "RoiAlign", "Round", "ScaledTanh", "Scan", "Scatter",
        "ScatterElements", "ScatterND", "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
        "Size", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt",
        "Squeeze", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Tile", "TopK", "Transpose",
        "Trilu", "Unsqueeze", "Upsample", "Where", "Xor",
    }
)  # fmt: skip
# The same page of 10.15 (opset 9 to 24): what came since.
_ADDED_10 = frozenset(
    {
        "Attention", "BlackmanWindow", "CastLike", "DeformConv", "Gelu", "GroupNormalization",
        "HammingWindow", "HannWindow", "Hardmax", "IsInf", "LayerNormalization", "Mish",
        "RMSNormalization", "RotaryEmbedding", "STFT",
    }
)  # fmt: skip
#: Plugins of TensorRT's own library, which the parser finds by operator name.
_PLUGINS = frozenset(
    {"EfficientNMS_TRT", "EfficientNMS_ONNX_TRT", "BatchedNMSDynamic_TRT", "BatchedNMS_TRT"}
)
_RESIZE_FORMS = frozenset(
    {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
)


@dataclass(frozen=True)
class ParserProblem:
    """Something that the parser does not take.

    Attributes:
        node: name, "" for the graph.
        op: operator.
        reason: why not.
        mended_by: `optimize` pass, "" where none does.
        refused: whether the parser stops (or only warns, as at an opset over its own).
    """

    node: str
    op: str
    reason: str
    mended_by: str = ""
    refused: bool = True


def check_parser(
    graph: Graph, tensorrt: str, *, folded: frozenset[str] = frozenset()
) -> list[ParserProblem]:
    """Return what TensorRT's ONNX parser will not take of a graph.

    The tables are those of the parsers of 8.5 and 10.15: 8.x counts as 8.5, 10.x and newer as
    10.15, so an operator that came with a later 10.x is let through for 10.3.

    Args:
        graph: as the file has it.
        tensorrt: version, "8.5" or newer.
        folded: names of nodes that fold-constants computes.

    Raises:
        ConfigurationError: not a version.
    """
    match = re.match(r"(\d+)\.(\d+)", tensorrt)
    if match is None or (int(match[1]), int(match[2])) < (8, 5):
        raise options_of(InspectOptions)["tensorrt"].refusal(tensorrt, "8.5 or newer")
    major = int(match[1])
    taken = _TAKEN_8 | (_ADDED_10 if major >= 10 else frozenset())
    problems = []
    most = 17 if major < 10 else 24
    if graph.opset > most:
        problems.append(
            ParserProblem(
                "",
                "opset",
                f"opset {graph.opset}; the parser is made for up to {most}",
                refused=False,
            )
        )
    graph.infer_shapes()
    head, _ = head_and_stem(graph)
    can_be_cut: bool | None = None  # looked at where it matters alone
    for node in graph.nodes:
        reason, mend = _problem(node, taken, major)
        if reason:
            if node.name in folded:
                mend = "fold-constants"
            elif not mend and node in head:
                mend = "cut-head"
            if mend == "cut-head":
                if can_be_cut is None:
                    can_be_cut = not all(why_no_yolox(graph, size) for size in (None, ANY_SIZE))
                mend = mend if can_be_cut else ""
            problems.append(ParserProblem(node.name, node.op, reason, mend))
    return problems


def _problem(node: Node, taken: frozenset[str], major: int) -> tuple[str, str]:
    if node.op not in taken:
        if node.op in _PLUGINS:
            return ("", "") if major < 11 else ("plugin of the old interface", "cut-head")
        if node.domain not in (None, "", "ai.onnx"):
            return f"operator of domain '{node.domain}' needs a plugin", ""
        mend = "activations" if node.op == "Swish" else ""
        return "the parser has no such operator", mend
    if node.op == "MaxPool" and len(node.outputs) > 1 and node.outputs[1].readers:
        return "its Indices output is used", ""
    if node.op in ("MaxPool", "AveragePool"):
        if any(d != 1 for d in node.attrs.get("dilations", [1])):
            return "dilated pooling", ""
        if len(node.attrs.get("kernel_shape", [1, 1])) not in (2, 3):
            return "pooling of other than 2 or 3 dimensions", ""
    if node.op == "Resize":
        form = node.attrs.get("coordinate_transformation_mode", "half_pixel")
        mode = node.attrs.get("mode", "nearest")
        if form not in _RESIZE_FORMS or mode not in ("nearest", "linear"):
            return f"Resize {mode}, {form}", "upsample" if mode == "nearest" else ""
        if node.attrs.get("antialias", 0):
            return "antialiasing", ""
    axes_input = {"Slice": 3, "Squeeze": 1, "Unsqueeze": 1}.get(node.op)
    if axes_input is not None and major < 10:
        axes = node.input(axes_input)
        if axes is not None and not axes.is_constant:
            return "its axes are computed", "fold-constants"
    if node.op in ("QuantizeLinear", "DequantizeLinear") and len(node.inputs) > 2:
        zero = node.constant(2)
        if zero is not None and np.any(zero):
            return "a zero point other than 0", ""
    if node.op == "ScatterND" and node.attrs.get("reduction", "none") != "none":
        return "a reduction", ""
    reads_bytes = any(value.dtype == np.uint8 for value in node.inputs)
    if reads_bytes and node.op not in ("Cast", "DequantizeLinear"):
        return "a uint8 tensor; only network inputs are, and only a Cast reads them", ""
    return "", ""
