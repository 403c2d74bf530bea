# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""FixedShape: batch, height and width of the input become given numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.optional import require
from yolox_trt.graph.folding import fold_once
from yolox_trt.graph.model_graph import ModelGraph, infer_shapes
from yolox_trt.graph.normalization import is_plugin

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

#: Tensor -> its shape, None where it is not known.
_Shapes = dict[str, "tuple[int, ...] | None"]

_STRIDES = (8, 16, 32)
_MAX_FOLDS = 6


class FixedShape(SurgeryPass):
    """Set the input's dimensions and derive again every constant that was written for the old ones.

    A fully convolutional network takes any size that is a multiple of its largest stride; only
    what the exporter froze stands against it: the targets of Reshape, the sizes of Resize, the
    ends of Slice, the grids of a decoded head, and the places into which an older one writes its
    boxes (ScatterND, which becomes Slice and Concat). They are derived again from the new sizes; a
    constant that cannot be understood is refused, never guessed.

    Args:
        batch: images in one run; None leaves it as it is.
        height: rows of the input in pixels; None leaves it as it is.
        width: columns of the input in pixels; None leaves it as it is.
        multiple: height and width must be multiples of it.
    """

    name = "fix-shape"
    summary = "fixed batch and H x W; constants of the old size derived again"

    def __init__(
        self,
        batch: int | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        multiple: int = 32,
    ) -> None:
        for label, value, step in (
            ("batch", batch, 1),
            ("height", height, multiple),
            ("width", width, multiple),
        ):
            if value is not None and (value < 1 or value % step):
                raise ConfigurationError(
                    f"{label} = {value}",
                    expected=f"a positive multiple of {step}",
                    fix=f"give another {label} (`--batch`, `--input-size HxW`)",
                )
        self.wanted = (batch, None, height, width)

    def rewrite(self, graph: ModelGraph, log: PassLog) -> None:
        image = graph.image
        assert image.shape is not None
        old = [d if isinstance(d, int) and d > 0 else None for d in image.shape]
        new: list[Any] = [
            wanted if wanted is not None else given
            for wanted, given in zip(self.wanted, image.shape, strict=True)
        ]
        if list(image.shape) == new:
            return
        outputs = {output.name: output.shape for output in graph.graph.outputs}
        # An open batch counts as the new one, or as one image: constants of a decoded head hold
        # the old height and width whatever the batch.
        batch = new[0] if isinstance(new[0], int) else 1
        before: _Shapes = {}
        if None not in old[1:]:
            before = _shapes_at(graph, old[0] or batch)
        image.shape = new
        for output in graph.graph.outputs:
            output.shape = None
        sized = [(a, b) for a, b in zip(old[2:], new[2:], strict=True) if a is not None and a != b]
        for _ in range(_MAX_FOLDS):
            # Chains of Shape arithmetic follow the new size by themselves.
            _infer_into(graph)
            if not fold_once(graph):
                break
        if (old[0] is not None and old[0] != new[0]) or sized:
            for _ in range(len(graph.graph.nodes)):
                if not self._derive_next(graph, before, old, new, batch, log):
                    break
        _infer_into(graph)
        unknown = [output for output in graph.graph.outputs if output.shape is None]
        shapes = _shapes_at(graph, batch) if unknown else {}
        for output in unknown:
            # Behind plugins nothing is inferred, and behind Shape arithmetic of an open batch only
            # where it is given a number. The first dimension is the batch.
            given, found = outputs[output.name], shapes.get(output.name)
            if _comes_from_plugin(graph, output):
                found = given
            if found is not None:
                output.shape = [new[0] if i == 0 else d for i, d in enumerate(found)]
            elif given is not None:
                output.shape = [f"{output.name}_{i}" for i in range(len(given))]
        described = "x".join("?" if d is None else str(d) for d in old)
        log.change(f"input {image.name}: {described} -> {'x'.join(str(d) for d in new)}")

    def _derive_next(
        self,
        graph: ModelGraph,
        before: _Shapes,
        old: list[int | None],
        new: list[Any],
        batch: int,
        log: PassLog,
    ) -> bool:
        """Derive the first stale constant again, in topological order; False when none is left.

        Shapes behind a changed constant are only known after another inference, hence one a call.
        """
        _infer_into(graph)
        if fold_once(graph):
            _infer_into(graph)
        if new[0] == batch:
            after = {n: graph.static_shape(t) for n, t in graph.graph.tensors().items()}
        else:
            # Only a copy gets a batch: folded here, Shape arithmetic would fix it in the graph.
            after = _shapes_at(graph, batch)
        for node in graph.graph.nodes:
            source_before = before.get(node.inputs[0].name) if node.inputs else None
            source = after.get(node.inputs[0].name) if node.inputs else None
            result_before = before.get(node.outputs[0].name) if node.outputs else None
            if source_before is None or source is None or result_before is None:
                continue
            if node.op == "Reshape":
                changed = _reshape(
                    graph, node, source_before, source, result_before, open_batch=new[0] != batch
                )
            elif node.op == "Resize":
                changed = _resize(graph, node, source_before, source, result_before)
            elif node.op == "Slice":
                changed = _slice(graph, node, source_before, source)
            elif node.op in ("Add", "Mul", "Sub", "Div"):
                changed = _grid(graph, node, before, after, old, new)
            elif node.op == "ScatterND":
                changed = _scatter(graph, node, source_before, source)
            elif (
                node.op in ("Expand", "Tile")
                and source_before != source
                and graph.input_constant(node, 1) is not None
            ):
                raise _refusal(node, "whose constant sizes were written for the old input")
            else:
                changed = False
            if changed:
                log.change(f"{node.name}: {node.op} constant derived again for the new input")
                return True
        return False


