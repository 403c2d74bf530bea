# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""NodeChecks: the rules that one node of a graph breaks on a DLA."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from yolox_trt.compiler.dla.limits import DlaLimits
from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.compiler.dla.rules import RULES, Effect, Rule
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.head import head_and_stem
from yolox_trt.graph.inference import describe
from yolox_trt.graph.values import Node, slice_bounds

#: Rule, what the node has instead, and the pass that mends it here if not the rule's.
_Broken = tuple[str, str] | tuple[str, str, str]

_FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
_ACTIVATIONS = frozenset({"Clip", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Tanh"})
_COMPARISONS = frozenset({"Equal", "Greater", "Less"})
_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: Passes for operators that have no DLA layer at all.
_OPERATOR_PASSES = {
    **dict.fromkeys(("HardSwish", "HardSigmoid", "Swish"), "activations"),
    **dict.fromkeys(("EfficientNMS_TRT", "Exp"), "cut-head"),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "ReduceMean"), "pool-by-blocks"),
    "Pow": "pow-to-mul",
    "SpaceToDepth": "focus-to-conv",
    "Pad": "remove-no-ops",
}


def cbuf_banks(
    channels: int, width: int, kernel: tuple[int, int], dilation: int, precision: str
) -> tuple[int, int]:
    """Return (data, weight) banks that a convolution needs of the DLA's 16 banks of 32 KiB.

    weights = ceil(roundUp(c kh kw p, 128) / 32768) and
    data = ceil(ceil(ceil(c p / 32) W / 4) ((kh - 1) dilation + 1) / 256), with p = 1 byte in INT8
    and 2 in FP16: the heuristic that TensorRT 8.6 and newer run before the DLA compiler
    (Deep-Learning-Accelerator-SW, FAQ, "CBUF validation").

    Args:
        channels: input channels c.
        width: input columns W.
        kernel: (kh, kw).
        dilation: vertical dilation.
        precision: "int8" or "fp16".
    """
    size = 1 if precision == "int8" else 2
    kh, kw = kernel
    weight_bytes = math.ceil(channels * kh * kw * size / 128) * 128
    weights = math.ceil(weight_bytes / 32768)
    entries = math.ceil(math.ceil(channels * size / 32) * width / 4)
    data = math.ceil(entries * ((kh - 1) * dilation + 1) / 256)
    return data, weights


def _has_zero_point(node: Node) -> bool:
    """Whether a Q/DQ node's zero point is another than 0, or computed."""
    if node.input(2) is None:
        return False
    zero = node.constant(2)
    return zero is None or bool(np.any(zero != 0))


