# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Fixes batch, height and width of a graph, and derives the constants of the old ones again.

A fully convolutional network takes any size that is a multiple of its largest stride; only what the
exporter froze stands against it: the targets of Reshape, the sizes of Resize, the ends of Slice,
the grids of a decoded head, and the places into which an older one writes its boxes (ScatterND).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph, is_plugin
from yolox_trt.graph.head import anchor_grid
from yolox_trt.graph.image_input import ANY_SIZE, why_no_yolox
from yolox_trt.graph.inference import Shape, describe
from yolox_trt.graph.scatter import scatter_to_concat, written_channels
from yolox_trt.graph.shape_walk import ShapeWalk, fold_constants
from yolox_trt.graph.values import Array, Node, Value

_STRIDES = (8, 16, 32)


@refuses_damaged
def fix_size(
    graph: Graph, batch: int | None = None, height: int | None = None, width: int | None = None
) -> list[str]:
    """Set the input's dimensions and derive every constant of the old ones again.

    Args:
        graph: is changed; half way, where an error is raised.
        batch: images in one run; None leaves it as it is.
        height: rows of the input in pixels; None leaves it as it is.
        width: columns of the input in pixels; None leaves it as it is.

    Returns:
        One line for each change; none where the input has these dimensions already.

    Raises:
        ConfigurationError: a number that is not positive, or a size of a YOLOX that is no multiple
            of 32.
        ModelError: a constant cannot be understood: it is refused, never guessed.
    """
    for label, value, step in (("batch", batch, 1), ("height", height, 32), ("width", width, 32)):
        if value is None or (value > 0 and value % step == 0):
            continue
        if value < 1 or not all(why_no_yolox(graph, size) for size in (None, ANY_SIZE)):
            raise ConfigurationError(
                f"{label} = {value}",
                expected=f"a positive multiple of {step}",
                fix=f"give another {label}",
            )
    image = graph.image
    assert image.shape is not None
    wanted = (batch, None, height, width)
    new = tuple(g if w is None else w for w, g in zip(wanted, image.shape, strict=True))
    if image.shape == new:
        return []
    graph.infer_shapes()
    return _Fixing(graph, new).run()


