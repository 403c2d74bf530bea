# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""NoOpRemoval: nodes that return what they were given."""

from __future__ import annotations

from collections import Counter

import numpy as np

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node


class NoOpRemoval(SurgeryPass):
    """Drop identities, join transposes that follow each other, and put zero Pads into convolutions.

    What counts as an identity: Identity, Dropout at inference, Cast to the same type, Transpose in
    order, Reshape (Flatten, Squeeze, Unsqueeze, Expand) to the same shape, Concat of one tensor,
    Slice of everything, Pad by nothing, Resize by 1, 1 x 1 pools, x * 1, x / 1, x + 0, x - 0, and a
    Clip or Relu behind one that already bounds its values.
    """

    name = "remove-no-ops"
    summary = "identities dropped, transposes joined, zero Pad put into the convolution behind it"

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        removed: Counter[str] = Counter()
        changed = True
        while changed:
            before = removed.total()
            for node in list(graph.nodes):
                if not node.outputs or not node.inputs:
                    continue
                if _is_no_op(node):
                    graph.replace(node.outputs[0], node.inputs[0])
                    node.inputs = ()  # no reader of what it read any more
                elif not (_join_transposes(node) or _merge_pad(graph, node)):
                    continue
                removed[node.op] += 1
            graph.sort()
            changed = removed.total() > before
        if removed:
            listed = ", ".join(f"{n} {op}" for op, n in sorted(removed.items()))
            log.change(f"removed {sum(removed.values())} no-ops ({listed})")


def _is_no_op(node: Node) -> bool:
    source, result = node.inputs[0], node.outputs[0]
    if result.is_output and (source.producer is None or source.is_output):
        return False  # an output that repeats an input or another output keeps its Identity
    shapes = source.static_shape, result.static_shape
    same = shapes[0] is not None and shapes[0] == shapes[1]
    if node.op == "Identity":
        return True
    if node.op == "Dropout":
        return len(node.outputs) == 1 or not node.outputs[1].readers
    if node.op == "Cast":
        return source.dtype is not None and source.dtype == result.dtype
    if node.op == "Transpose":
        perm = node.attrs.get("perm")
        return perm is not None and list(perm) == sorted(perm)
    if node.op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Slice", "Resize"):
        if node.op == "Slice":
            step = node.constant(4)
            return same and (len(node.inputs) < 5 or (step is not None and bool((step > 0).all())))
        return same
    if node.op == "Concat":
        return len(node.inputs) == 1
    if node.op == "Pad":
        pads = node.attrs.get("pads", node.constant(1))
        return pads is not None and not np.any(pads)
    if node.op in ("MaxPool", "AveragePool"):
        ones = all(k == 1 for k in node.attrs.get("kernel_shape", [0]))
        return ones and same and len(node.outputs) == 1
    if node.op in ("Mul", "Div", "Add", "Sub"):
        constant = node.constant(1)
        neutral = 1 if node.op in ("Mul", "Div") else 0
        return constant is not None and same and bool((constant == neutral).all())
    if node.op in ("Clip", "Relu"):
        return _is_bounded(node)
    return False


def _bounds(node: Node | None) -> tuple[float, float] | None:
    if node is None or node.op not in ("Clip", "Relu"):
        return None
    if node.op == "Relu":
        return 0.0, float("inf")
    limits = [float("-inf"), float("inf")]
    for i in (1, 2):
        if i < len(node.inputs) and node.inputs[i].name:
            value = node.constant(i)
            if value is None or value.size != 1:
                return None
            limits[i - 1] = float(value.ravel()[0])  # also of shape (1,), as some exporters write
    return limits[0], limits[1]


def _is_bounded(node: Node) -> bool:
    inner, outer = _bounds(node.inputs[0].producer), _bounds(node)
    if inner is None or outer is None:
        return False
    return inner[0] >= outer[0] and inner[1] <= outer[1]


def _join_transposes(node: Node) -> bool:
    first = node.inputs[0].producer
    if node.op != "Transpose" or first is None or first.op != "Transpose":
        return False
    inner, outer = first.attrs.get("perm"), node.attrs.get("perm")
    if inner is None or outer is None:
        return False
    node.attrs["perm"] = [inner[i] for i in outer]
    node.inputs = first.inputs
    return True


def _merge_pad(graph: Graph, node: Node) -> bool:
    """Put a zero Pad of height and width into the convolutions that read it; the DLA has no Pad."""
    if node.op != "Pad" or node.attrs.get("mode", "constant") != "constant":
        return False
    pads = node.attrs.get("pads", node.constant(1))
    value = node.constant(2)
    zero = not np.any(value) if value is not None else node.attrs.get("value", 0.0) == 0.0
    if len(node.inputs) > 2 and node.inputs[2].name and value is None:
        return False
    if pads is None or len(pads) != 8 or not zero or len(node.inputs) > 3:
        return False
    pads = [int(p) for p in pads]
    output = node.outputs[0]
    readers = output.readers
    if output.is_output or any(pads[i] for i in (0, 1, 4, 5)) or min(pads) < 0:
        return False
    if not readers or any(
        r.op != "Conv" or r.inputs[0] is not output or r.attrs.get("auto_pad", "NOTSET") != "NOTSET"
        for r in readers
    ):
        return False
    for reader in readers:
        own = list(reader.attrs.get("pads", [0] * 4))
        reader.attrs["pads"] = [p + pads[i] for p, i in zip(own, (2, 3, 6, 7), strict=True)]
    graph.replace(output, node.inputs[0])
    return True
