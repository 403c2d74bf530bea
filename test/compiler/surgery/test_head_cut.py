# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""cut-head: any head becomes raw levels with the contract's names, shapes and metadata."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.onnx_graphs import operators, run
from support.passes import apply
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.layers import quantizable_inputs
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.surgery.head_cut import HeadCut
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import HeadLayout
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.predictions import predict, relative_difference, sample_images
from yolox_trt.graph.spec import read_spec

HEADS = ["undecoded", "decoded", "raw_levels", "efficient_nms"]
NAMES = [f"{kind}_{stride}" for stride in (8, 16, 32) for kind in ("reg", "obj", "cls")]


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("sigmoid", ["cut", "keep"])
@pytest.mark.parametrize("style", ["opset11", "opset13"])
def test_contract_and_values(head, sigmoid, style) -> None:
    model = build_yolox(head=head, style=style, num_classes=7)
    result = apply(HeadCut(SurgeryOptions(sigmoid=sigmoid)), model).model
    assert [o.name for o in result.graph.output] == NAMES
    found = shapes(result)
    assert found["reg_8"] == [1, 4, 8, 12]
    assert found["obj_16"] == [1, 1, 4, 6]
    assert found["cls_32"] == [1, 7, 2, 3]
    metadata = {p.key: json.loads(p.value) for p in result.metadata_props}
    assert metadata["yolox_trt.strides"] == [8, 16, 32]
    assert metadata["yolox_trt.sigmoid"] is (sigmoid == "keep")
    assert metadata["yolox_trt.preprocessing"]["color_order"] == "bgr"
    spec = read_spec(result)
    assert spec.head is HeadLayout.RAW_LEVELS and spec.sigmoid is (sigmoid == "keep")
    images = sample_images(2, 64, 96)
    assert relative_difference(predict(model, images), predict(result, images)) < 2e-6
    unwanted = {"Reshape", "Transpose", "Exp", "EfficientNMS_TRT", "Shape"}
    assert not unwanted & operators(result).keys()


def test_values_against_the_single_output_directly() -> None:
    """Without the package's own decoding: reshape and compare with the exported tensor."""
    model = build_yolox(num_classes=5)
    feeds = random_images(model)
    flat = run(model, feeds)["output"]
    raw = run(apply(HeadCut(SurgeryOptions(sigmoid="keep")), model).model, feeds)
    levels = [
        np.concatenate([raw[f"{k}_{s}"] for k in ("reg", "obj", "cls")], 1).reshape(1, 10, -1)
        for s in (8, 16, 32)
    ]
    joined = np.concatenate(levels, 2).transpose(0, 2, 1)
    np.testing.assert_allclose(joined, flat, rtol=0, atol=1e-6)


@pytest.mark.parametrize("classes", [1, 4, 80])
def test_class_counts_that_look_like_boxes_or_objectness(classes) -> None:
    model = build_yolox(num_classes=classes)
    result = apply(HeadCut(), model).model
    assert shapes(result)["cls_8"] == [1, classes, 8, 12]
    images = sample_images(1, 64, 96)
    assert relative_difference(predict(model, images), predict(result, images)) < 2e-6


def test_class_names_are_kept() -> None:
    model = build_yolox(num_classes=3, metadata=True)
    result = apply(HeadCut(), model).model
    assert read_spec(result).class_names == ("class0", "class1", "class2")


def test_a_second_cut_changes_nothing() -> None:
    once = apply(HeadCut(), build_yolox()).model
    assert not apply(HeadCut(), once).changes


def test_sigmoid_can_be_put_back_and_taken_off() -> None:
    model = build_yolox(head="raw_levels", sigmoid=True)
    logits = apply(HeadCut(SurgeryOptions(sigmoid="cut")), model).model
    again = apply(HeadCut(SurgeryOptions(sigmoid="keep")), logits).model
    feeds = random_images(model)
    before, after = run(model, feeds), run(again, feeds)
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=0, atol=1e-6)
    assert operators(logits)["Sigmoid"] == operators(model)["Sigmoid"] - 6


