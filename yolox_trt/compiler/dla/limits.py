# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DlaLimits: what a TensorRT version lets a DLA do, as data.

Sources, by their short names:
    header  doc comments of NvInfer.h of 8.5.3, 8.6.1, 10.3.0 and 11.1.0 in NVIDIA/TensorRT (of the
            DLA, the first two say the same, and so do the last two but for the modes of Slice)
    docs    the page "DLA Supported Layers and Restrictions" of the TensorRT documentation, and for
            11.4.1 "Working with DLA" and "Strongly Typed Networks for DLA"
            (docs.nvidia.com/deeplearning/tensorrt/11.4.1/inference-library/). Of that page's table
            the rows up to Parametric ReLU were read, of what follows the paragraphs "DLA Support"
            of Reduce, Scale and SoftMax (.../tensorrt/latest/_static/operators/); for the others
            the header stands alone
    guide   transcriptions of the 8.4 to 8.6 developer guides, of 8.4 the whole table (translated in
            HeKun-NVIDIA/TensorRT-Developer_Guide_in_Chinese): confirm on the device
    faq     FAQ and operator table of NVIDIA/Deep-Learning-Accelerator-SW
Where sources contradict each other, the operator is admitted and `uncertain` names it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.core.errors import ConfigurationError, Message
from yolox_trt.core.option import options_of

MIB, GIB = 1 << 20, 1 << 30

# faq: operator table of 8.5 and 8.6 (Orin), read together with the layers of the header.
_NATIVE_8_5 = frozenset(
    {
        "Abs", "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv",
        "ConvTranspose", "Equal", "Gemm", "LeakyRelu", "LRN", "MatMul", "Max", "MaxPool", "Min",
        "Mul", "PRelu", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Split", "Sub",
        "Sum", "Tanh", "Transpose", "Upsample",
    }
)  # fmt: skip
# docs, from DRIVE OS' 8.6.12 on.
_ADDED_8_6_12 = frozenset(
    {"Atan", "Cos", "Sin", "Div", "GlobalMaxPool", "ReduceMax", "Greater", "Less"}
)
# docs of 10.x; the header of 10.3 still lists five elementwise operations and ABS.
_ADDED_10 = _ADDED_8_6_12 | {"Pow"}


@dataclass(frozen=True)
class DlaLimits:
    """Limits of one TensorRT version. Ranges are inclusive (low, high).

    Attributes:
        tensorrt: version, as users name it.
        native: ONNX operators with a DLA layer.
        uncertain: those of them where header and docs disagree.
        max_batch: product of the non-CHW dimensions (header, getMaxDLABatchSize).
        max_dimension: of every other dimension (guide).
        max_loadables: loadables a core holds (guide: 4 in the days of 8.4; docs: 16).
        max_intermediates: bytes of intermediate tensors of a subgraph (header).
        sram, local_dram, global_dram: default memory pools in bytes (header); each is a power of 2
            and at least 4 KiB.
        conv_kernel, conv_stride, conv_padding, conv_dilation, conv_maps, conv_groups: header.
        hwc4_groups: groups of a convolution that reads CHW4 or HWC4 (guide).
        cbuf_banks: banks of the convolution buffer (faq).
        deconv_kernel, deconv_stride: header.
        deconv_wide: sizes beyond the range, where the other one is 1 (header).
        deconv_disabled: square kernels and strides switched off (guide).
        pool_window, pool_stride, pool_padding: header.
        clip_upper: upper bound of Clip, a clipped ReLU (guide).
        lrn_windows: header.
        nearest_scale, linear_scale: header.
        softmax_axis: largest axis where all other dimensions are 1; softmax_axis_approximate:
            where they are not (header).
        slice_fp16_only: whether Slice runs in FP16 even where INT8 is asked for (guide).
        strongly_typed: whether precisions come from the graph, INT8 from its Q/DQ nodes, and inputs
            and outputs are of the graph's types (docs).
        socs: "orin", "xavier": what the version runs on.
    """

    tensorrt: str
    native: frozenset[str]
    uncertain: frozenset[str] = frozenset()
    max_batch: int = 4096
    max_dimension: int = 8192
    max_loadables: int = 16
    max_intermediates: int = GIB
    sram: int = MIB
    local_dram: int = GIB
    global_dram: int = 512 * MIB
    conv_kernel: tuple[int, int] = (1, 32)
    conv_stride: tuple[int, int] = (1, 8)
    conv_padding: tuple[int, int] = (0, 31)
    conv_dilation: tuple[int, int] = (1, 32)
    conv_maps: tuple[int, int] = (1, 8192)
    conv_groups: tuple[int, int] = (1, 8192)
    hwc4_groups: tuple[int, int] = (1, 4)
    cbuf_banks: int = 16
    deconv_kernel: tuple[int, int] = (1, 32)
    deconv_stride: tuple[int, int] = (1, 32)
    deconv_wide: tuple[int, ...] = (64, 96, 128)
    deconv_disabled: tuple[int, int] = (23, 32)
    pool_window: tuple[int, int] = (1, 8)
    pool_stride: tuple[int, int] = (1, 16)
    pool_padding: tuple[int, int] = (0, 7)
    clip_upper: tuple[float, float] = (1.0, 127.0)
    lrn_windows: tuple[int, ...] = (3, 5, 7, 9)
    nearest_scale: tuple[int, int] = (1, 32)
    linear_scale: tuple[int, int] = (1, 4)
    softmax_axis: int = 8192
    softmax_axis_approximate: int = 1024
    slice_fp16_only: bool = False
    strongly_typed: bool = False
    socs: tuple[str, ...] = ("orin", "xavier")


