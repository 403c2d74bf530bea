# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""UpsampleToScales: nearest upsampling in the form the DLA takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.model_graph import ModelGraph

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

#: Largest nearest upsampling of the DLA (restriction table of NvInfer.h).
MAX_SCALE = 32


class UpsampleToScales(SurgeryPass):
    """Nearest Resize by a whole number -> four constant scales, asymmetric, floor.

    Exporters write the same upsampling in many ways: computed sizes, half-pixel coordinates with
    either rounding. Where the rows and columns that are read are those of floor(i / scale), the
    result is bit-exact. The DLA takes four scales (1, 1, s, s), never an output size.
    """

    name = "upsample"
    summary = "nearest Resize by a whole number -> constant scales, asymmetric, floor"

    def rewrite(self, graph: ModelGraph, log: PassLog) -> None:
        for node in [n for n in graph.graph.nodes if n.op == "Resize"]:
            mode = node.attrs.get("mode", "nearest")
            if mode != "nearest":
                log.note(f"{node.name}: {mode} interpolation left as it is")
                continue
            before = graph.static_shape(node.inputs[0])
            after = graph.static_shape(node.outputs[0])
            if before is None or after is None or len(before) != 4:
                log.note(f"{node.name}: its sizes are not known; fix the input size first")
                continue
            if before[:2] != after[:2] or any(a % b for b, a in zip(before, after, strict=True)):
                log.note(f"{node.name}: {before} -> {after} is no whole-number upsampling")
                continue
            scales = [a // b for b, a in zip(before, after, strict=True)]
            if not all(
                _reads_floor(graph, node, axis, before[axis], scales[axis]) for axis in (2, 3)
            ):
                log.note(f"{node.name}: reads other pixels than floor(i / scale), left as it is")
                continue
            attrs = {
                "mode": "nearest",
                "coordinate_transformation_mode": "asymmetric",
                "nearest_mode": "floor",
            }
            given = graph.input_constant(node, 2)
            plain = {k: node.attrs.get(k) for k in attrs} == attrs and len(node.inputs) == 3
            if plain and given is not None and given.tolist() == scales:
                continue
            tensor = graph.constant(f"{node.name}_scales", scales, np.float32)
            # Opset 11 wants the region of interest even where nothing reads it.
            roi = (
                graph.empty()
                if graph.graph.opset >= 13
                else graph.constant(f"{node.name}_roi", [], np.float32)
            )
            source = node.inputs[0]
            node.inputs = [source, roi, tensor]
            node.attrs = dict(attrs)
            log.change(f"{node.name}: nearest x{scales[2]}, x{scales[3]} with constant scales")


def _reads_floor(graph: ModelGraph, node: gs.Node, axis: int, size: int, scale: int) -> bool:
    """Whether output row i reads input row floor(i / scale), by the Resize operator's formulas."""
    given = graph.input_constant(node, 2)
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
    rounding = node.attrs.get("nearest_mode", "round_prefer_floor")
    rounded = {
        "floor": np.floor(position),
        "ceil": np.ceil(position),
        "round_prefer_floor": np.ceil(position - 0.5),
        "round_prefer_ceil": np.floor(position + 0.5),
    }.get(rounding)
    if rounded is None:
        return False
    return bool((np.clip(rounded, 0, size - 1) == np.floor(output / scale)).all())
