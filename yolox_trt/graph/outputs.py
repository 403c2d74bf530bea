# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A graph's outputs: which is a segmentation head's, and nodes put in front of one."""

from __future__ import annotations

import re

from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node, Value

#: Operators that move classes, or write them in another type.
_MOVES = frozenset(
    {"Cast", "Flatten", "Identity", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze",
     "Upsample"}
)  # fmt: skip
#: Operators that leave the largest logit of each cell the largest.
_MONOTONIC = frozenset({"Cast", "Identity", "LogSoftmax", "Sigmoid", "Softmax"})
_NAME = re.compile(r"seg|mask", re.IGNORECASE)


def split_output(graph: Graph, output: Value, suffix: str) -> Value:
    """Let a new value take an output's place at its producer and its readers, and return it.

    The output keeps its name and type, and needs a node that makes it.
    """
    name = graph.unused_name(f"{output.name}_{suffix}")
    inner = Value(name, output.elem_type, output.shape)
    for node in output.readers:
        node.replace_input(output, inner)
    if output.producer is not None:
        producer = output.producer
        producer.outputs = [inner if v is output else v for v in producer.outputs]
    return inner


def argmax_behind(output: Value) -> Node | None:
    """Return the ArgMax of an image tensor whose classes an output holds; None if there is none."""
    node = output.producer
    while node is not None and node.op in _MOVES:
        node = node.inputs[0].producer
    found = node is not None and node.op == "ArgMax" and len(node.inputs[0].shape or ()) == 4
    return node if found else None


def segmentation_candidates(graph: Graph) -> list[Value | None]:
    """Return the outputs that may be a segmentation head's, the likeliest first.

    None stands for "there is none". Where the ranks of the outputs do not tell (all are NCHW), the
    order follows the names, and the first without which the rest is a YOLOX is the one.
    """
    outputs = graph.outputs
    if len(outputs) < 2:
        return [None]
    if behind := [value for value in outputs if argmax_behind(value) is not None]:
        return [*behind]
    plugin = next((n for n in graph.nodes if n.op.startswith("EfficientNMS")), None)
    if plugin is not None:
        others = [value for value in outputs if _source(value).producer is not plugin]
        return [*others] if len(others) == 1 else [None]
    planes = [value for value in outputs if len(value.shape or ()) == 4]
    if len(planes) < len(outputs):
        return [*planes] if len(planes) == 1 and len(outputs) == 2 else [None]
    named = [value for value in planes if _NAME.search(value.name)]
    return [*named, None, *(value for value in planes if value not in named)]


def logits_of(output: Value) -> Value:
    """Return the logits of a segmentation output, before what leaves their largest the largest.

    An ArgMax over another axis than the channels of NCHW stays.
    """
    argmax, value = argmax_behind(output), output
    if argmax is not None:
        if int(argmax.attrs.get("axis", 0)) not in (1, -3):
            return output
        value = argmax.inputs[0]
    while value.producer is not None and value.producer.op in _MONOTONIC:
        value = value.producer.inputs[0]
    return value


def _source(value: Value) -> Value:
    """Return what an output is a copy of."""
    while value.producer is not None and value.producer.op in ("Identity", "Cast"):
        value = value.producer.inputs[0]
    return value
