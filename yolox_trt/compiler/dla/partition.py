# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Partition: which DLA nodes run together as one loadable."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

_Node = TypeVar("_Node", bound=Hashable)


def partition(
    order: Sequence[_Node], edges: Mapping[_Node, Sequence[_Node]], on_dla: Sequence[_Node]
) -> list[list[_Node]]:
    """Group DLA nodes into the largest connected regions that can run without a cycle.

    Two neighbours join unless a path from one to the other leaves the region in between: the
    region would then wait for the GPU, and the GPU for the region. This is how a runtime with
    a node of its own for each region must cut the graph.

    Args:
        order: all nodes in topological order.
        edges: node -> nodes that read its outputs.
        on_dla: nodes that a DLA takes.

    Returns:
        The regions in topological order of their first nodes, each in topological order.
    """
    position = {node: i for i, node in enumerate(order)}
    wanted = set(on_dla)
    region = {node: node for node in order}
    members = {node: [node] for node in order}
    # Sets of nodes are the bits of an integer, since every join changes most of them.
    own = {node: 1 << i for i, node in enumerate(order)}
    readers = {node: set(edges.get(node, ())) for node in order}  # of a region, outside of it
    behind: dict[_Node, int] = {}  # all that a path leads to from a region
    for node in reversed(order):
        behind[node] = 0
        for reader in readers[node]:
            behind[node] |= own[reader] | behind[reader]

    def join(first: _Node, second: _Node) -> None:
        """Make one region of two, named after the first."""
        region.update(dict.fromkeys(members[second], first))
        members[first] += members.pop(second)
        readers[first] = {r for r in readers[first] | readers.pop(second) if region[r] != first}
        own[first] |= own.pop(second)
        behind[first] |= behind.pop(second)
        for other in behind:
            if behind[other] & own[first]:
                behind[other] |= behind[first] | own[first]

    for node in order:
        for reader in edges.get(node, ()) if node in wanted else ():
            a, b = region[node], region[reader]
            if reader not in wanted or a == b:
                continue
            # The regions have no cycle, and b reads a: only a way around from a to b can make one.
            between = {region[r] for r in readers[a]} - {b}
            if not any(behind[other] & own[b] for other in between):
                join(a, b)
    regions = [sorted(members[r], key=position.__getitem__) for r in {region[n] for n in wanted}]
    return sorted(regions, key=lambda nodes: position[nodes[0]])
