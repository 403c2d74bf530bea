# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PoolByBlocks: global and adaptive pools as chains of pools that a DLA takes."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from yolox_trt.compiler.surgery.pool_to_chain import MAX_WINDOW
from yolox_trt.compiler.surgery.surgery_pass import Rule
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node


class _Blocks(NamedTuple):
    """A pool over blocks: the operator, and the rows and columns of a block (0: not known)."""

    op: str
    height: int
    width: int


class PoolByBlocks(Rule):
    """A pool over blocks that do not overlap -> pools over blocks of at most 8 x 8, in a row.

    The mean over a block of a b x c d is the mean of the means over its blocks of b x d, since
    these are equally large; so is the maximum. A DLA has no GlobalAveragePool, and no window over
    8: a squeeze-excitation over 64 x 64 becomes two 8 x 8 pools with stride 8. Means are equal up
    to rounding, maxima bit for bit. A side with a prime factor over 8 has no such chain.
    """

    name = "pool-by-blocks"
    summary = "global and adaptive pools -> chains of pools of at most 8 x 8 (DLA)"
    ops = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "AveragePool", "MaxPool")

    @property
    def is_wanted(self) -> bool:
        return self.options.target == "dla"

    def pattern(self, node: Node) -> _Blocks | None:
        shape = node.inputs[0].static_shape or (0, 0, 0, 0)
        if len(shape) != 4:
            return None
        if node.op == "GlobalMaxPool":
            return _Blocks("MaxPool", shape[2], shape[3])
        if node.op == "GlobalAveragePool" or _is_spatial_mean(node, len(shape)):
            return _Blocks("AveragePool", shape[2], shape[3])
        kernel = list(node.attrs.get("kernel_shape", []))
        in_blocks = (
            len(kernel) == 2
            and len(node.outputs) == 1
            and list(node.attrs.get("strides", [1, 1])) == kernel
            and not any(node.attrs.get("pads", [0]))
            and all(d == 1 for d in node.attrs.get("dilations", [1]))
            and not node.attrs.get("ceil_mode", 0)
            and node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        )
        if node.op == "ReduceMean" or not in_blocks or max(kernel) <= MAX_WINDOW:
            return None
        return _Blocks(node.op, kernel[0], kernel[1])

    def check(self, graph: Graph, node: Node, match: _Blocks) -> str:
        if not match.height or not match.width:
            return "its size is not known; fix the input size first"
        for side in (match.height, match.width):
            if not _factors(side):
                return f"{match.height}x{match.width} does not divide into blocks of at most 8 x 8"
        return ""

    def apply(self, graph: Graph, node: Node, match: _Blocks) -> str:
        sides = _factors(match.height), _factors(match.width)
        windows = [list(w) for w in itertools.zip_longest(*sides, fillvalue=1)]
        value = node.inputs[0]
        for number, window in enumerate(windows):
            attrs = {"kernel_shape": window, "strides": window}
            value = graph.add_node(match.op, f"{node.name}_block{number}", [value], attrs)
        graph.replace(node.outputs[0], value)
        chain = " + ".join(f"{h}x{w}" for h, w in windows)
        return f"{node.op} over {match.height}x{match.width} -> {chain}"


def _is_spatial_mean(node: Node, rank: int) -> bool:
    """Whether a ReduceMean is one over height and width, which stay as 1 x 1."""
    if node.op != "ReduceMean" or not node.attrs.get("keepdims", 1):
        return False
    axes = node.attrs.get("axes", node.constant(1))
    return axes is not None and sorted(int(a) % rank for a in axes) == [2, 3]


def _factors(side: int) -> list[int]:
    """Return factors of at most MAX_WINDOW, [] where there are none; [1] for 1."""
    factors: list[int] = []
    while side > 1:
        largest = next((d for d in range(MAX_WINDOW, 1, -1) if side % d == 0), 0)
        if not largest:
            return []
        factors.append(largest)
        side //= largest
    return factors or [1]
