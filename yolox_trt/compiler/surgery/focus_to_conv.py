# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""FocusToConv: the Focus stem as one convolution."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from yolox_trt.compiler.surgery.surgery_pass import Rule
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Array, Node, Value, slice_bounds


class _Phase(NamedTuple):
    """One of the pixel phases that Focus stacks: offsets of its first row and column."""

    source: Value
    row: int
    column: int


class FocusToConv(Rule):
    """Focus (strided slices, Concat, k x k convolution) -> one 2k x 2k stride-2 convolution.

    Focus moves the pixel (2y + r, 2x + q) of channel c to channel p * C + c at (y, x), where p
    numbers the phases (r, q) in the order of the Concat. A k x k convolution over that is the
    2k x 2k convolution with W'[o, c, 2i + r, 2j + q] = W[o, p * C + c, i, j], stride and padding
    doubled: the same products, so the result differs by the order of a sum at most. SpaceToDepth
    with blocks of 2 is the same thing with phases in the order (0,0) (0,1) (1,0) (1,1).

    The DLA takes no slice with a stride, and TensorRT's GPU kernels need one launch a slice.
    """

    name = "focus-to-conv"
    summary = "Focus stem (strided slices, concat, k x k conv) -> one 2k x 2k stride-2 conv"
    ops = ("Conv",)

    def pattern(self, node: Node) -> list[_Phase] | None:
        """Return the phases stacked in a convolution's input, None where it is no Focus."""
        stack = node.source()
        if stack is None:
            return None
        if stack.op == "SpaceToDepth" and stack.attrs.get("blocksize") == 2:
            return [_Phase(stack.inputs[0], r, q) for r in (0, 1) for q in (0, 1)]
        if stack.op != "Concat" or stack.attrs.get("axis") not in (1, -3) or len(stack.inputs) != 4:
            return None
        phases = [phase for value in stack.inputs if (phase := _phase(value)) is not None]
        if len(phases) != 4 or any(p.source is not phases[0].source for p in phases):
            return None
        # A phase may stand twice or be missing: the formula holds, but it is not a Focus.
        return phases if len({(p.row, p.column) for p in phases}) == 4 else None

    def check(self, graph: Graph, node: Node, match: list[_Phase]) -> str:
        reason, shape = "", match[0].source.shape
        if node.constant(1) is None:
            reason = "its weights are not constant"
        elif node.attrs.get("group", 1) != 1:
            reason = f"its convolution has {node.attrs['group']} groups"
        elif any(d != 1 for d in node.attrs.get("dilations", [1, 1])):
            reason = "its convolution is dilated"
        elif node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            reason = f"its padding is {node.attrs['auto_pad']}"
        elif shape is not None and any(isinstance(d, int) and d % 2 for d in shape[2:]):
            reason = f"the input of {list(shape)} has an odd height or width"
        return reason and f"Focus left as it is, {reason}"

    def apply(self, graph: Graph, node: Node, match: list[_Phase]) -> str:
        before = node.constant(1)
        assert before is not None
        weights = _rearrange(before, match)
        name = f"{node.inputs[1].name}_focus"
        node.inputs = [match[0].source, graph.constant(name, weights), *node.inputs[2:]]
        kernel = list(weights.shape[2:])
        node.attrs["kernel_shape"] = kernel
        node.attrs["strides"] = [2 * s for s in node.attrs.get("strides", [1, 1])]
        node.attrs["pads"] = [2 * p for p in node.attrs.get("pads", [0] * 4)]
        order = " ".join(f"({p.row},{p.column})" for p in match)
        return (
            f"phases {order} and {before.shape[2]}x{before.shape[3]} kernel -> "
            f"{kernel[0]}x{kernel[1]} stride {node.attrs['strides'][0]}"
        )


def _phase(value: Value) -> _Phase | None:
    """Follow slices back to their common source; None unless they take every second pixel."""
    starts, steps = {2: 0, 3: 0}, {2: 1, 3: 1}
    while steps != {2: 2, 3: 2}:
        node = value.producer
        bounds = _bounds(node) if node is not None and node.op == "Slice" else None
        if node is None or bounds is None:
            return None
        for axis, start, step in bounds:
            # Walking from the last slice to the first: the earlier one scales what is known.
            starts[axis] = start + step * starts[axis]
            steps[axis] *= step
        value = node.inputs[0]
    if starts[2] > 1 or starts[3] > 1:
        return None
    return _Phase(value, starts[2], starts[3])


def _bounds(node: Node) -> list[tuple[int, int, int]] | None:
    """Return (axis, start, step) of a slice of rows and columns up to the end; None otherwise."""
    shape, bounds = node.inputs[0].static_shape, slice_bounds(node)
    found = []
    for axis, start, end, step in bounds or ():
        axis = axis + 4 if axis < 0 else axis
        whole = end >= (2**31 - 1 if shape is None else shape[axis])
        if axis not in (2, 3) or start < 0 or not 1 <= step <= 2 or not whole:
            return None
        found.append((axis, start, step))
    return found or None


def _rearrange(weights: Array, phases: list[_Phase]) -> Array:
    out, stacked, height, width = weights.shape
    channels = stacked // 4
    result = np.zeros((out, channels, 2 * height, 2 * width), weights.dtype)
    for p, phase in enumerate(phases):
        part = weights[:, p * channels : (p + 1) * channels]
        result[:, :, phase.row :: 2, phase.column :: 2] = part
    return result
