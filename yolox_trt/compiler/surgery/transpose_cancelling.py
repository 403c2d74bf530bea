# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""TransposeCancelling: Transposes that undo each other, with other nodes between them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node, Value

#: Each element by itself, whatever the order of the axes; further inputs are scalars (Clip).
_UNARY = frozenset({
    "Abs", "Cast", "Ceil", "Clip", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish",
    "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Sigmoid",
    "Softplus", "Softsign", "Sqrt", "Tanh",
})  # fmt: skip
#: Each element with that of the same place, operands broadcast from the right.
_ELEMENTWISE = frozenset({"Add", "Div", "Max", "Min", "Mul", "Pow", "PRelu", "Sub", "Sum"})
#: Along one axis, an attribute.
_ALONG_AXIS = frozenset({"Concat"})


@dataclass
class _Region:
    """What is computed before a Transpose instead of behind it.

    Attributes:
        perm: the Transpose's order.
        moved: values that lose it -> what they are made from: a Transpose's input, or None for what
            a node of the region makes.
        nodes: nodes that are computed in the old order, in the graph's order.
        removed: Transposes that go.
        kept: values that a Transpose must follow, for other readers.
    """

    perm: list[int]
    moved: dict[Value, Value | None]
    nodes: list[Node] = field(default_factory=list)
    removed: set[Node] = field(default_factory=set)
    kept: set[Value] = field(default_factory=set)


class TransposeCancelling(SurgeryPass):
    """A Transpose moves behind the nodes that read it, where it meets its inverse and both go.

    f(transpose(x)) = transpose(f(x)) for what acts on each element, for elementwise operators whose
    other operands are constants or transposed alike, and for Concat along another axis. A region is
    rewritten only if fewer Transposes are left. Exporters of channels-last frameworks put one
    around each operator; on a DLA most fall back, and on a GPU each is a pass over the memory.
    """

    name = "cancel-transposes"
    summary = "Transposes that undo each other across elementwise nodes and Concat -> none"

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        gone = 0
        progress = True
        while progress:
            progress = False
            for node in graph.find("Transpose"):
                region = _region(graph, node)
                won = len(region.removed) - len(region.kept) if region is not None else 0
                if region is not None and won > 0:
                    _move(graph, region)
                    graph.sort()
                    gone, progress = gone + won, True
                    break
        if gone:
            log.change(f"{gone} Transposes cancelled")


def _order(node: Node) -> list[int]:
    rank = len(node.inputs[0].shape or ())
    return [int(i) for i in node.attrs.get("perm", range(rank)[::-1])]


def _region(graph: Graph, start: Node) -> _Region | None:
    """Return what lies behind a Transpose and can be computed before it."""
    perm = _order(start)
    first = start.outputs[0]
    if not perm or first.is_output:
        return None
    region = _Region(perm, {first: start.inputs[0]})
    inside: set[Node] = set()
    for node in graph.nodes:  # each after those that it reads from
        if not any(value in region.moved for value in node.inputs):
            continue
        if (extra := _joins(node, region)) is not None:
            region.moved |= extra
            region.moved |= dict.fromkeys(node.outputs)
            region.nodes.append(node)
            inside.add(node)
    inverse = np.argsort(perm).tolist()
    for value, source in list(region.moved.items()):
        named: list[Node] = []
        for reader in value.readers:
            if reader in inside:
                continue
            if reader.op != "Transpose" or _order(reader) != inverse:
                region.kept.add(value)
            elif reader.outputs[0].is_output and any(r.outputs[0].is_output for r in named):
                region.kept.add(value)  # a value has one name: the other output keeps its Transpose
            else:
                region.removed.add(reader)
                named.append(reader)
        if source is not None and value.producer is not None:
            region.removed.add(value.producer)
    return region


def _joins(node: Node, region: _Region) -> dict[Value, Value | None] | None:
    """Return the Transposes' outputs that a node brings along if it joins a region; else None."""
    if node.has_graph or any(value.is_output for value in node.outputs):
        return None
    rank, extra = len(region.perm), dict[Value, Value | None]()
    if node.op in _UNARY:
        if node.inputs[0] not in region.moved:
            return None
        scalars = all(v.is_constant and v.values is not None for v in node.inputs[1:] if v.name)
        return {} if scalars else None
    if node.op not in _ELEMENTWISE | _ALONG_AXIS:
        return None
    for value in node.inputs:
        if value in region.moved:
            continue
        if value.is_constant:
            # Concat's constants have the rank of the others; operands are broadcast to it.
            values = value.values
            if (
                values is None
                or values.ndim > rank
                or (node.op == "Concat" and values.ndim != rank)
            ):
                return None
        elif (
            value.producer is not None
            and value.producer.op == "Transpose"
            and _order(value.producer) == region.perm
            and not value.is_output
        ):
            extra[value] = value.producer.inputs[0]
        else:
            return None
    return extra


def _move(graph: Graph, region: _Region) -> None:
    """Compute the nodes of a region before the Transpose."""
    inverse = np.argsort(region.perm).tolist()
    known = {value: value.shape for value in region.moved}

    def before(value: Value) -> Value:
        if value in region.moved:
            source = region.moved[value]
            return value if source is None else source
        values = value.values
        if values is None or values.size == 1:
            return value
        full = values.reshape((1,) * (len(region.perm) - values.ndim) + values.shape)
        return graph.constant(f"{value.name}_transposed", full.transpose(inverse))

    outside = {value: [n for n in value.readers if n not in region.nodes] for value in region.moved}
    for node in region.nodes:
        for index, value in enumerate(node.inputs):
            if value.name:
                node.set_input(index, before(value))
        if node.op in _ALONG_AXIS:
            node.attrs["axis"] = region.perm[int(node.attrs.get("axis", 0)) % len(region.perm)]
        for value in node.outputs:
            if (shape := known.get(value)) is not None:
                value.shape = tuple(shape[i] for i in inverse)
    for value, readers in outside.items():
        kept = [reader for reader in readers if reader not in region.removed]
        if kept and region.moved[value] is None:  # else the Transpose itself stays for them
            name = f"{value.name}_transpose"
            again = graph.add_node("Transpose", name, [value], {"perm": region.perm})
            for reader in kept:
                reader.replace_input(value, again)
        # An output's name goes to what takes its place, so that one comes last.
        removed = [reader for reader in readers if reader in region.removed]
        for reader in sorted(removed, key=lambda reader: reader.outputs[0].is_output):
            graph.replace(reader.outputs[0], before(value))
