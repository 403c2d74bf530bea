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

    def would_cycle(first: _Node, second: _Node) -> bool:
        """Whether a path leads from one region to another through a third."""
        seen = {first}
        stack = [first]
        while stack:
            current = stack.pop()
            for reached in {region[s] for node in members[current] for s in edges.get(node, ())}:
                if reached == second:
                    if current != first:
                        return True
                elif reached not in seen:
                    seen.add(reached)
                    stack.append(reached)
        return False

    for node in order:
        for reader in edges.get(node, ()) if node in wanted else ():
            a, b = region[node], region[reader]
            if reader not in wanted or a == b or would_cycle(a, b) or would_cycle(b, a):
                continue
            region.update(dict.fromkeys(members[b], a))
            members[a] += members.pop(b)
    regions = [sorted(members[r], key=position.__getitem__) for r in {region[n] for n in wanted}]
    return sorted(regions, key=lambda nodes: position[nodes[0]])
