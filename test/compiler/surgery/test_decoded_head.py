# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""EfficientNMS_TRT behind other detectors than YOLOX: what goes into the plugin."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.networks import small
from support.onnx_graphs import make_graph, random_feeds, run

from yolox_trt.compiler.surgery import SurgeryOptions, optimize
from yolox_trt.core.anchors import efficientdet_anchors
from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import HeadLayout
from yolox_trt.graph.spec import read_spec

OPTIONS = SurgeryOptions(head="efficient-nms", max_output_boxes=7)


def before_plugin(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.NodeProto]:
    """Return a model that gives what its plugin reads, and the plugin."""
    (plugin,) = (n for n in model.graph.node if n.op_type == "EfficientNMS_TRT")
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    del cut.graph.output[:]
    cut.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, plugin.input))
    nodes = [n for n in cut.graph.node if n.op_type != "EfficientNMS_TRT"]
    del cut.graph.node[:]
    cut.graph.node.extend(nodes)
    return cut, plugin


def test_efficientdet_is_decoded_from_its_anchors() -> None:
    model = small("efficientdet")
    result = optimize(model, OPTIONS)
    cut, plugin = before_plugin(result.model)
    feeds = random_feeds(model)
    offsets, classes = run(model, feeds).values()
    boxes, scores = run(cut, feeds).values()
    anchors = efficientdet_anchors(128, 128)
    dy, dx, dh, dw = np.moveaxis(offsets[0].astype(np.float64), 1, 0)
    x, y, w, h = anchors.T
    with np.errstate(over="ignore"):  # of random weights a size may be infinite in float32
        sizes = np.exp(dw) * w, np.exp(dh) * h
        expected = np.stack([dx * w + x, dy * h + y, *sizes], 1).astype(np.float32)
    np.testing.assert_allclose(boxes[0], expected, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(scores, classes, atol=1e-4)
    attributes = {a.name: a for a in plugin.attribute}
    assert (attributes["box_coding"].i, attributes["max_output_boxes"].i) == (1, 7)
    spec = read_spec(result.model)
    assert spec.head is HeadLayout.EFFICIENT_NMS
    assert spec.preprocessing == read_spec(model).preprocessing
    assert [o.name for o in result.model.graph.output] == [
        "num_detections", "detection_boxes", "detection_scores", "detection_classes",
    ]  # fmt: skip


def test_yolov5_brings_objectness_times_class() -> None:
    model = small("yolov5")
    cut, _ = before_plugin(optimize(model, OPTIONS).model)
    feeds = random_feeds(model)
    (rows,) = run(model, feeds).values()
    boxes, scores = run(cut, feeds).values()
    np.testing.assert_allclose(boxes, rows[..., :4], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(scores, rows[..., 4:5] * rows[..., 5:], atol=1e-5)


def test_a_segmentation_network_is_refused() -> None:
    weights = np.ones((5, 3, 1, 1), np.float32)
    model = make_graph(
        [("Conv", ["x", "w"], ["y"], {})], {"x": (1, 3, 32, 32)}, ["y"], {"w": weights}
    )
    with pytest.raises(ModelError, match="outputs"):
        optimize(model, OPTIONS)
