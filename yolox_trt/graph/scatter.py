# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ScatterND as older YOLOX decode with it, `x[..., first:last] = y`, written as a Concat.

Its places name every image and anchor, so that they fit one batch and one size only.
"""

from __future__ import annotations

import numpy as np

from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Array, Node


def written_channels(node: Node, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return first and last channel that a ScatterND writes at every image and place.

    Args:
        node: the ScatterND.
        shape: of what it writes into.

    Returns:
        The channels `first` to `last` (exclusive); None where it writes anything else.
    """
    positions = node.constant(1)
    if positions is None or not positions.size or positions.ndim != len(shape) + 1:
        return None
    first = int(positions[..., -1].min())
    last = first + positions.shape[-2]
    if positions.shape != (*shape[:-1], last - first, len(shape)):
        return None  # before as many places are made
    plain = node.attrs.get("reduction", "none") == "none"
    return (
        (first, last) if plain and np.array_equal(positions, _places(shape, first, last)) else None
    )


def scatter_to_concat(graph: Graph, node: Node, shape: tuple[int, ...]) -> str:
    """Write `x[..., first:last] = y` as a Concat of y and what is beside it in x.

    Args:
        graph: the graph.
        node: a ScatterND that written_channels() knows; it becomes the Concat.
        shape: of x; only the number of its dimensions and channels counts.

    Returns:
        What was done, in a few words.
    """
    data, _, updates = node.inputs
    first, last = written_channels(node, shape) or (0, 0)
    axis, name = len(shape) - 1, node.name
    parts = [updates]
    if first:
        parts.insert(0, graph.slice(data, f"{name}_from_0", 0, first, axis))
    if last < shape[-1]:
        parts.append(graph.slice(data, f"{name}_from_{last}", last, shape[-1], axis))
    node.op, node.attrs, node.inputs = "Concat", {"axis": axis}, parts
    return f"Concat in place of ScatterND into channels {first} to {last}"


def _places(shape: tuple[int, ...], first: int, last: int) -> Array:
    """Return the indices of channels `first` to `last` of every image and place."""
    axes = [np.arange(size) for size in shape[:-1]] + [np.arange(first, last)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)