def _shapes_at(graph: ModelGraph, batch: int) -> _Shapes:
    """Return the shapes of all tensors at a batch, from a copy.

    Constants are folded: shapes behind Shape arithmetic are not inferred otherwise. Nothing is
    checked: the graph may hold constants of the old size still.
    """
    gs = require("onnx_graphsurgeon", purpose="the model compiler")
    copy = ModelGraph(gs.export_onnx(graph.graph, do_type_check=False))
    image = copy.image
    image.shape = [batch, *image.shape[1:]]
    for _ in range(_MAX_FOLDS):
        _infer_into(copy)
        if not fold_once(copy):
            break
    return {name: copy.static_shape(tensor) for name, tensor in copy.graph.tensors().items()}


def _comes_from_plugin(graph: ModelGraph, tensor: gs.Tensor) -> bool:
    producer = graph.producer(tensor)
    while producer is not None and producer.op in ("Cast", "Identity"):
        producer = graph.producer(producer.inputs[0])
    return producer is not None and is_plugin(producer.op)


def _infer_into(graph: ModelGraph) -> None:
    """Infer the shapes of the graph as it is now into its tensors, as far as they agree."""
    gs = require("onnx_graphsurgeon", purpose="the model compiler")
    for tensor in graph.graph.tensors().values():
        if not tensor.is_empty() and hasattr(tensor, "shape") and tensor.inputs:
            tensor.shape = None
    model = gs.export_onnx(graph.graph, do_type_check=False)
    inferred = infer_shapes(model, in_place=True)
    known = {v.name: v for v in [*inferred.graph.value_info, *inferred.graph.output]}
    for name, tensor in graph.graph.tensors().items():
        value = known.get(name)
        if tensor.inputs and value is not None and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            tensor.shape = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims]


def _refusal(node: gs.Node, found: str) -> ModelError:
    return ModelError(
        f"node '{node.name}' ({node.op}) {found}",
        expected="constants that follow from the input's size",
        fix="cut the head first (`--head raw`), or export the model at the size wanted",
    )


def _set_constant(graph: ModelGraph, node: gs.Node, index: int, values: npt.ArrayLike) -> None:
    given = node.inputs[index]
    dtype = graph.constant_value(given).dtype  # type: ignore[union-attr]
    node.inputs[index] = graph.constant(f"{given.name}_fixed", np.asarray(values, dtype))


