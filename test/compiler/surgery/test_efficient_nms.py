# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Decode and EfficientNMS_TRT at the end of the graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.onnx_graphs import operators, run
from support.passes import apply
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.compiler.surgery import (
    SurgeryOptions,
    optimize,
)
from yolox_trt.compiler.surgery.efficient_nms import EfficientNmsAttachment
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.model_spec import HeadLayout
from yolox_trt.graph.predictions import TOLERANCE, predict, relative_difference, sample_images
from yolox_trt.graph.spec import read_spec


class TestEfficientNms:
    @pytest.mark.parametrize("head", ["undecoded", "decoded", "raw_levels"])
    def test_boxes_and_scores_before_the_plugin(self, head) -> None:
        model = build_yolox(head=head, num_classes=3)
        result = apply(
            EfficientNmsAttachment(
                SurgeryOptions(score_threshold=0.2, iou_threshold=0.5, max_output_boxes=50)
            ),
            model,
        ).model
        node = next(n for n in result.graph.node if n.op_type == "EfficientNMS_TRT")
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attrs["score_threshold"] == pytest.approx(0.2)
        assert attrs["iou_threshold"] == pytest.approx(0.5)
        assert attrs["max_output_boxes"] == 50 and attrs["box_coding"] == 1
        # Cut the plugin off and compare with plain NumPy decoding of the original export.
        truth = build_yolox(head="decoded", num_classes=3)
        feeds = random_images(truth)
        decoded = run(truth, feeds)["output"]
        cut = onnx.ModelProto()
        cut.CopyFrom(result)
        cut.graph.node.remove(next(n for n in cut.graph.node if n.name == node.name))
        del cut.graph.output[:]
        for name in node.input:
            cut.graph.output.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )
        boxes, scores = (run(cut, feeds)[n] for n in node.input)
        np.testing.assert_allclose(boxes, decoded[..., :4], rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(scores, decoded[..., 4:5] * decoded[..., 5:], atol=1e-5)

    def test_outputs_and_description(self) -> None:
        result = apply(
            EfficientNmsAttachment(SurgeryOptions(max_output_boxes=10)), build_yolox()
        ).model
        spec = read_spec(result)
        assert spec.head is HeadLayout.EFFICIENT_NMS and spec.num_classes == 80
        shapes = [[d.dim_value for d in o.type.tensor_type.shape.dim] for o in result.graph.output]
        assert shapes == [[1, 1], [1, 10, 4], [1, 10], [1, 10]]

    def test_attach_and_remove(self) -> None:
        model = build_yolox(num_classes=4)
        attached = optimize(model, SurgeryOptions(head="efficient-nms")).model
        removed = optimize(attached, SurgeryOptions(head="raw"))
        assert "EfficientNMS_TRT" not in operators(removed.model)
        images = sample_images(1, 64, 96)
        difference = relative_difference(predict(model, images), predict(removed.model, images))
        assert difference < TOLERANCE

    def test_a_second_plugin_is_not_attached(self) -> None:
        once = apply(EfficientNmsAttachment(), build_yolox()).model
        assert not apply(EfficientNmsAttachment(), once).changes

    @pytest.mark.parametrize(
        ("name", "value"),
        [("score_threshold", 1.5), ("iou_threshold", -1.0), ("max_output_boxes", 0)],
    )
    def test_wrong_thresholds(self, name, value) -> None:
        with pytest.raises(ConfigurationError, match=name):
            SurgeryOptions(**{name: value})
