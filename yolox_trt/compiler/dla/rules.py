# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Rules: what a node may break on a DLA, each with its source and the pass that mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Effect(str, Enum):
    """What breaking a rule does."""

    GPU = "gpu"
    """The layer falls back to the GPU."""
    FP16 = "fp16"
    """The layer stays on the DLA, in FP16 where INT8 was asked for."""
    NOTE = "note"
    """Nothing by itself: calibration or the builder must respect it."""


@dataclass(frozen=True)
class Rule:
    """One restriction, as RULES has it or as a node breaks it.

    Attributes:
        rule: short name, stable across versions.
        text: the restriction in one line.
        effect: what breaking it does.
        source: where it comes from (see limits).
        mended_by: `optimize` pass that mends it (in RULES: that usually does), "" where none does.
        found: what the node has instead, "" in RULES.
    """

    rule: str
    text: str
    effect: Effect
    source: str
    mended_by: str = ""
    found: str = ""


#: Every rule by its id. The numbers in them are DlaLimits'.
RULES: dict[str, Rule] = {rule.rule: rule for rule in (
    Rule("operator", "the operator has no DLA layer", Effect.GPU, "faq"),
    Rule("uncertain", "the sources disagree on this operator: ask can_run_on_DLA", Effect.NOTE,
         "docs, header"),
    Rule("static-shape", "no open dimension but the batch", Effect.GPU, "header", "fix-shape"),
    Rule("fixed-batch", "the profile's min, opt and max are equal", Effect.NOTE, "header",
         "fix-shape"),
    Rule("batch", "batch within the DLA's largest", Effect.GPU, "header", "fix-shape"),
    Rule("dimension", "every dimension but the batch at most 8192", Effect.GPU, "guide"),
    Rule("data-type", "tensors are FP16 or INT8", Effect.GPU, "header"),
    Rule("uint8-input", "no unsigned 8-bit input", Effect.GPU, "header"),
    Rule("qdq", "no Q/DQ nodes before 11.4.1: INT8 comes from a calibration cache", Effect.GPU,
         "docs", "yolox_trt translate"),
    Rule("qdq-symmetric", "Q/DQ without zero points", Effect.GPU, "docs"),
    Rule("conv-2d", "two spatial dimensions and constant weights", Effect.GPU, "header"),
    Rule("conv-kernel", "kernel 1 to 32", Effect.GPU, "header"),
    Rule("conv-stride", "stride 1 to 8", Effect.GPU, "header"),
    Rule("conv-padding", "padding 0 to 31 and less than the kernel", Effect.GPU, "header"),
    Rule("conv-dilation", "dilation 1 to 32", Effect.GPU, "header"),
    Rule("conv-maps", "1 to 8192 output maps", Effect.GPU, "header", "split-convs"),
    Rule("conv-groups", "1 to 8192 groups", Effect.GPU, "header", "split-convs"),
    Rule("conv-groups-hwc4", "1 to 4 groups where the input is HWC4", Effect.NOTE, "guide"),
    Rule("conv-cbuf", "data and weights fit into 16 banks of the convolution buffer", Effect.GPU,
         "faq", "split-convs"),
    Rule("deconv", "kernel and stride 1 to 32, no padding, no groups, no dilation", Effect.GPU,
         "header"),
    Rule("pool-window", "window 1 to 8", Effect.GPU, "header", "spp-to-chain"),
    Rule("pool-stride", "stride 1 to 16", Effect.GPU, "header"),
    Rule("pool-padding", "padding 0 to 7", Effect.GPU, "header", "spp-to-chain"),
    Rule("pool-form", "two spatial dimensions, no dilation, no indices", Effect.GPU, "header"),
    Rule("pad", "four dimensions, zeros or wrapped, a constant number, not along the batch",
         Effect.GPU, "header"),
    Rule("pool-exclusive", "Xavier averages over the padding too", Effect.GPU, "header"),
    Rule("pool-scale", "INT8: equal input and output scale", Effect.NOTE, "guide"),
    Rule("activation-2d", "two spatial dimensions", Effect.GPU, "docs, guide"),
    Rule("activation-fp16", "INT8 Sigmoid and Tanh are computed in FP16", Effect.FP16, "docs"),
    Rule("clip-range", "Clip is a clipped ReLU: from 0 to 1..127", Effect.GPU, "guide"),
    Rule("prelu-slope", "constant slope of the input's rank", Effect.GPU, "header"),
    Rule("elementwise-broadcast", "operands NCHW, NC11 or N111", Effect.GPU, "header"),
    Rule("elementwise-scale", "INT8: both operands with one range", Effect.NOTE, "header"),
    Rule("comparison", "INT8 only, and its output cast at once", Effect.GPU, "docs"),
    Rule("concat-axis", "along the channels (third from last)", Effect.GPU, "header", "cut-head"),
    Rule("concat-inputs", "at least two inputs of equal height and width", Effect.GPU, "header"),
    Rule("concat-scale", "INT8: one range for all inputs and the output", Effect.NOTE, "guide"),
    Rule("lrn", "window 3, 5, 7 or 9", Effect.GPU, "header"),
    Rule("lrn-fp16", "INT8 LRN is computed in FP16", Effect.FP16, "header"),
    Rule("resize-scales", "four constant scales (1, 1, s, s), never an output size", Effect.GPU,
         "header", "upsample"),
    Rule("resize-factor", "whole scales, nearest 1 to 32, linear 1 to 4", Effect.GPU, "header"),
    Rule("resize-mode", "nearest: asymmetric with floor, or half-pixel; linear: half-pixel",
         Effect.GPU, "header", "upsample"),
    Rule("slice-stride", "stride 1", Effect.GPU, "header", "focus-to-conv"),
    Rule("slice-form", "four dimensions, constant bounds, not along the batch", Effect.GPU,
         "header"),
    Rule("slice-fp16", "computed in FP16", Effect.FP16, "guide"),
    Rule("softmax", "not along the batch, axis at most 8192 (1024 beside other dimensions)",
         Effect.GPU, "header"),
    Rule("softmax-fp16", "INT8 Softmax is computed in FP16", Effect.FP16, "docs, guide"),
    Rule("softmax-xavier", "not on Xavier", Effect.GPU, "header"),
    Rule("shuffle-4d", "four dimensions before and after", Effect.GPU, "guide", "cut-head"),
    Rule("shuffle-batch", "the batch stays first and as it is", Effect.GPU, "guide", "cut-head"),
    Rule("matmul", "constant second operand", Effect.GPU, "faq"),
    Rule("reduce", "maximum over C, H or W", Effect.GPU, "docs"),
    Rule("loadables", "16 loadables a core at most", Effect.GPU, "docs"),
    Rule("intermediates", "intermediate tensors of a subgraph under 1 GiB", Effect.GPU, "header"),
    Rule("local-dram", "intermediates fit the local DRAM pool", Effect.NOTE, "header"),
    Rule("global-dram", "weights fit the global DRAM pool", Effect.NOTE, "header"),
)}  # fmt: skip