def merge_predictions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Join the reg and obj convolutions of each level into one of 5 channels."""
    weights = {i.name: i for i in model.graph.initializer}
    for level in range(3):
        joined = {}
        for part in ("weight", "bias"):
            arrays = [
                numpy_helper.to_array(weights[f"head.{kind}_preds.{level}.{part}"])
                for kind in ("reg", "obj")
            ]
            joined[part] = f"joined.{level}.{part}"
            array = np.concatenate(arrays)
            model.graph.initializer.append(numpy_helper.from_array(array, joined[part]))
        convs = {
            kind: next(
                n for n in model.graph.node if f"head.{kind}_preds.{level}.weight" in n.input
            )
            for kind in ("reg", "obj")
        }
        reg, obj = convs["reg"], convs["obj"]
        outputs = [reg.output[0], obj.output[0]]
        index = list(model.graph.node).index(obj)
        model.graph.node.remove(obj)
        reg.input[1:] = [joined["weight"], joined["bias"]]
        reg.output[0] = f"joined.{level}"
        sizes = f"split.{level}"
        model.graph.initializer.append(numpy_helper.from_array(np.array([4, 1]), sizes))
        split = helper.make_node("Split", [f"joined.{level}", sizes], outputs, axis=1)
        model.graph.node.insert(index, split)
    onnx.checker.check_model(model)
    return model


def test_merged_convolutions_are_divided_again() -> None:
    plain = build_yolox(num_classes=6, style="opset13")
    merged = merge_predictions(build_yolox(num_classes=6, style="opset13"))
    feeds = random_images(plain)
    outputs = (run(m, feeds)["output"] for m in (plain, merged))
    np.testing.assert_allclose(*outputs, rtol=0, atol=1e-6)
    expected, found = (run(apply(HeadCut(), m).model, feeds) for m in (plain, merged))
    assert list(found) == NAMES
    for name in NAMES:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("float_weights", [False, True])
def test_merged_convolutions_behind_qdq_are_divided_again(float_weights) -> None:
    merged = merge_predictions(build_yolox(num_classes=6, style="opset13", width=0.125))
    graph = Graph(merged)
    ranges = DynamicRanges.from_amax(dict.fromkeys(quantizable_inputs(graph), 8.0))
    quantized = insert_qdq(graph, ranges, float_weights=float_weights).to_model()
    cut = apply(HeadCut(), quantized).model
    feeds = random_images(merged)
    whole = onnx.ModelProto()
    whole.CopyFrom(quantized)
    del whole.graph.output[:]
    whole.graph.output.extend(
        helper.make_empty_tensor_value_info(f"joined.{level}") for level in range(3)
    )
    joined, found = run(whole, feeds), run(cut, feeds)
    assert list(found) == NAMES
    for level, stride in enumerate((8, 16, 32)):
        both = np.concatenate([found[f"reg_{stride}"], found[f"obj_{stride}"]], 1)
        np.testing.assert_allclose(both, joined[f"joined.{level}"], rtol=0, atol=1e-5)


def test_computed_weights_of_merged_convolutions_are_refused() -> None:
    merged = merge_predictions(build_yolox(num_classes=6, style="opset13", width=0.125))
    conv = next(n for n in merged.graph.node if "joined.0.weight" in n.input)
    conv.input[1] = "computed"
    scaled = helper.make_node("Relu", ["joined.0.weight"], ["computed"], "scaled")
    merged.graph.node.insert(0, scaled)
    with pytest.raises(ModelError, match="computed in the graph"):
        apply(HeadCut(), merged)


def test_a_dynamic_batch_stays_open() -> None:
    model = build_yolox(style="opset13", batch=None)
    result = apply(HeadCut(), model).model
    for size in (1, 3):
        outputs = run(result, random_images(model, batch=size))
        assert outputs["cls_8"].shape[0] == size


def test_other_networks_are_refused_with_what_was_found() -> None:
    from support.onnx_graphs import make_graph

    weight = np.ones((7, 3, 3, 3), np.float32)
    model = make_graph(
        [("Conv", ["x", "weight"], ["y"], {})], {"x": (1, 3, 64, 64)}, ["y"], {"weight": weight}
    )
    with pytest.raises(ModelError, match="YOLOX"):
        apply(HeadCut(SurgeryOptions(head="raw")), model)


def test_open_height_and_width_name_the_option() -> None:
    model = build_yolox(style="opset13", dynamic_size=True)
    with pytest.raises(ModelError, match="--input-size"):
        apply(HeadCut(SurgeryOptions(head="raw")), model)