class NodeChecks:
    """Checks nodes of one graph against the limits of one TensorRT version.

    Args:
        graph: with constants folded.
        limits: of the TensorRT version.
        target: what the DLA computes in, and the chip.
    """

    def __init__(self, graph: Graph, limits: DlaLimits, target: DlaTarget) -> None:
        self.graph, self.limits = graph, limits
        self.precision, self.soc = target.precision, target.soc
        self._head, self._stem = head_and_stem(graph)

    def check(self, node: Node) -> list[Rule]:
        """Return the rules that a node breaks; nodes that TensorRT drops break none."""
        broken = []
        for name, found, *mend in () if self.is_dropped(node) else self._broken(node):
            rule = RULES[name]
            mended_by = mend[0] if mend else rule.mended_by
            if node in self._head and rule.effect is Effect.GPU and name != "static-shape":
                mended_by = "cut-head"
            broken.append(replace(rule, found=found, mended_by=mended_by))
        return broken

    def is_dropped(self, node: Node) -> bool:
        """Whether TensorRT makes no layer of a node (identities, casts between floats).

        Q/DQ nodes of a strongly typed network tell the layers around them their type.
        """
        if node.op in ("Identity", "Dropout"):
            return True
        if node.op in _QDQ:
            return self.limits.strongly_typed and not _has_zero_point(node)
        if node.op != "Cast":
            return False
        return all(value.dtype in _FLOATS for value in (node.inputs[0], node.outputs[0]))

    def _broken(self, node: Node) -> Iterator[_Broken]:
        """Yield rule, what the node has instead, and the pass that mends it if not the rule's."""
        if node.op in _QDQ:
            yield ("qdq-symmetric" if self.limits.strongly_typed else "qdq"), node.op
        elif node.op == "Cast" and node.inputs[0].dtype == np.uint8:
            yield "uint8-input", "Cast of the uint8 input"
        elif node.op not in self.limits.native:
            mend = _OPERATOR_PASSES.get(node.op, "")
            if node.op in ("Div", "Pow", "Sub") and node in self._stem:
                mend = "fold-input"
            elif node.op == "Div" and node.constant(1) is not None:
                mend = "div-to-mul"
            yield "operator", f"{node.op}, TensorRT {self.limits.tensorrt}", mend
        else:
            yield from self._general(node)
            if node.op in self.limits.uncertain:
                yield "uncertain", node.op
            check = _CHECKS.get(node.op)
            if check is not None:
                yield from check(self, node)

    def _general(self, node: Node) -> Iterator[_Broken]:
        tensors = [*node.variables, *node.outputs]
        for tensor in tensors:
            shape: tuple[Any, ...] | None = tensor.shape
            if shape is None or any(not isinstance(d, int) for d in shape[1:]):
                yield "static-shape", f"{tensor.name}: {describe(shape)}"
                return
            if any(d > self.limits.max_dimension for d in shape[1:]):
                yield "dimension", f"{tensor.name}: {describe(shape)}"
                break
        for tensor in tensors:
            kind = tensor.dtype
            if kind is not None and kind not in _FLOATS and node.op not in _COMPARISONS:
                yield "data-type", f"{tensor.name}: {kind}"
                break
        first: tuple[Any, ...] | None = node.outputs[0].shape if node.outputs else None
        if first and isinstance(first[0], int):
            # Everything before C, H, W counts as batch.
            batch = math.prod(first[:-3]) if len(first) > 3 else first[0]
            if batch > self.limits.max_batch:
                yield "batch", str(batch)
        if first and node.op in _ACTIVATIONS and len(first) != 4:
            yield "activation-2d", f"{len(first)} dimensions"

    def _conv(self, node: Node) -> Iterator[_Broken]:
        weights = node.weights()
        if weights is None or weights.ndim != 4:
            found = "computed weights" if weights is None else f"{weights.ndim - 2} dimensions"
            yield "conv-2d", found
            return
        limits, shape = self.limits, node.inputs[0].static_shape
        kernel = [int(k) for k in weights.shape[2:]]
        strides = list(node.attrs.get("strides", [1, 1]))
        dilations = list(node.attrs.get("dilations", [1, 1]))
        groups = int(node.attrs.get("group", 1))
        for what, values, allowed in (
            ("kernel", kernel, limits.conv_kernel),
            ("stride", strides, limits.conv_stride),
            ("dilation", dilations, limits.conv_dilation),
            ("maps", weights.shape[:1], limits.conv_maps),
            ("groups", [groups], limits.conv_groups),
        ):
            yield from _outside(f"conv-{what}", what, values, allowed)
        pads = _pads(node, kernel, strides, dilations, shape)
        low, high = limits.conv_padding
        if any(not low <= p <= high or p >= kernel[i % 2] for i, p in enumerate(pads)):
            yield "conv-padding", f"padding {describe(pads)}, kernel {describe(kernel)}"
        if shape is None:
            return
        data, weight = cbuf_banks(
            shape[1], shape[3], (kernel[0], kernel[1]), dilations[0], self.precision
        )
        if data + weight > limits.cbuf_banks:
            yield "conv-cbuf", f"{data} + {weight} banks of {limits.cbuf_banks}"
        low, high = limits.hwc4_groups
        if node.inputs[0] in self.graph.inputs and shape[1] <= 4 and not low <= groups <= high:
            yield "conv-groups-hwc4", f"{groups} groups"

    def _deconv(self, node: Node) -> Iterator[_Broken]:
        weights = node.weights()
        if weights is None or weights.ndim != 4:
            yield "conv-2d", "computed weights or not 2D"
            return
        limits = self.limits
        kernel = [int(k) for k in weights.shape[2:]]
        strides = list(node.attrs.get("strides", [1, 1]))
        low, high = limits.deconv_disabled
        sizes = (
            ("kernel", kernel, limits.deconv_kernel),
            ("stride", strides, limits.deconv_stride),
        )
        wrong = {
            f"{what} {describe(size)}": not _within(size, allowed)
            and not (min(size) == 1 and max(size) in limits.deconv_wide)
            for what, size, allowed in sizes
        }
        wrong |= {
            f"square {what} of {low} to {high}": size[0] == size[1] and low <= size[0] <= high
            for what, size, _ in sizes
        }
        wrong |= {
            "padding": any(node.attrs.get("pads", [0]))
            or any(node.attrs.get("output_padding", [0])),
            f"{node.attrs.get('group', 1)} groups": node.attrs.get("group", 1) != 1,
            "dilation": any(d != 1 for d in node.attrs.get("dilations", [1])),
        }
        if any(wrong.values()):
            yield "deconv", ", ".join(found for found, is_wrong in wrong.items() if is_wrong)

    def _pool(self, node: Node) -> Iterator[_Broken]:
        limits = self.limits
        kernel = list(node.attrs.get("kernel_shape", []))
        dilated = any(d != 1 for d in node.attrs.get("dilations", [1]))
        if len(kernel) != 2 or len(node.outputs) > 1 or dilated:
            yield "pool-form", "1D, 3D, dilated or with indices"
            return
        strides = list(node.attrs.get("strides", [1, 1]))
        pads = _pads(node, kernel, strides, [1, 1], node.inputs[0].static_shape)
        blocks = strides == kernel and not any(pads)
        broken: list[_Broken] = [
            *(
                (*rule, "pool-by-blocks") if blocks else rule
                for rule in _outside("pool-window", "window", kernel, limits.pool_window)
            ),
            *_outside("pool-stride", "stride", strides, limits.pool_stride),
        ]
        yield from broken
        if not broken or max(kernel) <= limits.pool_window[1]:
            yield from _outside("pool-padding", "padding", pads, limits.pool_padding)
        exclusive = node.op == "AveragePool" and not node.attrs.get("count_include_pad", 0)
        if exclusive and any(pads) and self.soc == "xavier":
            yield "pool-exclusive", "padding left out"
        if self.precision == "int8":
            yield "pool-scale", node.op

    def _clip(self, node: Node) -> Iterator[_Broken]:
        bounds = [node.constant(index) for index in (1, 2)]
        low, high = (None if b is None else float(b.ravel()[0]) for b in bounds)
        minimum, maximum = self.limits.clip_upper
        if low != 0.0 or high is None or not minimum <= high <= maximum:
            yield "clip-range", f"{low} to {high}"

    def _fp16_activation(self, node: Node) -> Iterator[_Broken]:
        if self.precision == "int8":
            yield "activation-fp16", node.op

    def _prelu(self, node: Node) -> Iterator[_Broken]:
        slope, rank = node.constant(1), len(node.inputs[0].shape or ())
        # The parser adds leading ones to a slope (C, 1, 1).
        if slope is None or slope.ndim not in (rank, rank - 1):
            yield "prelu-slope", "computed slope or other rank"

    def _elementwise(self, node: Node) -> Iterator[_Broken]:
        result = node.outputs[0].shape
        shapes = [value.shape for value in node.inputs if value.shape is not None]
        if result is None or len(shapes) < len(node.inputs):
            yield "static-shape", "unknown operand"
            return
        if len(result) != 4 or not all(_broadcasts(s, result) for s in shapes):
            yield "elementwise-broadcast", ", ".join(describe(s) or "scalar" for s in shapes)
        if self.precision == "int8" and len(node.variables) > 1 and node.op != "Mul":
            yield "elementwise-scale", node.op

    def _comparison(self, node: Node) -> Iterator[_Broken]:
        readers = node.outputs[0].readers
        if self.precision != "int8" or not readers or any(r.op != "Cast" for r in readers):
            yield "comparison", "FP16, or its output is not cast"

    def _concat(self, node: Node) -> Iterator[_Broken]:
        rank = len(node.outputs[0].shape or ())
        axis = int(node.attrs.get("axis", 1))
        axis = axis + rank if axis < 0 else axis
        along_channels, alone = rank == 4 and axis == 1, len(node.inputs) < 2
        if not along_channels:
            yield "concat-axis", f"axis {axis} of {rank}"
        if alone:
            yield "concat-inputs", "one input"
        if self.precision == "int8" and along_channels and not alone:
            yield "concat-scale", f"{len(node.inputs)} inputs"

    def _lrn(self, node: Node) -> Iterator[_Broken]:
        size = int(node.attrs.get("size", 0))
        if size not in self.limits.lrn_windows:
            yield "lrn", f"window {size}"
        if self.precision == "int8":
            yield "lrn-fp16", "LRN"

    def _resize(self, node: Node) -> Iterator[_Broken]:
        scales = node.constant(1 if node.op == "Upsample" else 2)
        if scales is None or scales.size != 4:
            yield "resize-scales", "an output size"
            return
        values = [float(s) for s in scales]
        if values[0] != 1 or values[1] != 1:
            yield "resize-scales", f"scales {values}"
            return
        mode = node.attrs.get("mode", "nearest")
        low, high = self.limits.nearest_scale if mode == "nearest" else self.limits.linear_scale
        if any(v != int(v) or not low <= v <= high for v in values[2:]):
            yield "resize-factor", f"{mode}, scales {values[2]:g}x{values[3]:g}", ""
            return
        form = node.attrs.get("coordinate_transformation_mode", "half_pixel")
        rounding = node.attrs.get("nearest_mode", "round_prefer_floor")
        if node.op == "Upsample":
            form, rounding = "asymmetric", "floor"
        halves = ("round_prefer_floor", "round_prefer_ceil")
        good = (
            (form == "asymmetric" and rounding == "floor")
            or (form == "half_pixel" and rounding in halves)
            if mode == "nearest"
            else mode == "linear" and form == "half_pixel"
        )
        if not good:
            yield "resize-mode", f"{mode}, {form}, {rounding}"

    def _slice(self, node: Node) -> Iterator[_Broken]:
        bounds, rank = slice_bounds(node), len(node.inputs[0].shape or ())
        if bounds is None or rank != 4:
            yield "slice-form", f"{rank} dimensions" if rank != 4 else "computed bounds"
            return
        steps = [step for _, _, _, step in bounds]
        if any(axis % rank == 0 for axis, _, _, _ in bounds):
            yield "slice-form", "along the batch"
        if any(s != 1 for s in steps):
            mend = "fold-input" if any(s < 0 for s in steps) else "focus-to-conv"
            text = f"stride {', '.join(str(s) for s in steps)}"
            yield "slice-stride", text, mend if node in self._stem else ""
        yield from self._slice_precision(node)

    def _pad(self, node: Node) -> Iterator[_Broken]:
        """Check a Pad, of which TensorRT makes a Slice that fills or wraps."""
        pads, mode = node.constant(1), node.attrs.get("mode", "constant")
        value = node.constant(2) if node.input(2) is not None else np.zeros(1)
        rank = len(node.inputs[0].shape or ())
        if rank != 4 or pads is None or pads.size != 8 or node.input(3) is not None:
            yield "pad", "computed, of some axes, or not of four dimensions"
        elif pads[0] or pads[4]:
            yield "pad", "along the batch"
        elif mode != "wrap" and (mode != "constant" or value is None or np.any(value != 0)):
            yield "pad", f"mode {mode}, other values than 0"

    def _split(self, node: Node) -> Iterator[_Broken]:
        rank, axis = len(node.inputs[0].shape or ()), int(node.attrs.get("axis", 0))
        if rank != 4 or axis % rank == 0:
            yield "slice-form", f"axis {axis} of {rank} dimensions"
        else:
            yield from self._slice_precision(node)

    def _slice_precision(self, node: Node) -> Iterator[_Broken]:
        if self.precision == "int8" and self.limits.slice_fp16_only:
            yield "slice-fp16", node.op

    def _softmax(self, node: Node) -> Iterator[_Broken]:
        shape = node.inputs[0].static_shape
        if self.soc == "xavier":
            yield "softmax-xavier", "Softmax"
        elif shape is not None:
            axis = int(node.attrs.get("axis", -1)) % len(shape)
            alone = all(d == 1 for i, d in enumerate(shape) if i not in (0, axis))
            limits = self.limits
            most = limits.softmax_axis if alone else limits.softmax_axis_approximate
            if axis == 0 or shape[axis] > most:
                yield "softmax", f"axis {axis} of {describe(shape)}"
            elif self.precision == "int8":
                yield "softmax-fp16", node.op

    def _reshape(self, node: Node) -> Iterator[_Broken]:
        before, after = node.inputs[0].static_shape, node.outputs[0].static_shape
        if before is None or after is None:
            return
        found = f"{describe(before)} -> {describe(after)}"
        if len(before) != 4 or len(after) != 4:
            yield "shuffle-4d", found
        elif before[0] != after[0]:
            yield "shuffle-batch", found

    def _transpose(self, node: Node) -> Iterator[_Broken]:
        rank = len(node.inputs[0].shape or ())
        perm = list(node.attrs.get("perm", range(rank)[::-1]))
        order = f"order {' '.join(map(str, perm))}"
        if rank != 4:
            yield "shuffle-4d", f"{rank} dimensions, {order}"
        elif perm[0] != 0:
            yield "shuffle-batch", order

    def _matmul(self, node: Node) -> Iterator[_Broken]:
        if node.constant(1) is None:
            yield "matmul", "computed second operand"

    def _reduce(self, node: Node) -> Iterator[_Broken]:
        axes, rank = node.attrs.get("axes", node.constant(1)), len(node.inputs[0].shape or ())
        if axes is None or rank != 4 or any(int(a) % rank == 0 for a in axes):
            yield "reduce", f"axes {axes}"