def _reshape(
    graph: ModelGraph,
    node: gs.Node,
    source_before: tuple[int, ...],
    source: tuple[int, ...],
    result_before: tuple[int, ...],
    *,
    open_batch: bool,
) -> bool:
    target = graph.input_constant(node, 1)
    if target is None:
        return False
    wanted = _regroup(node, source_before, source, result_before)
    # -1 and 0 that give the right shape stay: they fit every size.
    given = [int(d) for d in target]
    if _resolved(given, source) == wanted:
        return False
    if len(given) != len(wanted):
        raise _refusal(node, f"of {tuple(source_before)} to {tuple(result_before)}")
    kept = [g if g in (-1, 0) else w for g, w in zip(given, wanted, strict=True)]
    if _resolved(kept, source) == wanted:
        wanted = kept
    elif open_batch:
        raise _refusal(node, f"to {tuple(given)}, which leaves no dimension for an open batch")
    _set_constant(graph, node, 1, wanted)
    return True


def _resolved(target: Sequence[int], source: Sequence[int]) -> list[int]:
    """Return a Reshape's result for a target, with a -1 where the sizes do not divide."""
    resolved = [source[i] if d == 0 and i < len(source) else d for i, d in enumerate(target)]
    if resolved.count(-1) == 1:
        rest = math.prod(d for d in resolved if d != -1)
        if rest and math.prod(source) % rest == 0:
            resolved[resolved.index(-1)] = math.prod(source) // rest
    return resolved


