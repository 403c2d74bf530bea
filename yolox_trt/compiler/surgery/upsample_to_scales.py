# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""UpsampleToScales: nearest upsampling in the form the DLA takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from yolox_trt.compiler.surgery.surgery_pass import Rule
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Array, Node, Value

_FORM = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}
_ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda position: np.ceil(position - 0.5),
    "round_prefer_ceil": lambda position: np.floor(position + 0.5),
}


class UpsampleToScales(Rule):
    """Nearest Resize by a whole number -> four constant scales, asymmetric, floor.

    Exporters write the same upsampling in many ways: computed sizes, half-pixel coordinates with
    either rounding. Where the rows and columns that are read are those of floor(i / scale), the
    result is bit-exact. The DLA takes four scales (1, 1, s, s), never an output size.
    """

    name = "upsample"
    summary = "nearest Resize by a whole number -> constant scales, asymmetric, floor"
    ops = ("Resize",)

    def pattern(self, node: Node) -> list[int] | None:
        """Return the factors of the four dimensions, [] where they are no whole numbers."""
        before, after = node.inputs[0].static_shape, node.outputs[0].static_shape
        scales: list[int] = []
        if before is not None and after is not None and len(before) == len(after) == 4:
            pairs = list(zip(before, after, strict=True))
            if before[:2] == after[:2] and not any(a % b for b, a in pairs):
                scales = [a // b for b, a in pairs]
        given = node.constant(2)
        final = {k: node.attrs.get(k) for k in _FORM} == _FORM and len(node.inputs) == 3
        is_done = final and given is not None and given.tolist() == scales
        return None if is_done else scales

    def check(self, graph: Graph, node: Node, match: list[int]) -> str:
        before, after = node.inputs[0].static_shape, node.outputs[0].static_shape
        mode = node.attrs.get("mode", "nearest")
        if mode != "nearest":
            return f"{mode} interpolation left as it is"
        if before is None or after is None or len(before) != 4:
            return "its sizes are not known; fix the input size first"
        if not match:
            return f"{before} -> {after} is no whole-number upsampling"
        if not all(_reads_floor(node, axis, before[axis], match[axis]) for axis in (2, 3)):
            return "reads other pixels than floor(i / scale), left as it is"
        return ""

    def apply(self, graph: Graph, node: Node, match: list[int]) -> str:
        scales = graph.constant(f"{node.name}_scales", match, np.float32)
        # Opset 11 wants the region of interest even where nothing reads it.
        roi = Value() if graph.opset >= 13 else graph.constant(f"{node.name}_roi", [], np.float32)
        node.inputs, node.attrs = [node.inputs[0], roi, scales], dict(_FORM)
        return f"nearest x{match[2]}, x{match[3]} with constant scales"


def _reads_floor(node: Node, axis: int, size: int, scale: int) -> bool:
    """Whether output row i reads input row floor(i / scale), by the Resize operator's formulas."""
    given = node.constant(2)
    factor = float(given[axis]) if given is not None and given.size == 4 else float(scale)
    output = np.arange(size * scale, dtype=np.float64)
    form = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    if form in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        position = (output + 0.5) / factor - 0.5
        if form == "pytorch_half_pixel" and size * scale == 1:
            position = np.zeros(1)
    elif form == "tf_half_pixel_for_nn":
        position = (output + 0.5) / factor
    elif form == "asymmetric":
        position = output / factor
    elif form == "align_corners":
        position = output * (size - 1) / max(size * scale - 1, 1)
    else:
        return False
    rounding = _ROUNDINGS.get(node.attrs.get("nearest_mode", "round_prefer_floor"))
    if rounding is None:
        return False
    read = np.clip(rounding(position), 0, size - 1)
    return bool((read == np.floor(output / scale)).all())
