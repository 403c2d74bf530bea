# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""NodeChecks: the rules that one node of a graph breaks on a DLA."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from yolox_trt.compiler.dla.limits import DlaLimits
from yolox_trt.compiler.dla.rules import RULES, Effect, Violation
from yolox_trt.graph.model_graph import ModelGraph

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Pow"})
_COMPARISONS = frozenset({"Equal", "Greater", "Less"})
_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: Passes for operators that have no DLA layer at all.
_OPERATOR_PASSES = {
    "HardSwish": "activations",
    "HardSigmoid": "activations",
    "Swish": "activations",
    "SpaceToDepth": "focus-to-conv",
    "Pad": "remove-no-ops",
    "Identity": "remove-no-ops",
    "Dropout": "remove-no-ops",
    "EfficientNMS_TRT": "cut-head",
    "Exp": "cut-head",
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


class NodeChecks:
    """Checks nodes of one graph against the limits of one TensorRT version.

    Args:
        graph: with constants folded.
        limits: of the TensorRT version.
        precision: "int8" or "fp16".
        soc: "orin" or "xavier".
        head: ids of the nodes behind the last convolutions (cut-head mends what they break).
        stem: ids of the nodes before the first convolution.
    """

    def __init__(
        self,
        graph: ModelGraph,
        limits: DlaLimits,
        precision: str,
        soc: str,
        *,
        head: frozenset[int] = frozenset(),
        stem: frozenset[int] = frozenset(),
    ) -> None:
        self.graph, self.limits, self.precision, self.soc = graph, limits, precision, soc
        self._head, self._stem = head, stem
        self._checks: dict[str, Callable[[gs.Node], list[Violation]]] = {
            "Conv": self._conv,
            "ConvTranspose": self._deconv,
            "MaxPool": self._pool,
            "AveragePool": self._pool,
            "Clip": self._clip,
            "Sigmoid": self._fp16_activation,
            "Tanh": self._fp16_activation,
            "PRelu": self._prelu,
            "Concat": self._concat,
            "LRN": self._lrn,
            "Resize": self._resize,
            "Upsample": self._resize,
            "Slice": self._slice,
            "Split": self._split,
            "Softmax": self._softmax,
            "Reshape": self._reshape,
            "Transpose": self._transpose,
            "Gemm": self._matmul,
            "MatMul": self._matmul,
            "ReduceMax": self._reduce,
        }

    def check(self, node: gs.Node) -> list[Violation]:
        """Return the rules that a node breaks; nodes that TensorRT drops break none."""
        if self.is_dropped(node):
            return []
        if node.op in _QDQ:
            return [self._broken("qdq", node.op, node=node)]
        if node.op not in self.limits.native:
            mend = _OPERATOR_PASSES.get(node.op, "")
            found = f"{node.op}, TensorRT {self.limits.tensorrt}"
            if node.op == "Cast" and self._reads_uint8(node):
                return [self._broken("uint8-input", "Cast of the uint8 input", node=node)]
            if node.op in ("Div", "Pow", "Sub") and id(node) in self._stem:
                mend = "fold-input"
            return [self._broken("operator", found, mend, node=node)]
        broken = self._general(node)
        if node.op in self.limits.uncertain:
            broken.append(self._broken("uncertain", node.op, node=node))
        check = self._checks.get(node.op)
        if check is not None:
            broken += check(node)
        elif node.op in _ELEMENTWISE:
            broken += self._elementwise(node)
        elif node.op in _COMPARISONS:
            broken += self._comparison(node)
        return broken

    def is_dropped(self, node: gs.Node) -> bool:
        """Whether TensorRT makes no layer of a node (identities and casts between floats)."""
        if node.op in ("Identity", "Dropout"):
            return True
        if node.op != "Cast":
            return False
        kinds = [np.dtype(t.dtype) if t.dtype else None for t in (node.inputs[0], node.outputs[0])]
        return all(k in _FLOATS for k in kinds)

    def _broken(
        self, rule: str, found: str, mended_by: str | None = None, *, node: gs.Node
    ) -> Violation:
        entry = RULES[rule]
        mend = entry.mended_by if mended_by is None else mended_by
        if id(node) in self._head and entry.effect is Effect.GPU and rule != "static-shape":
            mend = "cut-head"
        return Violation(entry, found, mend)

    def _reads_uint8(self, node: gs.Node) -> bool:
        kind = node.inputs[0].dtype
        return kind is not None and np.dtype(kind) == np.uint8

    def _general(self, node: gs.Node) -> list[Violation]:
        broken: list[Violation] = []
        tensors = [t for t in [*node.inputs, *node.outputs] if self.graph.constant_value(t) is None]
        for tensor in tensors:
            shape = tensor.shape
            if tensor.is_empty():
                continue
            if shape is None or any(not isinstance(d, int) for d in shape[1:]):
                text = "?" if shape is None else "x".join(str(d) for d in shape)
                return [self._broken("static-shape", f"{tensor.name}: {text}", node=node)]
            if any(d > self.limits.max_dimension for d in shape[1:]):
                found = f"{tensor.name}: {'x'.join(str(d) for d in shape)}"
                broken.append(self._broken("dimension", found, node=node))
                break
        for tensor in tensors:
            kind = None if tensor.is_empty() or tensor.dtype is None else np.dtype(tensor.dtype)
            if kind is not None and kind not in _FLOATS and node.op not in _COMPARISONS:
                broken.append(self._broken("data-type", f"{tensor.name}: {kind}", node=node))
                break
        first = node.outputs[0].shape if node.outputs else None
        if first and isinstance(first[0], int):
            # Everything before C, H, W counts as batch.
            batch = math.prod(first[:-3]) if len(first) > 3 else first[0]
            if batch > self.limits.max_batch:
                broken.append(self._broken("batch", str(batch), node=node))
        return broken

    def _range(
        self, rule: str, node: gs.Node, what: str, values: Sequence[int], limits: tuple[int, int]
    ) -> list[Violation]:
        if all(limits[0] <= v <= limits[1] for v in values):
            return []
        found = f"{what} {'x'.join(str(v) for v in values)}"
        return [self._broken(rule, found, node=node)]

    def _conv(self, node: gs.Node) -> list[Violation]:
        weights = self.graph.weights(node)
        if weights is None or weights.ndim != 4:
            found = "computed weights" if weights is None else f"{weights.ndim - 2} dimensions"
            return [self._broken("conv-2d", found, node=node)]
        limits = self.limits
        kernel = [int(k) for k in weights.shape[2:]]
        strides = list(node.attrs.get("strides", [1, 1]))
        dilations = list(node.attrs.get("dilations", [1, 1]))
        pads = _pads(node, kernel, strides, dilations, self.graph.static_shape(node.inputs[0]))
        broken = self._range("conv-kernel", node, "kernel", kernel, limits.conv_kernel)
        broken += self._range("conv-stride", node, "stride", strides, limits.conv_stride)
        broken += self._range("conv-dilation", node, "dilation", dilations, limits.conv_dilation)
        broken += self._range("conv-maps", node, "maps", [weights.shape[0]], limits.conv_maps)
        groups = int(node.attrs.get("group", 1))
        broken += self._range("conv-groups", node, "groups", [groups], limits.conv_groups)
        low, high = limits.conv_padding
        if any(not low <= p <= high or p >= kernel[i % 2] for i, p in enumerate(pads)):
            found = f"padding {'x'.join(str(p) for p in pads)}, kernel {kernel[0]}x{kernel[1]}"
            broken.append(self._broken("conv-padding", found, node=node))
        shape = self.graph.static_shape(node.inputs[0])
        if shape is not None:
            data, weight = cbuf_banks(
                shape[1], shape[3], (kernel[0], kernel[1]), dilations[0], self.precision
            )
            if data + weight > limits.cbuf_banks:
                found = f"{data} + {weight} banks of {limits.cbuf_banks}"
                broken.append(self._broken("conv-cbuf", found, node=node))
            low, high = limits.hwc4_groups
            is_input = any(node.inputs[0] is t for t in self.graph.graph.inputs)
            if is_input and shape[1] <= 4 and not low <= groups <= high:
                broken.append(self._broken("conv-groups-hwc4", f"{groups} groups", node=node))
        return broken

    def _deconv(self, node: gs.Node) -> list[Violation]:
        weights = self.graph.weights(node)
        if weights is None or weights.ndim != 4:
            return [self._broken("conv-2d", "computed weights or not 2D", node=node)]
        limits = self.limits
        kernel = [int(k) for k in weights.shape[2:]]
        strides = list(node.attrs.get("strides", [1, 1]))
        wrong = []
        wide = kernel[0] == 1 and kernel[1] in limits.deconv_wide
        low, high = limits.deconv_kernel
        if not wide and not all(low <= k <= high for k in kernel):
            wrong.append(f"kernel {kernel[0]}x{kernel[1]}")
        low, high = limits.deconv_disabled
        if kernel[0] == kernel[1] and low <= kernel[0] <= high:
            wrong.append(f"square kernel of {low} to {high}")
        low, high = limits.deconv_stride
        if not all(low <= s <= high or s in limits.deconv_wide for s in strides):
            wrong.append(f"stride {strides[0]}x{strides[1]}")
        if any(node.attrs.get("pads", [0])) or any(node.attrs.get("output_padding", [0])):
            wrong.append("padding")
        if node.attrs.get("group", 1) != 1:
            wrong.append(f"{node.attrs['group']} groups")
        if any(d != 1 for d in node.attrs.get("dilations", [1])):
            wrong.append("dilation")
        return [self._broken("deconv", ", ".join(wrong), node=node)] if wrong else []

    def _pool(self, node: gs.Node) -> list[Violation]:
        limits = self.limits
        kernel = list(node.attrs.get("kernel_shape", []))
        dilated = any(d != 1 for d in node.attrs.get("dilations", [1]))
        if len(kernel) != 2 or len(node.outputs) > 1 or dilated:
            return [self._broken("pool-form", "1D, 3D, dilated or with indices", node=node)]
        strides = list(node.attrs.get("strides", [1, 1]))
        shape = self.graph.static_shape(node.inputs[0])
        pads = _pads(node, kernel, strides, [1, 1], shape)
        broken = self._range("pool-window", node, "window", kernel, limits.pool_window)
        broken += self._range("pool-stride", node, "stride", strides, limits.pool_stride)
        if not broken or max(kernel) <= limits.pool_window[1]:
            broken += self._range("pool-padding", node, "padding", pads, limits.pool_padding)
        exclusive = node.op == "AveragePool" and not node.attrs.get("count_include_pad", 0)
        if exclusive and any(pads) and self.soc == "xavier":
            broken.append(self._broken("pool-exclusive", "padding left out", node=node))
        if self.precision == "int8":
            broken.append(self._broken("pool-scale", node.op, node=node))
        return broken

    def _clip(self, node: gs.Node) -> list[Violation]:
        low, high = (self._bound(node, i) for i in (1, 2))
        minimum, maximum = self.limits.clip_upper
        if low == 0.0 and high is not None and minimum <= high <= maximum:
            return []
        return [self._broken("clip-range", f"{low} to {high}", node=node)]

    def _bound(self, node: gs.Node, index: int) -> float | None:
        value = self.graph.input_constant(node, index)
        return None if value is None else float(value.ravel()[0])

    def _fp16_activation(self, node: gs.Node) -> list[Violation]:
        if self.precision != "int8":
            return []
        return [self._broken("activation-fp16", node.op, node=node)]

    def _prelu(self, node: gs.Node) -> list[Violation]:
        slope = self.graph.input_constant(node, 1)
        rank = len(node.inputs[0].shape or ())
        # The parser adds leading ones to a slope (C, 1, 1).
        if slope is not None and slope.ndim in (rank, rank - 1):
            return []
        return [self._broken("prelu-slope", "computed slope or other rank", node=node)]

    def _elementwise(self, node: gs.Node) -> list[Violation]:
        broken = []
        result = node.outputs[0].shape
        shapes = []
        for tensor in node.inputs:
            constant = self.graph.constant_value(tensor)
            shapes.append(tensor.shape if constant is None else constant.shape)
        if result is None or any(s is None for s in shapes):
            return [self._broken("static-shape", "unknown operand", node=node)]
        if len(result) != 4 or not all(_broadcasts(s, result) for s in shapes):
            listed = ", ".join("x".join(str(d) for d in s) or "scalar" for s in shapes)
            broken.append(self._broken("elementwise-broadcast", listed, node=node))
        variables = [t for t in node.inputs if self.graph.constant_value(t) is None]
        if self.precision == "int8" and len(variables) > 1 and node.op != "Mul":
            broken.append(self._broken("elementwise-scale", node.op, node=node))
        return broken

    def _comparison(self, node: gs.Node) -> list[Violation]:
        readers = node.outputs[0].outputs
        if self.precision == "int8" and readers and all(r.op == "Cast" for r in readers):
            return []
        return [self._broken("comparison", "FP16, or its output is not cast", node=node)]

    def _concat(self, node: gs.Node) -> list[Violation]:
        broken = []
        rank = len(node.outputs[0].shape or ())
        axis = int(node.attrs.get("axis", 1))
        axis = axis + rank if axis < 0 else axis
        if rank != 4 or axis != 1:
            broken.append(self._broken("concat-axis", f"axis {axis} of {rank}", node=node))
        if len(node.inputs) < 2:
            broken.append(self._broken("concat-inputs", "one input", node=node))
        if self.precision == "int8" and not broken:
            broken.append(self._broken("concat-scale", f"{len(node.inputs)} inputs", node=node))
        return broken

    def _lrn(self, node: gs.Node) -> list[Violation]:
        broken = []
        size = int(node.attrs.get("size", 0))
        if size not in self.limits.lrn_windows:
            broken.append(self._broken("lrn", f"window {size}", node=node))
        if self.precision == "int8":
            broken.append(self._broken("lrn-fp16", "LRN", node=node))
        return broken

    def _resize(self, node: gs.Node) -> list[Violation]:
        scales = self.graph.input_constant(node, 1 if node.op == "Upsample" else 2)
        if scales is None or scales.size != 4:
            return [self._broken("resize-scales", "an output size", node=node)]
        values = [float(s) for s in scales]
        if values[0] != 1 or values[1] != 1:
            return [self._broken("resize-scales", f"scales {values}", node=node)]
        mode = node.attrs.get("mode", "nearest")
        low, high = self.limits.nearest_scale if mode == "nearest" else self.limits.linear_scale
        if any(v != int(v) or not low <= v <= high for v in values[2:]):
            found = f"{mode}, scales {values[2]:g}x{values[3]:g}"
            return [self._broken("resize-factor", found, "", node=node)]
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
        if good:
            return []
        return [self._broken("resize-mode", f"{mode}, {form}, {rounding}", node=node)]

    def _slice(self, node: gs.Node) -> list[Violation]:
        values = [self.graph.input_constant(node, i) for i in range(1, 5)]
        rank = len(node.inputs[0].shape or ())
        if values[0] is None or values[1] is None or rank != 4:
            found = f"{rank} dimensions" if rank != 4 else "computed bounds"
            return [self._broken("slice-form", found, node=node)]
        axes = range(len(values[0])) if values[2] is None else values[2].ravel().tolist()
        steps = [1] if values[3] is None else values[3].ravel().tolist()
        broken = []
        if any(a % rank == 0 for a in axes):
            broken.append(self._broken("slice-form", "along the batch", node=node))
        if any(s != 1 for s in steps):
            mend = None if id(node) in self._stem else ""
            if any(s < 0 for s in steps) and id(node) in self._stem:
                mend = "fold-input"
            found = f"stride {', '.join(str(s) for s in steps)}"
            broken.append(self._broken("slice-stride", found, mend, node=node))
        return broken + self._slice_precision(node)

    def _split(self, node: gs.Node) -> list[Violation]:
        rank = len(node.inputs[0].shape or ())
        axis = int(node.attrs.get("axis", 0))
        if rank != 4 or axis % rank == 0:
            found = f"axis {axis} of {rank} dimensions"
            return [self._broken("slice-form", found, node=node)]
        return self._slice_precision(node)

    def _slice_precision(self, node: gs.Node) -> list[Violation]:
        if self.precision == "int8" and self.limits.slice_fp16_only:
            return [self._broken("slice-fp16", node.op, node=node)]
        return []

    def _softmax(self, node: gs.Node) -> list[Violation]:
        shape = self.graph.static_shape(node.inputs[0])
        if self.soc == "xavier":
            return [self._broken("softmax-xavier", "Softmax", node=node)]
        if shape is None:
            return []
        axis = int(node.attrs.get("axis", -1)) % len(shape)
        others = [d for i, d in enumerate(shape) if i not in (0, axis)]
        alone = all(d == 1 for d in others)
        most = self.limits.softmax_axis if alone else self.limits.softmax_axis_approximate
        if axis == 0 or shape[axis] > most:
            found = f"axis {axis} of {'x'.join(str(d) for d in shape)}"
            return [self._broken("softmax", found, node=node)]
        return []

    def _reshape(self, node: gs.Node) -> list[Violation]:
        before, after = (self.graph.static_shape(t) for t in (node.inputs[0], node.outputs[0]))
        if before is None or after is None:
            return []
        found = f"{'x'.join(map(str, before))} -> {'x'.join(map(str, after))}"
        if len(before) != 4 or len(after) != 4:
            return [self._broken("shuffle-4d", found, node=node)]
        if before[0] != after[0]:
            return [self._broken("shuffle-batch", found, node=node)]
        return []

    def _transpose(self, node: gs.Node) -> list[Violation]:
        rank = len(node.inputs[0].shape or ())
        perm = list(node.attrs.get("perm", range(rank)[::-1]))
        if rank != 4:
            found = f"{rank} dimensions, order {' '.join(map(str, perm))}"
            return [self._broken("shuffle-4d", found, node=node)]
        if perm[0] != 0:
            found = f"order {' '.join(map(str, perm))}"
            return [self._broken("shuffle-batch", found, node=node)]
        return []

    def _matmul(self, node: gs.Node) -> list[Violation]:
        if self.graph.input_constant(node, 1) is not None:
            return []
        return [self._broken("matmul", "computed second operand", node=node)]

    def _reduce(self, node: gs.Node) -> list[Violation]:
        axes = node.attrs.get("axes", self.graph.input_constant(node, 1))
        rank = len(node.inputs[0].shape or ())
        if axes is None or rank != 4 or any(int(a) % rank == 0 for a in axes):
            return [self._broken("reduce", f"axes {axes}", node=node)]
        return []


def _broadcasts(shape: Sequence[Any], result: Sequence[Any]) -> bool:
    """Whether an operand is NCHW, NC11 or N111 beside a result of four dimensions."""
    full = [1] * (4 - len(shape)) + list(shape)
    if len(full) != 4:
        return False
    # A constant may repeat over the batch.
    chw, target = full[1:], list(result[1:])
    return chw in (target, [target[0], 1, 1], [1, 1, 1])


def _pads(
    node: gs.Node,
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
