# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""FocusToConv: the Focus stem as one convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.model_graph import ModelGraph

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


class _Phase(NamedTuple):
    """One of the pixel phases that Focus stacks: offsets of its first row and column."""

    source: gs.Tensor
    row: int
    column: int


class FocusToConv(SurgeryPass):
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

    def rewrite(self, graph: ModelGraph, log: PassLog) -> None:
        for conv in [n for n in graph.graph.nodes if n.op == "Conv"]:
            stacked = conv.inputs[0]
            phases = _phases(graph, stacked)
            if phases is None:
                continue
            reason = _refusal(graph, conv, phases)
            if reason:
                log.note(f"{conv.name}: Focus left as it is, {reason}")
                continue
            before = graph.input_constant(conv, 1)
            assert before is not None
            weights = _rearrange(before, phases)
            conv.inputs[0] = phases[0].source
            conv.inputs[1] = graph.constant(f"{conv.inputs[1].name}_focus", weights)
            kernel = list(weights.shape[2:])
            conv.attrs["kernel_shape"] = kernel
            conv.attrs["strides"] = [2 * s for s in conv.attrs.get("strides", [1, 1])]
            conv.attrs["pads"] = [2 * p for p in conv.attrs.get("pads", [0] * 4)]
            order = " ".join(f"({p.row},{p.column})" for p in phases)
            log.change(
                f"{conv.name}: phases {order} and {before.shape[2]}x{before.shape[3]} kernel -> "
                f"{kernel[0]}x{kernel[1]} stride {conv.attrs['strides'][0]}"
            )


def _phases(graph: ModelGraph, stacked: gs.Tensor) -> list[_Phase] | None:
    """Return the phases stacked in a tensor, None where it is no Focus."""
    node = graph.producer(stacked)
    if node is None:
        return None
    if node.op == "SpaceToDepth" and node.attrs.get("blocksize") == 2:
        source = node.inputs[0]
        return [_Phase(source, r, q) for r in (0, 1) for q in (0, 1)]
    if node.op != "Concat" or node.attrs.get("axis") not in (1, -3) or len(node.inputs) != 4:
        return None
    phases = [_phase(graph, tensor) for tensor in node.inputs]
    found = [p for p in phases if p is not None]
    if len(found) != 4 or any(p.source is not found[0].source for p in found):
        return None
    # A phase may stand twice or be missing: the formula holds, but it is not a Focus.
    return found if len({(p.row, p.column) for p in found}) == 4 else None


def _phase(graph: ModelGraph, tensor: gs.Tensor) -> _Phase | None:
    """Follow slices back to their common source; None unless they take every second pixel."""
    starts = {2: 0, 3: 0}
    steps = {2: 1, 3: 1}
    while steps != {2: 2, 3: 2}:
        node = graph.producer(tensor)
        bounds = _bounds(graph, node) if node is not None and node.op == "Slice" else None
        if node is None or bounds is None:
            return None
        for axis, start, step in bounds:
            # Walking from the last slice to the first: the earlier one scales what is known.
            starts[axis] = start + step * starts[axis]
            steps[axis] *= step
        tensor = node.inputs[0]
    if starts[2] > 1 or starts[3] > 1:
        return None
    return _Phase(tensor, starts[2], starts[3])


def _bounds(graph: ModelGraph, node: gs.Node) -> list[tuple[int, int, int]] | None:
    """Return (axis, start, step) of a slice of rows and columns up to the end; None otherwise."""
    shape = graph.static_shape(node.inputs[0])
    values = [graph.input_constant(node, i) for i in range(1, 5)]
    if values[0] is None or values[1] is None:
        return None
    first, last = values[0].ravel().tolist(), values[1].ravel().tolist()
    axes = range(len(first)) if values[2] is None else values[2].ravel().tolist()
    steps = [1] * len(first) if values[3] is None else values[3].ravel().tolist()
    found = []
    for start, end, axis, step in zip(first, last, axes, steps, strict=True):
        axis = axis + 4 if axis < 0 else axis
        whole = end >= (2**31 - 1 if shape is None else shape[axis])
        if axis not in (2, 3) or start < 0 or not 1 <= step <= 2 or not whole:
            return None
        found.append((axis, start, step))
    return found


def _refusal(graph: ModelGraph, conv: gs.Node, phases: list[_Phase]) -> str:
    shape = phases[0].source.shape
    if graph.input_constant(conv, 1) is None:
        return "its weights are not constant"
    if conv.attrs.get("group", 1) != 1:
        return f"its convolution has {conv.attrs['group']} groups"
    if any(d != 1 for d in conv.attrs.get("dilations", [1, 1])):
        return "its convolution is dilated"
    if conv.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"its padding is {conv.attrs['auto_pad']}"
    if shape is not None and any(isinstance(d, int) and d % 2 for d in shape[2:]):
        return f"the input of {shape} has an odd height or width"
    return ""


def _rearrange(weights: npt.NDArray[Any], phases: list[_Phase]) -> npt.NDArray[Any]:
    out, stacked, height, width = weights.shape
    channels = stacked // 4
    result = np.zeros((out, channels, 2 * height, 2 * width), weights.dtype)
    for p, phase in enumerate(phases):
        part = weights[:, p * channels : (p + 1) * channels]
        result[:, :, phase.row :: 2, phase.column :: 2] = part
    return result
