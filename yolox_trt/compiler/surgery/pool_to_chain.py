# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PoolToChain: large max pools as chains of small ones."""

from __future__ import annotations

from yolox_trt.compiler.surgery.surgery_pass import Rule
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node, Value

#: Largest pooling window of the DLA (restriction table of NvInfer.h).
MAX_WINDOW = 8
_LINK = 5
#: Largest window, of 32 pools in a row.
_MOST_WINDOW = 129


class PoolToChain(Rule):
    """A stride-1 max pool with a window over 8 -> a chain of 5 x 5 pools, shared between windows.

    The maximum over a window of k is the maximum of maxima: two windows of a and b, one after the
    other, cover a + b - 1. SPP's 9 and 13 are two and three times 5. Padding never wins a maximum,
    so borders agree too: values are bit-exact.
    """

    name = "spp-to-chain"
    summary = "max pools over 8 (SPP 9, 13) -> shared chains of 5 x 5 pools"
    ops = ("MaxPool",)

    def pattern(self, node: Node) -> list[int] | None:
        kernel: list[int] = node.attrs.get("kernel_shape", [0])
        return kernel if max(kernel) > MAX_WINDOW else None

    def check(self, graph: Graph, node: Node, match: list[int]) -> str:
        if max(match) > _MOST_WINDOW:
            return f"{match} pool left as it is; a chain for over {_MOST_WINDOW} is too long"
        if _keeps_size(node):
            return ""
        return (
            f"{match} pool left as it is; only square odd windows with stride 1 and padding on all "
            "sides have an equal chain"
        )

    def apply(self, graph: Graph, node: Node, match: list[int]) -> str:
        value, sizes = node.inputs[0], _chain(match[0])
        for size in sizes:
            value = _link(value, size) or graph.add_node(
                "MaxPool",
                f"{node.name}_pool{size}",
                [value],
                {"kernel_shape": [size] * 2, "pads": [size // 2] * 4, "strides": [1, 1]},
            )
        graph.replace(node.outputs[0], value)
        return f"{match[0]}x{match[0]} pool -> {' + '.join(f'{s}x{s}' for s in sizes)}"


def _link(value: Value, size: int) -> Value | None:
    """Return what a pool of a chain makes of a value, where there is one already."""
    for node in value.readers:
        if node.op == "MaxPool" and _window(node) == size and _keeps_size(node):
            return node.outputs[0]
    return None


def _window(node: Node) -> int | None:
    kernel = node.attrs.get("kernel_shape", [])
    return int(kernel[0]) if len(kernel) == 2 and kernel[0] == kernel[1] else None


def _keeps_size(node: Node) -> bool:
    """Whether a pool has a square odd window, stride 1, and half the window as padding."""
    window = _window(node)
    return (
        window is not None
        and window % 2 == 1
        and len(node.outputs) == 1
        and all(s == 1 for s in node.attrs.get("strides", [1, 1]))
        and all(d == 1 for d in node.attrs.get("dilations", [1, 1]))
        and list(node.attrs.get("pads", [0] * 4)) == [window // 2] * 4
        and node.attrs.get("auto_pad", "NOTSET") == "NOTSET"
    )


def _chain(window: int) -> list[int]:
    """Return odd windows up to 5 whose chain covers an odd window."""
    whole, rest = divmod(window - 1, _LINK - 1)
    return [_LINK] * whole + [rest + 1] * bool(rest)
