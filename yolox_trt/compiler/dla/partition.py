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
    members: dict[_Node, list[_Node]] = {node: [node] for node in order}
    successors = {node: set(edges.get(node, ())) for node in order}

    def would_cycle(first: _Node, second: _Node) -> bool:
        """Whether a path of two edges or more leads from region `first` to region `second`."""
        seen = {first}
        stack = [s for s in successors[first] if s != second]
        # Nothing behind the last member of `second` can lead back to it.
        last = max(position[n] for n in members[second])
        while stack:
            current = stack.pop()
            if current == second:
                return True
            if current in seen or min(position[n] for n in members[current]) > last:
                continue
            seen.add(current)
            stack.extend(successors[current])
        return False

    for node in order:
        if node not in wanted:
            continue
        for reader in edges.get(node, ()):
            a, b = region[node], region[reader]
            if reader not in wanted or a == b:
                continue
            if would_cycle(a, b) or would_cycle(b, a):
                continue
            for moved in members[b]:
                region[moved] = a
            members[a] += members.pop(b)
            successors[a] = (successors[a] | successors.pop(b)) - {a, b}
            for others in successors.values():
                if b in others:
                    others.discard(b)
                    others.add(a)
            successors[a].discard(a)
    found = {region[node] for node in wanted}
    regions = [sorted(members[r], key=position.__getitem__) for r in found]
    return sorted(regions, key=lambda nodes: position[nodes[0]])