class _Fixing:
    """One walk over a graph, beside a walk over the graph as it was."""

    def __init__(self, graph: Graph, new: Shape) -> None:
        image = graph.image
        assert image.shape is not None
        self._graph = graph
        self._old = [d if isinstance(d, int) and d > 0 else None for d in image.shape]
        self._new = new
        # An open batch counts as the new one, or as one image: constants of a decoded head hold
        # the old height and width whatever the batch.
        batch = new[0] if isinstance(new[0], int) else 1
        self._open_batch = not isinstance(new[0], int)
        self._before: ShapeWalk | None = None
        pairs = list(zip(self._old, new, strict=True))
        if None not in self._old[1:] and any(a is not None and a != b for a, b in pairs):
            fold_constants(graph, sizes=False)
            self._before = ShapeWalk.over(graph, (self._old[0] or batch, *self._old[1:]))
        self._after = ShapeWalk(graph, (batch, *new[1:]))

    def run(self) -> list[str]:
        """See fix_size."""
        graph, image, changes = self._graph, self._graph.image, []
        image.shape = self._new
        declared = [value.shape for value in graph.outputs]
        for node in list(graph.nodes):
            # Shape arithmetic follows the new size by itself.
            if self._before is not None and self._derive(node, self._before):
                changes.append(f"{node.name}: {node.op} constant derived again for the new input")
            self._after.visit(node)
        graph.sort()
        for value in graph.outputs:
            value.shape = None
        if self._open_batch:
            graph.forget_shapes()
            graph.infer_shapes()
        else:
            self._after.write_shapes()
        for value, given in zip(graph.outputs, declared, strict=True):
            if value.shape is None:
                # Nothing is inferred behind a plugin, and little behind Shape arithmetic of an
                # open batch. The first dimension is the batch.
                found = given if _comes_from_plugin(value) else self._after.shape(value)
                if found is not None:
                    value.shape = (self._new[0], *found[1:])
                elif given is not None:
                    value.shape = tuple(f"{value.name}_{i}" for i in range(len(given)))
        changes.append(f"input {image.name}: {describe(self._old)} -> {describe(self._new)}")
        return changes

    def _derive(self, node: Node, walk: ShapeWalk) -> bool:
        """Derive a node's constant again; return whether it was stale."""
        if not node.inputs or not node.outputs:
            return False
        before, result = walk.static_shape(node.inputs[0]), walk.static_shape(node.outputs[0])
        for source in node.sources:
            self._after.visit_once(source)
        after = self._after.static_shape(node.inputs[0])
        if before is None or after is None or result is None:
            return False
        if node.op == "Reshape":
            return self._reshape(node, before, after, result)
        if node.op == "Resize":
            return self._resize(node, before, after, result)
        if node.op == "Slice":
            return self._slice(node, before, after)
        if node.op in ("Add", "Mul", "Sub", "Div"):
            return self._grid(node, walk)
        if node.op == "ScatterND":
            return self._scatter(node, before, after)
        if node.op in ("Expand", "Tile") and before != after and node.constant(1) is not None:
            raise _refusal(node, "whose constant sizes were written for the old input")
        return False

    def _constant(self, node: Node, index: int) -> Array | None:
        """Return a constant, or what follows from sizes where all of them are fixed."""
        value = node.input(index)
        if value is None or self._open_batch or value.is_constant:
            return node.constant(index)
        return self._after.value(value)

    def _set_constant(self, node: Node, index: int, values: npt.ArrayLike) -> bool:
        given = node.inputs[index]
        made = self._graph.constant(f"{given.name}_fixed", values, given.dtype)
        node.set_input(index, made)
        return True

    def _reshape(
        self, node: Node, before: tuple[int, ...], after: tuple[int, ...], result: tuple[int, ...]
    ) -> bool:
        target = self._constant(node, 1)
        if target is None:
            return False
        wanted = _regroup(node, before, after, result)
        # -1 and 0 that give the right shape stay: they fit every size.
        given = [int(d) for d in target]
        if _resolved(given, after) == wanted:
            return False
        if len(given) != len(wanted):
            raise _refusal(node, f"of {before} to {result}")
        kept = [g if g in (-1, 0) else w for g, w in zip(given, wanted, strict=True)]
        if _resolved(kept, after) == wanted:
            wanted = kept
        elif self._open_batch:
            raise _refusal(node, f"to {tuple(given)}, which leaves no dimension for an open batch")
        return self._set_constant(node, 1, wanted)

    def _resize(
        self, node: Node, before: tuple[int, ...], after: tuple[int, ...], result: tuple[int, ...]
    ) -> bool:
        sizes = self._constant(node, 3)
        if sizes is None or before == after:
            return False
        wanted = []
        for b, a, r in zip(before, after, result, strict=True):
            if (r * a) % b:
                raise _refusal(node, f"from {before} to {result}, no whole ratio")
            wanted.append(r * a // b)
        return sizes.tolist() != wanted and self._set_constant(node, 3, wanted)

    def _slice(self, node: Node, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
        """Make an end that was the old size "to the end"; refuse others on a changed axis."""
        starts, last, along = (self._constant(node, k) for k in range(1, 4))
        if starts is None or last is None:
            return False
        ends = last.ravel().tolist()
        axes = range(len(ends)) if along is None else along.ravel().tolist()
        wanted = list(ends)
        for k, (end, axis) in enumerate(zip(ends, axes, strict=True)):
            if before[axis] == after[axis] or not 0 <= end < 2**31 - 1:
                continue
            if end < before[axis]:
                raise _refusal(node, f"that ends at {end} of {before[axis]}")
            wanted[k] = int(np.iinfo(last.dtype).max)
        return wanted != ends and self._set_constant(node, 2, wanted)

    def _grid(self, node: Node, walk: ShapeWalk) -> bool:
        """Make the constants of a decoded head (grid, strides, grid x strides) for the new size."""
        for index in (0, 1):
            constant, other = node.constant(index), node.inputs[1 - index]
            then, now = walk.static_shape(other), self._after.static_shape(other)
            if constant is None or constant.ndim < 2 or then is None or now is None:
                continue
            # Also where the shapes agree: 64 x 96 and 96 x 64 have the same number of cells.
            wanted = _grid_like(constant, self._old[2:], self._new[2:])
            if wanted is None:
                shape = (1,) * (len(then) - constant.ndim) + constant.shape
                if all(c in (1, n) for c, n in zip(shape, now, strict=True)):
                    continue
                raise _refusal(node, f"with a constant of {constant.shape} that is no anchor grid")
            if wanted.ndim == len(now) and wanted.shape[0] == then[0] > 1:
                wanted = np.repeat(wanted[:1], now[0], 0)
            if wanted.shape == constant.shape and np.array_equal(wanted, constant):
                continue
            return self._set_constant(node, index, wanted)
        return False

    def _scatter(self, node: Node, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
        if node.constant(1) is None or before == after or written_channels(node, after):
            return False
        if not written_channels(node, before):
            raise _refusal(node, "that writes to places which were written for the old input")
        scatter_to_concat(self._graph, node, before)
        return True


def _comes_from_plugin(value: Value) -> bool:
    producer = value.producer
    while producer is not None and producer.op in ("Cast", "Identity"):
        producer = producer.source()
    return producer is not None and is_plugin(producer.op)


def _refusal(node: Node, found: str) -> ModelError:
    return ModelError(
        f"node '{node.name}' ({node.op}) {found}",
        expected="constants that follow from the input's size",
        fix="cut the head first (yolox_trt optimize MODEL --head raw), or export the model at the "
        "size wanted",
    )


def _resolved(target: Sequence[int], source: Sequence[int]) -> list[int]:
    """Return a Reshape's result for a target, with a -1 where the sizes do not divide."""
    resolved = [source[i] if d == 0 and i < len(source) else d for i, d in enumerate(target)]
    if resolved.count(-1) == 1:
        rest = math.prod(d for d in resolved if d != -1)
        if rest and math.prod(source) % rest == 0:
            resolved[resolved.index(-1)] = math.prod(source) // rest
    return resolved


def _regroup(
    node: Node, before: Sequence[int], after: Sequence[int], result: Sequence[int]
) -> list[int]:
    """Return the Reshape's result for new input dimensions.

    The old input and result are aligned by their products into groups of dimensions, as in
    (N, C, h, w) -> (N, C, h w). In each group the result's dimensions that did not take part in
    the change stay, and one takes up what changed.
    """
    wanted: list[int] = []
    i = j = 0
    while i < len(before) or j < len(result):
        left, right = [i] if i < len(before) else [], [j] if j < len(result) else []
        i, j = i + len(left), j + len(right)
        while math.prod(before[k] for k in left) != math.prod(result[k] for k in right):
            if math.prod(before[k] for k in left) < math.prod(result[k] for k in right):
                if i >= len(before):
                    raise _refusal(node, f"of {tuple(before)} to {tuple(result)}")
                left.append(i)
                i += 1
            else:
                if j >= len(result):
                    raise _refusal(node, f"of {tuple(before)} to {tuple(result)}")
                right.append(j)
                j += 1
        if [before[k] for k in left] == [after[k] for k in left]:
            wanted += [result[k] for k in right]
        elif len(right) == 1:
            wanted.append(math.prod(after[k] for k in left))
        elif len(left) == len(right) and [before[k] for k in left] == [result[k] for k in right]:
            wanted += [after[k] for k in left]
        else:
            wanted += _split(node, [before[k] for k in left], [after[k] for k in left],
                             [result[k] for k in right])  # fmt: skip
    return wanted


def _split(node: Node, before: list[int], after: list[int], result: list[int]) -> list[int]:
    """Divide one group again: dimensions equal to an unchanged input dimension stay."""
    stable = [b for b, a in zip(before, after, strict=True) if b == a]
    free = [k for k, d in enumerate(result) if d not in stable and d != 1]
    if len(free) != 1:
        raise _refusal(node, f"that divides {tuple(before)} into {tuple(result)}")
    rest = math.prod(d for k, d in enumerate(result) if k != free[0])
    total = math.prod(after)
    if total % rest:
        raise _refusal(node, f"that divides {tuple(after)} into {tuple(result)}")
    return [total // rest if k == free[0] else d for k, d in enumerate(result)]


def _grid_like(constant: Array, old: Sequence[Any], new: Sequence[Any]) -> Array | None:
    """Return the new grid in the form of an old one, or None where it is no anchor grid."""
    for strides in (_STRIDES, (*_STRIDES, 64), (4, *_STRIDES)):
        if sum((old[0] // s) * (old[1] // s) for s in strides) not in constant.shape[-2:]:
            continue  # before a grid is made, which may be large
        for then, now in zip(_anchors(old, strides), _anchors(new, strides), strict=True):
            for a, b in ((then, now), (then.T, now.T)):
                if constant.shape[-2:] == a.shape and np.allclose(constant, a):
                    return np.broadcast_to(b, (*constant.shape[:-2], *b.shape)).copy()
    return None


def _anchors(size: Sequence[Any], strides: tuple[int, ...]) -> tuple[Array, ...]:
    """Return grid (A, 2), strides (A, 1), strides (A, 2), grid x strides (A, 2)."""
    grid, step = anchor_grid((size[0], size[1]), strides)
    return grid, step, step.repeat(2, 1), grid * step
