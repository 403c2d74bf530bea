# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A segmentation output beside each detection head: found from the graph, and kept by surgery."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from support.onnx_graphs import operators
from support.yolox_graphs import build_yolox

from yolox_trt.compiler.dla import check
from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.layers import quantizable_inputs
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.compiler.surgery.pipeline import optimize
from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import HeadLayout, ModelSpec, SegmentationHead
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.predictions import predict, relative_difference, sample_images
from yolox_trt.graph.spec import read_spec

FORMS = ["logits", "softmax", "argmax", "argmax_kept"]


def build(segmentation: str = "logits", **options: Any) -> onnx.ModelProto:
    return build_yolox(**{"num_classes": 8, "segmentation": segmentation, **options})


def in_order(model: onnx.ModelProto, order: list[int]) -> onnx.ModelProto:
    outputs = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend(outputs[i] for i in order)
    return model


@pytest.mark.parametrize(
    ("head", "form", "stride"),
    [
        *(("undecoded", form, stride) for form, stride in zip(FORMS, (1, 2, 8, 16), strict=True)),
        *(("raw_levels", form, stride) for form, stride in zip(FORMS, (8, 16, 1, 4), strict=True)),
        ("decoded", "logits", 4),
        ("efficient_nms", "logits", 4),
        ("efficient_nms", "argmax", 8),
    ],
)
def test_found_beside_every_detection_head(head: str, form: str, stride: int) -> None:
    model = build(form, head=head, mask_stride=stride, batch=None, mask_classes=16)
    last = len(model.graph.output) - 1
    spec = read_spec(in_order(model, [last, *range(last)]))
    has_argmax = form.startswith("argmax")
    expected = SegmentationHead("pixels", 16, stride, 64 // stride, 96 // stride, has_argmax)
    assert spec.segmentation == expected
    assert spec.head is HeadLayout(head)
    assert spec.strides == (() if head == "efficient_nms" else (8, 16, 32))
    assert len(spec.output_names) == last
    assert spec.tensor_names == (*spec.output_names, "pixels")
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_mask_head_of_as_many_channels_as_classes_is_told_by_its_grid_or_its_name() -> None:
    model = build(head="raw_levels", mask_classes=8, mask_stride=4)
    assert read_spec(model).segmentation.name == "pixels"  # type: ignore[union-attr]
    # On the grid of a level nothing but the name tells.
    model = build(head="raw_levels", mask_classes=8, mask_stride=8)
    for node in model.graph.node:
        node.output[:] = ["segments" if name == "pixels" else name for name in node.output]
    model.graph.output[-1].name = "segments"
    assert read_spec(model).segmentation.name == "segments"  # type: ignore[union-attr]


def test_an_open_size() -> None:
    model = build("argmax", style="opset13", dynamic_size=True, batch=None)
    head = read_spec(model, input_size=(128, 160)).segmentation
    assert head is not None
    assert (head.stride, head.height, head.width) == (4, 32, 40)


def test_names_of_its_classes() -> None:
    model = build(mask_classes=3)
    names = ["road", "sky", "car"]
    helper.set_model_props(model, {"yolox_trt.mask_class_names": json.dumps(names)})
    head = read_spec(model).segmentation
    assert head is not None and head.class_names == tuple(names)
    helper.set_model_props(model, {"yolox_trt.mask_class_names": json.dumps(names[1:])})
    with pytest.raises(ModelError, match=r"2 names .*mask_class_names'; expected 3"):
        read_spec(model)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"mask_classes": 1}, r"\(1, 1, 16, 24\) with logits"),
        ({"mask_classes": 256}, r"\(1, 256, 16, 24\) with logits"),
        ({"mask_classes": 256, "segmentation": "argmax"}, r"classes \(256 of them\)"),
    ],
)
def test_numbers_of_classes_that_no_mask_holds(change: dict[str, Any], found: str) -> None:
    with pytest.raises(ModelError, match=found):
        read_spec(build(**change))


def test_two_segmentation_outputs_are_refused() -> None:
    model = build("logits")
    extra = helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1, 5, 16, 24])
    model.graph.node.append(helper.make_node("Relu", ["pixels"], ["more"]))
    model.graph.output.append(extra)
    with pytest.raises(ModelError, match="mixed rank"):
        read_spec(model)


@pytest.mark.parametrize(
    ("form", "head"),
    [("softmax", "raw"), ("argmax_kept", "raw"), ("argmax", "efficient-nms")],
)
def test_surgery_keeps_both_heads(form: str, head: str) -> None:
    model = build(form, mask_stride=2)
    result = optimize(model, SurgeryOptions(head=head))
    spec = read_spec(result.model)
    assert spec.segmentation is not None
    assert spec.segmentation.name == ("seg_2" if head == "raw" else "pixels")
    # Cut at its logits, for the kernel: a DLA has no ArgMax.
    assert spec.segmentation.has_argmax is (form.startswith("argmax") and head != "raw")
    assert result.report.difference is not None and result.report.difference < 1e-5
    if head == "raw":
        assert not {"ArgMax", "Softmax"} & operators(result.model).keys()


@pytest.mark.parametrize("head", ["raw", "keep"])
def test_surgery_of_size_and_batch(head: str) -> None:
    options = SurgeryOptions(input_size=(96, 128), open_batch=True, head=head)
    result = optimize(build("argmax", style="opset13"), options)
    spec = read_spec(result.model)
    assert spec.batch is None and spec.segmentation is not None
    found = spec.segmentation
    assert (found.stride, found.height, found.width) == (4, 24, 32)
    assert result.report.difference is not None and result.report.difference < 1e-5


def test_a_pass_that_changes_masks_is_noticed() -> None:
    model, images = build("argmax"), sample_images(1, 64, 96)
    changed = Graph.of(model).copy()
    (argmax,) = changed.find("ArgMax")
    logits = argmax.inputs[0]
    argmax.set_input(0, changed.add_node("Neg", "turned", [logits]))
    changed.sort()
    before, after = predict(model, images), predict(changed, images)
    assert relative_difference(before, after) > 1
    assert relative_difference(before, predict(Graph.of(model), images)) == 0
    with pytest.raises(ModelError, match="as before"):
        relative_difference(before, predict(build_yolox(num_classes=8), images))


def test_the_linter_knows_its_operators() -> None:
    report = check(build("argmax", mask_stride=2), DlaTarget(tensorrt="8.6", precision="fp16"))
    (argmax,) = (node for node in report.fallback_nodes if node.op == "ArgMax")
    assert {reason.mended_by for reason in argmax.reasons} == {"cut-head"}
    # The upsampling of the logits is not what cut-head takes away, and runs on the DLA.
    assert "Resize" not in {node.op for node in report.fallback_nodes}
    raw = optimize(build("argmax", mask_stride=2), SurgeryOptions(head="raw", target="dla")).model
    assert check(raw, DlaTarget(tensorrt="8.6", precision="fp16")).passes


def test_quantised_graphs_keep_both_heads() -> None:
    graph = Graph.of(build("argmax"))
    names = quantizable_inputs(graph)
    quantized = insert_qdq(graph, DynamicRanges.from_amax(dict.fromkeys(names, 4.0), "max"))
    head = read_spec(quantized).segmentation
    assert head is not None and head.has_argmax and head.num_classes == 5
    # The convolution of the mask's logits is quantised as any other.
    assert np.isin(names, [c.inputs[0].name for c in graph.find("Conv")]).all()
