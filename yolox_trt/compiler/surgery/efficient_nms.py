# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""EfficientNmsAttachment: decode and TensorRT's NMS plugin at the end of the graph."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from yolox_trt.compiler.surgery.decoded_head import boxes_and_scores
from yolox_trt.compiler.surgery.head_cut import RawLevel, find_raw_levels
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import (
    METADATA_BOX_FORMAT,
    METADATA_CLASS_NAMES,
    METADATA_MODEL_TYPE,
    METADATA_PREPROCESSING,
    METADATA_SIGMOID,
    METADATA_STRIDES,
    BoxFormat,
)
from yolox_trt.core.option import options_of
from yolox_trt.graph.graph import PLUGIN_DOMAIN, Graph
from yolox_trt.graph.head import anchor_grid
from yolox_trt.graph.image_input import why_no_yolox
from yolox_trt.graph.spec import read_spec
from yolox_trt.graph.values import Value

_FLOAT32, _INT32 = 1, 6  # onnx.TensorProto.FLOAT, INT32
OUTPUTS = ("num_detections", "detection_boxes", "detection_scores", "detection_classes")


class EfficientNmsAttachment(SurgeryPass):
    """The head of a YOLOX or another detector -> boxes and scores into EfficientNMS_TRT.

    Boxes go in as centre and size in input pixels (box_coding 1; corners: 0), scores as objectness
    x class. Of other detectors see surgery.decoded_head.
    Outputs: num_detections int32 (N, 1), detection_boxes float32 (N, K, 4) as x1 y1 x2 y2 in input
    pixels, detection_scores float32 (N, K), detection_classes int32 (N, K). HeadCut removes the
    plugin again. The plugin runs on the GPU of TensorRT 8.x and 10.x (8.5 and newer where it is
    class-agnostic); it is not on a DLA.
    """

    name = "attach-nms"
    summary = "decode and EfficientNMS_TRT at the end of the graph (GPU only)"

    @property
    def is_wanted(self) -> bool:
        return self.options.head == "efficient-nms"

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        if graph.find("EfficientNMS_TRT"):
            log.note("EfficientNMS_TRT is attached already; cut the head first to change it")
            return
        batch = graph.image.shape[0] if graph.image.shape is not None else None
        if why_no_yolox(graph):
            spec = read_spec(graph)
            joined = list(boxes_and_scores(graph, spec))
            coding = int(spec.box_format not in (BoxFormat.XYXY, BoxFormat.XYXY_RELATIVE))
        else:
            spec, levels = find_raw_levels(graph)
            coding = 1
            boxes, scores = [], []
            for level in levels:
                box, score = _decode(graph, level)
                boxes.append(box)
                scores.append(score)
            # The coordinates of all anchors, then of all scores, level by level.
            joined = [
                graph.add_node("Concat", "nms_boxes", boxes, {"axis": 1}),
                graph.add_node("Concat", "nms_scores", scores, {"axis": 1}),
            ]
        options, count = self.options, self.options.max_output_boxes
        attrs: dict[str, Any] = {
            "background_class": -1,
            "box_coding": coding,
            "iou_threshold": options.iou_threshold,
            "max_output_boxes": count,
            "plugin_version": "1",
            "score_activation": 0,
            "score_threshold": options.score_threshold,
            **({"class_agnostic": 1} if options.class_agnostic else {}),
        }
        kinds = (
            (_INT32, [1]),
            (_FLOAT32, [count, 4]),
            (_FLOAT32, [count]),
            (_INT32, [count]),
        )
        old = set(spec.output_names)
        outputs = []
        for name, (elem_type, shape) in zip(OUTPUTS, kinds, strict=True):
            outputs.append(Value("", elem_type, [batch, *shape]))
            graph.rename(outputs[-1], name)
        op = "EfficientNMS_TRT"
        graph.add_node(op, op, joined, attrs, domain=PLUGIN_DOMAIN, output=outputs)
        segmentation = spec.segmentation.name if spec.segmentation else ""
        graph.outputs = outputs + [value for value in graph.outputs if value.name == segmentation]
        for key in (METADATA_SIGMOID, METADATA_STRIDES, METADATA_MODEL_TYPE, METADATA_BOX_FORMAT):
            graph.metadata.pop(key, None)
        # The head that told what the input expects is no longer the last.
        graph.metadata.setdefault(METADATA_PREPROCESSING, spec.preprocessing.to_json())
        if spec.class_names:
            graph.metadata.setdefault(METADATA_CLASS_NAMES, json.dumps(list(spec.class_names)))
        log.change(
            f"outputs {', '.join(sorted(old))} -> {', '.join(OUTPUTS)} "
            f"(score {options.score_threshold:g}, IoU {options.iou_threshold:g}, "
            f"{count} boxes)"
        )


def _decode(graph: Graph, level: RawLevel) -> tuple[Value, Value]:
    """Return boxes (N, A, 4) and scores (N, A, C) of one level."""
    height, width = (level.box.shape or (None,) * 4)[2:]
    if not isinstance(height, int) or not isinstance(width, int):
        raise ModelError(
            f"level of stride {level.stride} with open height or width",
            expected="a fixed input size",
            fix=("set ", options_of(SurgeryOptions)["input_size"]),
        )
    tag = f"nms_{level.stride}"

    def flat(tensor: Value, suffix: str) -> Value:
        # (N, C, h, w) -> (N, C, h w) -> (N, h w, C); 0 keeps the batch, fixed or open.
        target = graph.constant(f"{tag}_{suffix}_shape", [0, 0, -1], np.int64)
        wide = graph.add_node("Reshape", f"{tag}_{suffix}_flat", [tensor, target])
        return graph.add_node("Transpose", f"{tag}_{suffix}", [wide], {"perm": [0, 2, 1]})

    def in_float32(tensor: Value, suffix: str) -> Value:
        # The plugin and the constants below are float32, and pixels above 2048 have steps of two
        # in FP16.
        if tensor.dtype != np.float16:
            return tensor
        return graph.add_node("Cast", f"{tag}_{suffix}_float32", [tensor], {"to": _FLOAT32})

    def part(tensor: Value, first: int, last: int) -> Value:
        return graph.slice(tensor, f"{tag}_box{first}", first, last, 2)

    size = (height * level.stride, width * level.stride)
    corners, _ = anchor_grid(size, [level.stride])
    grid = graph.constant(f"{tag}_grid", corners[None], np.float32)
    stride = graph.constant(f"{tag}_stride", level.stride, np.float32)
    box = flat(in_float32(level.box, "box"), "box")
    centre = graph.add_node("Add", f"{tag}_centre", [part(box, 0, 2), grid])
    centre = graph.add_node("Mul", f"{tag}_centre_px", [centre, stride])
    extent = graph.add_node("Exp", f"{tag}_size", [part(box, 2, 4)])
    extent = graph.add_node("Mul", f"{tag}_size_px", [extent, stride])
    boxes = graph.add_node("Concat", f"{tag}_boxes", [centre, extent], {"axis": 2})
    probabilities = [
        graph.add_node("Sigmoid", f"{tag}_{n}_sigmoid", [flat(in_float32(t, n), n)])
        for n, t in (("obj", level.objectness), ("cls", level.classes))
    ]
    return boxes, graph.add_node("Mul", f"{tag}_scores", probabilities)
