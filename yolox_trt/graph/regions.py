# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Regions of a detector's graph: before the first and behind the last convolutions."""

from __future__ import annotations

from yolox_trt.graph.model_graph import ModelGraph


def head_and_stem(graph: ModelGraph) -> tuple[frozenset[int], frozenset[int]]:
    """Return ids of the nodes behind the last convolutions, and of those before the first ones.

    A node that no convolution comes before belongs to the stem.
    """
    head: set[int] = set()
    stack = [graph.producer(t) for t in graph.graph.outputs]
    while stack:
        node = stack.pop()
        if node is None or id(node) in head or node.op == "Conv":
            continue
        head.add(id(node))
        stack.extend(graph.producer(t) for t in node.inputs)
    stem: set[int] = set()
    waiting = [r for t in graph.graph.inputs for r in t.outputs]
    while waiting:
        node = waiting.pop()
        if id(node) in stem or node.op == "Conv":
            continue
        stem.add(id(node))
        waiting.extend(r for t in node.outputs for r in t.outputs)
    return frozenset(head - stem), frozenset(stem)
