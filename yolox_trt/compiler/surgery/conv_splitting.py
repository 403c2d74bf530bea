# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ConvSplitting: convolutions over a DLA's limits as several smaller ones."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.dla.limits import DlaLimits, limits_for
from yolox_trt.compiler.dla.node_checks import cbuf_banks
from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.model_graph import ModelGraph

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Array = npt.NDArray[Any]


class ConvSplitting(SurgeryPass):
    """Too many groups or output maps, or too much for the convolution buffer -> smaller convs.

    Groups: the channels are sliced, each slice has its own convolution, the results concatenated.
    Output maps: convolutions side by side on the same input, concatenated. Convolution buffer: the
    input channels are sliced and the partial results added (floating-point sums in another order).
    Only what is over the limits is touched.

    Args:
        limits: of the DLA; None takes TensorRT 8.6's.
        max_groups: most groups of one convolution, None for the DLA's 8192. A compiler that takes
            no grouped convolutions wants 1.
        precision: for the size of the convolution buffer.
    """

    name = "split-convs"
    summary = "convs over the DLA's limits (groups, maps, convolution buffer) -> several"

    def __init__(
        self,
        limits: DlaLimits | None = None,
        *,
        max_groups: int | None = None,
        precision: str = "int8",
    ) -> None:
        self.limits = limits or limits_for("8.6")
        self.max_groups = max_groups or self.limits.conv_groups[1]
        self.precision = precision

    def rewrite(self, graph: ModelGraph, log: PassLog) -> None:
        for conv in [n for n in graph.graph.nodes if n.op == "Conv"]:
            weights = graph.input_constant(conv, 1)
            bias = graph.input_constant(conv, 2)
            shape = graph.static_shape(conv.inputs[0])
            computed_bias = len(conv.inputs) > 2 and bias is None
            if weights is None or weights.ndim != 4 or shape is None or computed_bias:
                continue
            groups = int(conv.attrs.get("group", 1))
            parts = self._cbuf_parts(conv, weights, shape)
            if groups > self.max_groups:
                count = _divisor(groups, math.ceil(groups / self.max_groups))
                _by_groups(graph, conv, weights, bias, count)
                log.change(f"{conv.name}: {groups} groups -> {count} convolutions")
            elif groups == 1 and len(weights) > self.limits.conv_maps[1]:
                count = math.ceil(len(weights) / self.limits.conv_maps[1])
                _by_maps(graph, conv, weights, bias, count)
                log.change(f"{conv.name}: {len(weights)} maps -> {count} convolutions")
            elif parts > 1 and groups == 1:
                _by_inputs(graph, conv, weights, bias, parts)
                log.change(f"{conv.name}: over the convolution buffer -> {parts} convolutions")
            elif parts == 0:
                log.note(
                    f"{conv.name}: over the convolution buffer even channel by channel; "
                    "use a narrower input (`--input-size`)"
                )

    def _cbuf_parts(self, conv: gs.Node, weights: Array, shape: tuple[int, ...]) -> int:
        """Return into how many slices of input channels it must go, 0 if none is small enough."""
        kernel = (int(weights.shape[2]), int(weights.shape[3]))
        dilation = int(conv.attrs.get("dilations", [1, 1])[0])
        for parts in range(1, shape[1] + 1):
            channels = math.ceil(shape[1] / parts)
            banks = cbuf_banks(channels, shape[3], kernel, dilation, self.precision)
            if sum(banks) <= self.limits.cbuf_banks:
                return parts
        return 0


def _divisor(number: int, least: int) -> int:
    """Return the least divisor of a number that is not below `least`."""
    return next(d for d in range(least, number + 1) if number % d == 0)


def _slice(graph: ModelGraph, conv: gs.Node, first: int, last: int) -> gs.Tensor:
    source = conv.inputs[0]
    name = f"{conv.name}_slice{first}"
    bounds = [
        graph.constant(f"{name}_{n}", [v], np.int64)
        for n, v in (("start", first), ("end", last), ("axis", 1), ("step", 1))
    ]
    shape = list(source.shape or [])
    shape[1] = last - first
    return graph.add_node("Slice", name, [source, *bounds], dtype=source.dtype, shape=shape)


def _part(
    graph: ModelGraph,
    conv: gs.Node,
    source: gs.Tensor,
    weights: Array,
    bias: Array | None,
    index: int,
    groups: int = 1,
) -> gs.Tensor:
    name = f"{conv.name}_part{index}"
    inputs = [source, graph.constant(f"{name}_weight", weights)]
    if bias is not None:
        inputs.append(graph.constant(f"{name}_bias", bias))
    output = conv.outputs[0]
    shape = list(output.shape or [])
    if len(shape) == 4:
        shape[1] = len(weights)
    return graph.add_node(
        "Conv",
        name,
        inputs,
        {**conv.attrs, "group": groups},
        dtype=output.dtype,
        shape=shape or None,
    )


def _join(graph: ModelGraph, conv: gs.Node, parts: list[gs.Tensor]) -> None:
    output = conv.outputs[0]
    joined = graph.add_node(
        "Concat",
        f"{conv.name}_join",
        parts,
        {"axis": 1},
        dtype=output.dtype,
        shape=output.shape,
    )
    graph.replace_tensor(output, joined)


def _by_groups(
    graph: ModelGraph, conv: gs.Node, weights: Array, bias: Array | None, count: int
) -> None:
    groups = int(conv.attrs["group"])
    channels = weights.shape[1] * groups // count
    maps = len(weights) // count
    parts = []
    for i in range(count):
        source = _slice(graph, conv, i * channels, (i + 1) * channels)
        rows = slice(i * maps, (i + 1) * maps)
        own_bias = None if bias is None else bias[rows]
        parts.append(_part(graph, conv, source, weights[rows], own_bias, i, groups // count))
    _join(graph, conv, parts)


def _by_maps(
    graph: ModelGraph, conv: gs.Node, weights: Array, bias: Array | None, count: int
) -> None:
    edges = np.linspace(0, len(weights), count + 1).astype(int)
    parts = []
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        own_bias = None if bias is None else bias[a:b]
        parts.append(_part(graph, conv, conv.inputs[0], weights[a:b], own_bias, i))
    _join(graph, conv, parts)


def _by_inputs(
    graph: ModelGraph, conv: gs.Node, weights: Array, bias: Array | None, count: int
) -> None:
    step = math.ceil(weights.shape[1] / count)
    total: gs.Tensor | None = None
    for i, first in enumerate(range(0, weights.shape[1], step)):
        last = min(first + step, weights.shape[1])
        source = _slice(graph, conv, first, last)
        part = _part(graph, conv, source, weights[:, first:last], bias if i == 0 else None, i)
        if total is None:
            total = part
        else:
            output = conv.outputs[0]
            total = graph.add_node(
                "Add",
                f"{conv.name}_sum{i}",
                [total, part],
                dtype=output.dtype,
                shape=output.shape,
            )
    assert total is not None
    graph.replace_tensor(conv.outputs[0], total)