def _outside(
    rule: str, what: str, values: Sequence[int], limits: tuple[int, int]
) -> Iterator[tuple[str, str]]:
    """Yield a rule where a value is not within its limits."""
    if not _within(values, limits):
        yield rule, f"{what} {describe(values)}"


def _within(values: Sequence[int], limits: tuple[int, int]) -> bool:
    return all(limits[0] <= value <= limits[1] for value in values)


def _broadcasts(shape: Sequence[Any], result: Sequence[Any]) -> bool:
    """Whether an operand is NCHW, NC11 or N111 beside a result of four dimensions."""
    full = [1] * (4 - len(shape)) + list(shape)
    if len(full) != 4:
        return False
    # A constant may repeat over the batch.
    chw, target = full[1:], list(result[1:])
    return chw in (target, [target[0], 1, 1], [1, 1, 1])


def _pads(
    node: Node,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    shape: tuple[int, ...] | None,
) -> list[int]:
    """Return the padding of a node, computed where it is SAME."""
    mode = node.attrs.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        return list(node.attrs.get("pads", [0] * 4)) if mode == "NOTSET" else [0] * 4
    if shape is None or len(shape) != 4:
        return [0] * 4
    begin, end = [], []
    for size, k, s, d in zip(shape[2:], kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
        low = total // 2 if mode == "SAME_UPPER" else total - total // 2
        begin.append(low)
        end.append(total - low)
    return begin + end


_CHECKS: dict[str, Callable[[NodeChecks, Node], Iterator[_Broken]]] = {
    "Clip": NodeChecks._clip,
    "Concat": NodeChecks._concat,
    "Conv": NodeChecks._conv,
    "ConvTranspose": NodeChecks._deconv,
    "LRN": NodeChecks._lrn,
    "Pad": NodeChecks._pad,
    "PRelu": NodeChecks._prelu,
    "ReduceMax": NodeChecks._reduce,
    "Reshape": NodeChecks._reshape,
    "Slice": NodeChecks._slice,
    "Softmax": NodeChecks._softmax,
    "Split": NodeChecks._split,
    "Transpose": NodeChecks._transpose,
    **dict.fromkeys(("AveragePool", "MaxPool"), NodeChecks._pool),
    **dict.fromkeys(("Gemm", "MatMul"), NodeChecks._matmul),
    **dict.fromkeys(("Resize", "Upsample"), NodeChecks._resize),
    **dict.fromkeys(("Sigmoid", "Tanh"), NodeChecks._fp16_activation),
    **dict.fromkeys(_COMPARISONS, NodeChecks._comparison),
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Pow"), NodeChecks._elementwise
    ),
}