# The operator table has Equal for 8.5; the docs have comparisons from 8.6.12 on.
_8_5 = DlaLimits("8.5", _NATIVE_8_5, uncertain=frozenset({"Equal"}))
_8_6 = replace(_8_5, tensorrt="8.6", slice_fp16_only=True)
_8_6_12 = replace(
    _8_6, tensorrt="8.6.12", native=_NATIVE_8_5 | _ADDED_8_6_12, uncertain=frozenset()
)
_10_3 = replace(
    _8_5,
    tensorrt="10.3",
    native=_NATIVE_8_5 | _ADDED_10,
    # TensorRT 10 has no fully connected layer: a matrix product reaches the DLA as a convolution
    # or not at all.
    uncertain=_ADDED_10 | {"Gemm", "MatMul"},
    socs=("orin",),
)

# "GPU fallback behaves as it did in TensorRT 10.x", and the table of layers is that of 10.x; on AGX
# Orin alone. The header of 11.1 lets a Slice fill and wrap, which is what a Pad becomes.
_11_4_1 = replace(
    _10_3,
    tensorrt="11.4.1",
    native=_10_3.native | {"Pad"},
    uncertain=_10_3.uncertain | {"Pad"},
    strongly_typed=True,
)

#: By the name that users give. 8.6.12 is DRIVE OS; JetPack 5 has 8.5, JetPack 6.0 8.6, 6.1 10.3 and
#: 7.2.2 11.4.1.
DLA_LIMITS: dict[str, DlaLimits] = {d.tensorrt: d for d in (_8_5, _8_6, _8_6_12, _10_3, _11_4_1)}


def limits_for(tensorrt: str) -> DlaLimits:
    """Return the limits that hold for a TensorRT version such as "8.6", "8.5.2.2" or "10.3.0".

    Raises:
        ConfigurationError: no version with a known DLA rule set.
    """
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", tensorrt)
    major, minor, patch = (int(g or 0) for g in match.groups()) if match else (0, 0, 0)
    if (major, minor) in ((8, 5), (8, 6)):
        return DLA_LIMITS["8.6.12" if minor == 6 and patch >= 12 else f"8.{minor}"]
    if major == 10 and minor <= 7:
        return DLA_LIMITS["10.3"]
    if major == 11 and (minor, patch) >= (4, 1):
        return DLA_LIMITS["11.4.1"]
    found, expected = f"TensorRT {tensorrt}", "one of " + ", ".join(DLA_LIMITS)
    fix: Message = "stay on JetPack 6 (TensorRT 10.3), or take JetPack 7.2.2 (11.4.1) on AGX Orin"
    if major in (10, 11):
        expected = "10.7 or older, the last 10.x with DLA support, or 11.4.1 or newer"
    elif major <= 8:
        found = f"TensorRT version {tensorrt!r}"
        fix = ("set ", options_of(DlaTarget)["tensorrt"])
    raise ConfigurationError(found, expected=expected, fix=fix)