def _regroup(
    node: gs.Node, before: Sequence[int], after: Sequence[int], result: Sequence[int]
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


def _split(node: gs.Node, before: list[int], after: list[int], result: list[int]) -> list[int]:
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


def _resize(
    graph: ModelGraph,
    node: gs.Node,
    source_before: tuple[int, ...],
    source: tuple[int, ...],
    result_before: tuple[int, ...],
) -> bool:
    sizes = graph.input_constant(node, 3)
    if sizes is None or source_before == source:
        return False
    wanted = []
    for b, a, r in zip(source_before, source, result_before, strict=True):
        if (r * a) % b:
            raise _refusal(node, f"from {source_before} to {result_before}, no whole ratio")
        wanted.append(r * a // b)
    if sizes.tolist() == wanted:
        return False
    _set_constant(graph, node, 3, wanted)
    return True


def _slice(
    graph: ModelGraph, node: gs.Node, source_before: tuple[int, ...], source: tuple[int, ...]
) -> bool:
    """An end that was the old size becomes "to the end"; others on a changed axis are refused."""
    values = [graph.input_constant(node, k) for k in range(1, 4)]
    if values[0] is None or values[1] is None:
        return False
    ends = values[1].ravel().tolist()
    axes = range(len(ends)) if values[2] is None else values[2].ravel().tolist()
    wanted = list(ends)
    to_the_end = int(np.iinfo(values[1].dtype).max)
    for k, (end, axis) in enumerate(zip(ends, axes, strict=True)):
        if source_before[axis] == source[axis] or not 0 <= end < 2**31 - 1:
            continue
        if end < source_before[axis]:
            raise _refusal(node, f"that ends at {end} of {source_before[axis]}")
        wanted[k] = to_the_end
    if wanted == ends:
        return False
    _set_constant(graph, node, 2, wanted)
    return True


def _grid(
    graph: ModelGraph,
    node: gs.Node,
    before: _Shapes,
    after: _Shapes,
    old: list[int | None],
    new: list[Any],
) -> bool:
    """Make the constants of a decoded head (grid, strides, grid x strides) for the new size."""
    for index in (0, 1):
        constant = graph.input_constant(node, index)
        other = node.inputs[1 - index]
        if constant is None or constant.ndim < 2 or other.name not in before:
            continue
        then, now = before[other.name], after.get(other.name)
        if then is None or now is None:
            continue
        wanted = None
        if None not in old[2:]:
            # Also where the shapes agree: 64 x 96 and 96 x 64 have the same number of cells.
            wanted = _grid_like(constant, (old[2], old[3]), (new[2], new[3]))
        if wanted is None:
            shape = (1,) * (len(then) - constant.ndim) + constant.shape
            if all(c in (1, n) for c, n in zip(shape, now, strict=True)):
                continue
            raise _refusal(node, f"with a constant of {constant.shape} that is no anchor grid")
        if wanted.ndim == len(now) and wanted.shape[0] == then[0] > 1:
            wanted = np.repeat(wanted[:1], now[0], 0)
        if wanted.shape == constant.shape and np.array_equal(wanted, constant):
            continue
        _set_constant(graph, node, index, wanted)
        return True
    return False


def _scatter(
    graph: ModelGraph, node: gs.Node, source_before: tuple[int, ...], source: tuple[int, ...]
) -> bool:
    """Write `x[..., first:last] = y`, as older YOLOX decode, as a Concat of channels.

    Its places name every image and anchor, so they fit one size.
    """
    positions = graph.input_constant(node, 1)
    if positions is None or source_before == source:
        return False
    rank = len(source_before)
    if positions.ndim != rank + 1 or not positions.size or positions.shape[-1] != rank:
        raise _refusal(node, "that writes to places which were written for the old input")
    first = int(positions[..., -1].min())
    last = first + positions.shape[-2]
    if np.array_equal(positions, _places(source, first, last)):
        return False
    plain = node.attrs.get("reduction", "none") in ("none", b"none")
    if not plain or not np.array_equal(positions, _places(source_before, first, last)):
        raise _refusal(node, "that writes to places which were written for the old input")
    data, _, updates = node.inputs
    parts: list[gs.Tensor] = [updates]
    axis, channels = rank - 1, source[-1]
    for start, end in ((0, first), (last, channels)):
        if start == end:
            continue
        name = f"{node.name}_from_{start}"
        bounds = [
            graph.constant(f"{name}_{label}", [value], np.int64)
            for label, value in (("start", start), ("end", end), ("axis", axis))
        ]
        part = graph.add_node("Slice", name, [data, *bounds], dtype=data.dtype)
        parts.insert(0 if start == 0 else len(parts), part)
    outputs = list(node.outputs)
    node.outputs.clear()
    graph.add_node("Concat", f"{node.name}_concat", parts, {"axis": axis}, output=outputs[0])
    graph.toposort()
    return True


def _places(shape: tuple[int, ...], first: int, last: int) -> npt.NDArray[Any]:
    """Return the indices of ScatterND for channels first to last of every image and anchor."""
    axes = [np.arange(size) for size in shape[:-1]] + [np.arange(first, last)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def _grid_like(
    constant: npt.NDArray[Any], old: tuple[Any, Any], new: tuple[Any, Any]
) -> npt.NDArray[Any] | None:
    """Return the new grid in the form of an old one, or None where it is no anchor grid."""
    for strides in (_STRIDES, (*_STRIDES, 64), (4, *_STRIDES)):
        for form in range(4):
            then, now = _anchors(old, strides)[form], _anchors(new, strides)[form]
            for layout in (lambda a: a, lambda a: a.T):
                a, b = layout(then), layout(now)
                if (
                    constant.ndim >= 2
                    and constant.shape[-2:] == a.shape
                    and np.allclose(constant, a)
                ):
                    lead = constant.shape[:-2]
                    return np.broadcast_to(b, (*lead, *b.shape)).copy()
    return None


def _anchors(size: tuple[int, int], strides: tuple[int, ...]) -> tuple[npt.NDArray[Any], ...]:
    """Return grid (A, 2), strides (A, 1), strides (A, 2), grid x strides (A, 2)."""
    grids, steps = [], []
    for stride in strides:
        y, x = np.mgrid[0 : size[0] // stride, 0 : size[1] // stride]
        grids.append(np.stack((x, y), -1).reshape(-1, 2).astype(np.float64))
        steps.append(np.full((len(grids[-1]), 1), float(stride)))
    grid, step = np.concatenate(grids), np.concatenate(steps)
    return grid, step, step.repeat(2, 1), grid * step
