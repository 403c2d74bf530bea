# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Hard swish in the spellings of exporters: x times a gate that rises from 0 to 1 over -3 to 3."""

from __future__ import annotations

import math
from typing import NamedTuple

from yolox_trt.graph.values import Node, Value

#: Scalar steps between x and its gate, at most.
_DEPTH = 8
_TOLERANCE = 1e-5


class _Clipped(NamedTuple):
    """clip(slope * x + offset, low, high) of some x."""

    slope: float = 1.0
    offset: float = 0.0
    low: float = -math.inf
    high: float = math.inf

    def scaled(self, factor: float) -> _Clipped:
        return _Clipped(*(each * factor for each in self))

    def shifted(self, by: float) -> _Clipped:
        return _Clipped(self.slope, self.offset + by, self.low + by, self.high + by)

    def clipped(self, low: float, high: float) -> _Clipped:
        ends = (min(max(end, low), high) for end in (self.low, self.high))
        return _Clipped(self.slope, self.offset, *ends)


def hard_swish(node: Node) -> tuple[Node, Value] | None:
    """Return the last node of a hard swish that a node begins to multiply, and its x; or None.

    Of x * Clip(x + 3, 0, 6) * (1 / 6), the form that the DLA takes, nothing is returned. The
    spellings: HardSwish(x); x * HardSigmoid(x); x * (Clip(x + 3, 0, 6) / 6);
    x * Clip(x + 3, 0, 6) / 6; x * Clip(x / 6 + 1 / 2, 0, 1); Clip as Min and Max, or Min and Relu;
    and what else comes to the same.
    """
    if node.op == "HardSwish":
        return node, node.inputs[0]
    if node.op != "Mul" or len(node.inputs) != 2:
        return None
    for gate, x in (node.inputs, node.inputs[::-1]):
        found = None if gate.is_constant or gate is x else _clipped(gate, x)
        if found is None or found.low != 0.0 or not 0.0 < found.high < math.inf:
            continue
        wanted = (found.high / 6.0, found.high / 2.0)
        if not _near(found.slope, wanted[0]) or not _near(found.offset, wanted[1]):
            continue
        if _near(found.high, 1.0):
            return node, x
        last = node.outputs[0].only_reader
        factor = None if last is None else _factor(last, node.outputs[0])
        if last is None or factor is None or not _near(found.high * factor, 1.0):
            continue
        return None if last.op == "Mul" and _is_final(gate, x) else (last, x)
    return None


def _is_final(gate: Value, x: Value) -> bool:
    """Whether a gate is Clip(Add(x, 3), 0, 6)."""
    clip = gate.producer
    add = clip.source() if clip is not None and clip.op == "Clip" else None
    return add is not None and add.op == "Add" and x in add.inputs


def _clipped(value: Value, x: Value) -> _Clipped | None:
    """Return what a value is of x; None where other than scalars lies between them."""
    steps: list[tuple[Node, Value]] = []
    while value is not x:
        node = value.producer
        source = None if node is None else _variable(node)
        if node is None or source is None or len(steps) == _DEPTH:
            return None
        steps.append((node, source))
        value = source
    found: _Clipped | None = _Clipped()
    for node, source in reversed(steps):
        found = None if found is None else _after(node, source, found)
    return found


def _variable(node: Node) -> Value | None:
    """Return the only input of a node that is no constant."""
    variables = [value for value in node.inputs if value.name and not value.is_constant]
    return variables[0] if len(variables) == 1 else None


def _after(node: Node, source: Value, value: _Clipped) -> _Clipped | None:
    """Return what a node makes of what it reads."""
    if node.op in ("Mul", "Div"):
        factor = _factor(node, source)
        return value.scaled(factor) if factor is not None and factor > 0 else None
    if node.op == "Relu":
        return value.clipped(0.0, math.inf)
    if node.op == "HardSigmoid":
        alpha, beta = node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5)
        return value.scaled(alpha).shifted(beta).clipped(0.0, 1.0) if alpha > 0 else None
    if node.op == "Clip":
        if node.inputs[0] is not source:
            return None
        bounds = [-math.inf, math.inf]
        for i in (1, 2):
            if i < len(node.inputs) and node.inputs[i].name:
                bound = _scalar(node.inputs[i])
                if bound is None:
                    return None
                bounds[i - 1] = bound
        return value.clipped(*bounds)
    if node.op not in ("Add", "Sub", "Max", "Min") or len(node.inputs) != 2:
        return None
    first = node.inputs[0] is source
    number = _scalar(node.inputs[1 if first else 0])
    if number is None or (node.op == "Sub" and not first):
        return None
    if node.op in ("Add", "Sub"):
        return value.shifted(number if node.op == "Add" else -number)
    low, high = (number, math.inf) if node.op == "Max" else (-math.inf, number)
    return value.clipped(low, high)


def _factor(node: Node, source: Value) -> float | None:
    """Return the number that a node multiplies its input by; None for other nodes."""
    if node.op not in ("Mul", "Div") or len(node.inputs) != 2:
        return None
    first = node.inputs[0] is source
    number = _scalar(node.inputs[1 if first else 0])
    if not number or (node.op == "Div" and not first):
        return None
    return number if node.op == "Mul" else 1.0 / number


def _scalar(value: Value) -> float | None:
    values = value.values
    return float(values.ravel()[0]) if values is not None and values.size == 1 else None


def _near(found: float, wanted: float) -> bool:
    return abs(found - wanted) <= _TOLERANCE * max(abs(wanted), 1.0)
