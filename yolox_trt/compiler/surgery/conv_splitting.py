# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ConvSplitting: convolutions over a DLA's limits as several smaller ones."""

from __future__ import annotations

import itertools
import math

import numpy as np

from yolox_trt.compiler.dla.limits import limits_for
from yolox_trt.compiler.dla.node_checks import cbuf_banks
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.compiler.surgery.surgery_pass import Rule
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Array, Node, Value


class ConvSplitting(Rule):
    """Too many groups or output maps, or too much for the convolution buffer -> smaller convs.

    Groups: the channels are sliced, each slice has its own convolution, the results concatenated.
    Output maps: convolutions side by side on the same input, concatenated. Convolution buffer: the
    input channels are sliced and the partial results added (floating-point sums in another order).
    Only what is over the limits is touched: those of the DLA, or fewer groups where asked for (a
    compiler that takes no grouped convolutions wants 1).
    """

    name = "split-convs"
    summary = "convs over the DLA's limits (groups, maps, convolution buffer) -> several"
    ops = ("Conv",)

    def __init__(self, options: SurgeryOptions | None = None) -> None:
        super().__init__(options)
        self.limits = limits_for(self.options.tensorrt)
        self.max_groups = self.options.max_groups or self.limits.conv_groups[1]

    @property
    def is_wanted(self) -> bool:
        return self.options.target == "dla" or self.options.max_groups is not None

    def pattern(self, node: Node) -> tuple[str, int] | None:
        """Return what is divided, and into how many parts (0 where no number is enough)."""
        weights, shape = node.constant(1), node.inputs[0].static_shape
        computed_bias = node.input(2) is not None and node.constant(2) is None
        if weights is None or weights.ndim != 4 or shape is None or computed_bias:
            return None
        groups, maps = int(node.attrs.get("group", 1)), self.limits.conv_maps[1]
        if groups < 1 or len(weights) % groups:
            return None  # no convolution: ONNX Runtime says so
        if groups > self.max_groups:
            return "groups", _divisor(groups, -(-groups // self.max_groups))
        if groups > 1:
            return None
        if len(weights) > maps:
            return "maps", math.ceil(len(weights) / maps)
        parts = self._cbuf_parts(node, weights, shape)
        return None if parts == 1 else ("inputs", parts)

    def check(self, graph: Graph, node: Node, match: tuple[str, int]) -> str:
        if match[1]:
            return ""
        return "over the convolution buffer even channel by channel; use a narrower input"

    def apply(self, graph: Graph, node: Node, match: tuple[str, int]) -> str:
        what, count = match
        weights, groups = node.constant(1), int(node.attrs.get("group", 1))
        assert weights is not None
        source = node.inputs[0]
        parts: list[Value] = []
        if what == "inputs":
            step = math.ceil(weights.shape[1] / count)
            for first in range(0, weights.shape[1], step):
                last = min(first + step, weights.shape[1])
                piece = graph.slice(source, f"{node.name}_slice{first}", first, last, 1)
                rows = slice(0, 0 if parts else None)  # the bias is added once
                part = _part(graph, node, piece, weights[:, first:last], rows, len(parts))
                parts.append(part)
            total = parts[0]
            for i, part in enumerate(parts[1:], 1):
                total = graph.add_node("Add", f"{node.name}_sum{i}", [total, part])
            graph.replace(node.outputs[0], total)
            return f"over the convolution buffer -> {count} convolutions"
        edges = np.linspace(0, len(weights), count + 1).astype(int).tolist()
        channels = weights.shape[1] * groups // count
        for i, (a, b) in enumerate(itertools.pairwise(edges)):
            piece = source
            if what == "groups":
                name = f"{node.name}_slice{i * channels}"
                piece = graph.slice(source, name, i * channels, (i + 1) * channels, 1)
            share = groups // count if what == "groups" else 1
            parts.append(_part(graph, node, piece, weights[a:b], slice(a, b), i, share))
        joined = graph.add_node("Concat", f"{node.name}_join", parts, {"axis": 1})
        graph.replace(node.outputs[0], joined)
        return f"{groups if what == 'groups' else len(weights)} {what} -> {count} convolutions"

    def _cbuf_parts(self, conv: Node, weights: Array, shape: tuple[int, ...]) -> int:
        """Return into how many slices of input channels it must go, 0 if none is small enough."""
        kernel = (int(weights.shape[2]), int(weights.shape[3]))
        dilation = int(conv.attrs.get("dilations", [1, 1])[0])
        maps = weights.shape[1]
        for parts in range(1, maps + 1):
            channels = math.ceil(maps / parts)
            banks = cbuf_banks(channels, shape[3], kernel, dilation, self.options.precision)
            if sum(banks) <= self.limits.cbuf_banks:
                return parts
        return 0


def _divisor(number: int, least: int) -> int:
    """Return the least divisor of a number that is not below `least`."""
    return next(d for d in range(least, number + 1) if number % d == 0)


def _part(
    graph: Graph,
    conv: Node,
    source: Value,
    weights: Array,
    rows: slice,
    index: int,
    groups: int = 1,
) -> Value:
    """Add a convolution with some of the weights, and the bias of some rows."""
    name, bias = f"{conv.name}_part{index}", conv.constant(2)
    inputs = [source, graph.constant(f"{name}_weight", weights)]
    if bias is not None and bias[rows].size:
        inputs.append(graph.constant(f"{name}_bias", bias[rows]))
    return graph.add_node("Conv", name, inputs, {**conv.attrs, "group": groups})
