# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""UpsampleToScales: upsampling in the form the DLA takes."""

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
#: Rows or columns of a result that are looked at one by one.
_MOST_ROWS = 1 << 16
_LINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
_ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda position: np.ceil(position - 0.5),
    "round_prefer_ceil": lambda position: np.floor(position + 0.5),
}


class UpsampleToScales(Rule):
    """Resize by a whole number -> four constant scales; nearest: asymmetric, floor.

    Exporters write the same upsampling in many ways: computed sizes, half-pixel coordinates with
    either rounding. Where the rows and columns that are read are those of floor(i / scale), the
    result is bit-exact. The DLA takes four scales (1, 1, s, s), never an output size.

    Bilinear Resize is written with half-pixel centres, as PyTorch's align_corners=False and OpenCV
    compute it; the DLA takes it up to 4. Where rows and columns are one, every interpolation only
    repeats the value, and nearest is what is written: up to 32 on the DLA.
    """

    name = "upsample"
    summary = "Resize by a whole number -> constant scales; nearest: asymmetric, floor"
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
        form = _FORM if node.attrs.get("mode", "nearest") == "nearest" else _LINEAR
        final = {k: node.attrs.get(k) for k in form} == form and len(node.inputs) == 3
        is_done = final and given is not None and given.tolist() == scales
        return None if is_done else scales

    def check(self, graph: Graph, node: Node, match: list[int]) -> str:
        before, after = node.inputs[0].static_shape, node.outputs[0].static_shape
        mode = node.attrs.get("mode", "nearest")
        if mode not in ("nearest", "linear") or node.attrs.get("antialias", 0):
            return f"{mode} interpolation left as it is"
        if before is None or after is None or len(before) != 4:
            return "its sizes are not known; fix the input size first"
        if not match:
            return f"{before} -> {after} is no whole-number upsampling"
        if before[2:] == (1, 1):
            return ""
        if mode == "linear":
            return "" if _is_half_pixel(node, match) else "interpolates between other pixels"
        if not all(_reads_floor(node, axis, before[axis], match[axis]) for axis in (2, 3)):
            return "reads other pixels than floor(i / scale), left as it is"
        return ""

    def apply(self, graph: Graph, node: Node, match: list[int]) -> str:
        scales = graph.constant(f"{node.name}_scales", match, np.float32)
        # Opset 11 wants the region of interest even where nothing reads it.
        roi = Value() if graph.opset >= 13 else graph.constant(f"{node.name}_roi", [], np.float32)
        shape = node.inputs[0].static_shape or ()
        is_linear = node.attrs.get("mode", "nearest") == "linear" and shape[2:] != (1, 1)
        form = _LINEAR if is_linear else _FORM
        node.inputs, node.attrs = [node.inputs[0], roi, scales], dict(form)
        return f"{form['mode']} x{match[2]}, x{match[3]} with constant scales"


def _is_half_pixel(node: Node, scales: list[int]) -> bool:
    """Whether a bilinear Resize by whole numbers samples at half-pixel centres."""
    given, after = node.constant(2), node.outputs[0].static_shape or (0,) * 4
    if given is not None and given.size == 4 and given.tolist() != scales:
        return False  # a part more than a whole number: the same size, other centres
    form = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    # PyTorch's differs only where one pixel is made.
    return form == "half_pixel" or (form == "pytorch_half_pixel" and min(after[2:]) > 1)


def _reads_floor(node: Node, axis: int, size: int, scale: int) -> bool:
    """Whether output row i reads input row floor(i / scale), by the Resize operator's formulas."""
    if size * scale > _MOST_ROWS:
        return False
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
