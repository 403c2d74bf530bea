# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes and scores of other detectors than YOLOX, as tensors in the graph, for EfficientNMS_TRT.

EfficientDet gives (dy, dx, dh, dw) from its anchors: centre = anchor's centre + d * its size, and
size = exp(d) * its size (https://github.com/google/automl, efficientdet/tf2/anchors.py).
"""

from __future__ import annotations

import numpy as np

from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.core.anchors import efficientdet_anchors
from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import BoxFormat, HeadLayout, ModelSpec
from yolox_trt.core.option import options_of
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Value

_FLOAT32 = 1  # onnx.TensorProto.FLOAT


def boxes_and_scores(graph: Graph, spec: ModelSpec) -> tuple[Value, Value]:
    """Add what follows from a detector's outputs: boxes and scores in float32.

    Args:
        graph: it is changed.
        spec: its description.

    Returns:
        Boxes (N, A, 4) in input pixels, as centre and size (as corners where spec.box_format has
        corners), and scores (N, A, C) as probabilities.

    Raises:
        ModelError: the detector's form has no boxes to suppress.
    """
    values = {value.name: _in_float32(graph, value) for value in graph.outputs}
    found = [values[name] for name in spec.output_names]
    if spec.head is HeadLayout.BOXES_AND_SCORES:
        boxes, scores = found
    elif spec.head in (HeadLayout.DECODED, HeadLayout.CLASS_SCORES):
        rows = found[0]
        if spec.channels_first:
            rows = graph.add_node("Transpose", "nms_rows", [rows], {"perm": [0, 2, 1]})
        boxes = graph.slice(rows, "nms_boxes_raw", 0, 4, 2)
        first = 5 if spec.head is HeadLayout.DECODED else 4
        scores = graph.slice(rows, "nms_classes", first, first + spec.num_classes, 2)
        if first == 5:
            objectness = graph.slice(rows, "nms_objectness", 4, 5, 2)
            scores = graph.add_node("Mul", "nms_scores", [objectness, scores])
    else:
        raise ModelError(
            f"a {spec.model_type}, whose outputs are detections ({spec.head.value})",
            expected="boxes and scores of every anchor, to be suppressed",
            fix=("leave ", options_of(SurgeryOptions)["head"], " out"),
        )
    if not spec.sigmoid:
        scores = graph.add_node("Sigmoid", "nms_probabilities", [scores])
    return _in_pixels(graph, spec, boxes), scores


def _in_pixels(graph: Graph, spec: ModelSpec, boxes: Value) -> Value:
    """Return boxes in input pixels."""
    size = spec.input_height, spec.input_width
    if spec.box_format.is_relative:
        whole = graph.constant("nms_input_size", [*size[::-1], *size[::-1]], np.float32)
        return graph.add_node("Mul", "nms_boxes", [boxes, whole])
    if spec.box_format is not BoxFormat.ANCHORS:
        return boxes
    anchors = efficientdet_anchors(*size)[None]
    middle, extent = (
        graph.constant(f"nms_anchors_{label}", part)
        for label, part in (("centre", anchors[..., :2]), ("size", anchors[..., 2:]))
    )
    order = graph.constant("nms_xywh", [1, 0, 3, 2], np.int64)
    moved = graph.add_node("Gather", "nms_offsets", [boxes, order], {"axis": 2})
    centre = graph.slice(moved, "nms_offset", 0, 2, 2)
    centre = graph.add_node("Mul", "nms_offset_px", [centre, extent])
    centre = graph.add_node("Add", "nms_centre", [centre, middle])
    grown = graph.add_node("Exp", "nms_growth", [graph.slice(moved, "nms_growth_raw", 2, 4, 2)])
    grown = graph.add_node("Mul", "nms_size", [grown, extent])
    return graph.add_node("Concat", "nms_boxes", [centre, grown], {"axis": 2})


def _in_float32(graph: Graph, value: Value) -> Value:
    """Return a value as the plugin takes it."""
    if value.dtype != np.float16:
        return value
    return graph.add_node("Cast", f"{value.name}_float32", [value], {"to": _FLOAT32})
