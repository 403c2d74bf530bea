# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Where a head puts each cell of its last convolutions, so that one that mixes them up is seen.

Shapes do not tell: (1, 85, 52, 52) reshaped to (1, 2704, 85) has the right size and wrong values.
So the head is computed on numbers that name their own places.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from yolox_trt.core.model_spec import HeadLayout, HeadLevel
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.head import Head, anchor_grid
from yolox_trt.graph.shape_walk import fold_constants
from yolox_trt.graph.values import Array, Value

#: Operators that change a value and leave it in its place.
_POINTWISE = frozenset({
    "Add", "Cast", "Clip", "DequantizeLinear", "Div", "Exp", "Max", "Min", "Mul", "Pow",
    "QuantizeLinear", "Relu", "Sigmoid", "Sub",
})  # fmt: skip
#: float32 tells this many places apart.
_MOST_PLACES = 1 << 24
#: Largest difference of a decoded cell from its place, in pixels: float16 rounds 1281 to 1280.
_TOLERANCE = 1.0


def check_anchor_order(head: Head, layout: HeadLayout, levels: tuple[HeadLevel, ...]) -> None:
    """Check that a head's outputs hold the cells of each level one after the other.

    A head that cannot be computed here (plugins, Q/DQ in front of the decoding) is let through.

    Args:
        head: the head, of a graph with known shapes.
        layout: form of its outputs, RAW_LEVELS, UNDECODED or DECODED.
        levels: in the order of the anchors.

    Raises:
        ModelError: the cells, or the channels of box, objectness and classes, are mixed up.
    """
    places: dict[str, Array] = {}
    firsts: dict[int, list[int]] = {}  # number of cells of a level -> first place of each channel
    used = 0
    if sum((p.channels + 1) * p.height * p.width for p in head.parts()) >= _MOST_PLACES:
        return  # an image of 131,072 x 131,072, say: the memory would be for this check alone
    for part in head.parts():
        cells, shape = part.height * part.width, (1, part.channels, part.height, part.width)
        places[part.tensor] = used + np.arange(part.channels * cells).reshape(shape)
        firsts.setdefault(cells, []).extend(range(used, used + part.channels * cells, cells))
        used += (part.channels + 1) * cells  # a gap, so that two convolutions do not look like one
    found = _compute(head, places, in_place=True)
    for output, values in zip(head.outputs, found or (), strict=False):
        if layout is HeadLayout.RAW_LEVELS:
            parts = [values[0].reshape(values.shape[1], -1).T]
        else:
            counts = np.cumsum([level.height * level.width for level in levels])
            parts = np.split(values[0], counts[:-1])
        for rows in parts:
            cells = len(rows)
            in_order = np.all(rows - rows[0] == np.arange(cells)[:, None])
            if not in_order or not set(rows[0].astype(int)) <= set(firsts.get(cells, ())):
                raise head.error(
                    f"output '{output.name}', in which the {cells} cells of a level are not one "
                    "after the other"
                )
            if layout is not HeadLayout.RAW_LEVELS:
                steps = np.diff(rows[0])
                if np.any(steps[:3] != cells) or np.any(steps[5:] != cells):
                    raise head.error(
                        f"output '{output.name}', whose channels are not box (4), objectness (1), "
                        "classes (C)"
                    )
    if layout is HeadLayout.DECODED:
        zeros = {name: np.zeros(values.shape) for name, values in places.items()}
        decoded = _compute(head, zeros, in_place=False)
        grid, strides = anchor_grid(head.size, [level.stride for level in levels])
        wanted = np.concatenate([grid * strides, np.broadcast_to(strides, grid.shape)], 1)
        if decoded and not np.allclose(decoded[0][0, :, :4], wanted, rtol=0, atol=_TOLERANCE):
            raise head.error("boxes that are decoded with other cells or strides than their own")


def _compute(head: Head, features: Mapping[str, Array], *, in_place: bool) -> list[Array] | None:
    """Return a head's outputs for what its last convolutions shall give; None if that fails.

    Args:
        head: the head.
        features: by name, float32 (1, C, h, w) each.
        in_place: leave operators out that change values and not their places.
    """
    twin = head.graph.copy(after=features)
    values = twin.values()
    results = [values[value.name] for value in head.outputs]
    batches = [(values[name].shape or (1,))[0] for name in features]
    counts = [batch if isinstance(batch, int) else 1 for batch in batches]
    if sum(a.size * n for a, n in zip(features.values(), counts, strict=True)) > _MOST_PLACES:
        return None  # a batch of 100,000, say: the memory would be for this check alone
    for (name, array), count in zip(features.items(), counts, strict=True):
        values[name].become_constant(np.repeat(array.astype(np.float32), count, 0))
    if in_place and not _leave_out_pointwise(twin, [values[name] for name in features]):
        return None
    # Outputs themselves are not computed away.
    twin.outputs = [twin.add_node("Identity", "kept", [value]) for value in results]
    twin.sort()
    fold_constants(twin)
    found = [value.values for value in results]
    return None if any(array is None for array in found) else found  # type: ignore[return-value]


def _leave_out_pointwise(graph: Graph, features: list[Value]) -> bool:
    """Leave out what changes the features and not their places; False where two of them meet."""
    moved = set(features)
    for node in graph.nodes:
        read = [value for value in node.inputs if value in moved]
        if not read:
            continue
        if node.op in _POINTWISE:
            if len(read) > 1:
                return False
            output = node.outputs[0]
            moved.add(graph.replace(output, read[0]))
        else:
            moved.update(node.outputs)
    return True
