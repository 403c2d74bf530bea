# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Heads of other detectors are recognised, or forced, or refused with what would mend it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from yolox_trt.core import HeadLayout, ModelError
from yolox_trt.core.model_spec import BoxFormat, ModelSpec
from yolox_trt.graph.batch import fit_batch
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.spec import read_spec

torch = pytest.importorskip("torch", reason="the networks are built with PyTorch")
from support import detector_graphs
from support.detector_graphs import NETWORKS, export
from support.onnx_graphs import make_graph
from support.yolox_graphs import build_yolox

pytestmark = pytest.mark.filterwarnings("ignore")

HEADS = {
    "yolov5": (HeadLayout.DECODED, BoxFormat.CXCYWH),
    "yolov6": (HeadLayout.DECODED, BoxFormat.CXCYWH),
    "yolov8": (HeadLayout.CLASS_SCORES, BoxFormat.CXCYWH),
    "yolov8 rows": (HeadLayout.CLASS_SCORES, BoxFormat.CXCYWH),
    "yolov10": (HeadLayout.END_TO_END, BoxFormat.XYXY),
    "rtdetr": (HeadLayout.LABELS_BOXES_SCORES, BoxFormat.XYXY),
    "rtdetr queries": (HeadLayout.CLASS_SCORES, BoxFormat.CXCYWH_RELATIVE),
    "rtdetr logits": (HeadLayout.BOXES_AND_SCORES, BoxFormat.CXCYWH_RELATIVE),
    "efficientdet": (HeadLayout.BOXES_AND_SCORES, BoxFormat.ANCHORS),
    "boxes scores": (HeadLayout.BOXES_AND_SCORES, BoxFormat.XYXY),
}


@pytest.mark.parametrize(
    ("name", "opset", "batch"),
    [(name, *case) for name in NETWORKS for case in ((11, None), (17, 1))]
    + [("yolov8", 20, 1), ("rtdetr", 20, 1)],
)
def test_finds_every_form(name: str, opset: int, batch: int | None, tmp_path: Path) -> None:
    make, model_type, needs_nms = NETWORKS[name]
    path = export(make(), tmp_path / "m.onnx", opset=opset, batch=batch)
    spec = read_spec(path)
    assert (spec.head, spec.box_format) == HEADS[name]
    assert (spec.model_type, spec.needs_nms, spec.batch) == (model_type, needs_nms, batch)
    assert (spec.num_classes, spec.levels, spec.is_yolox) == (5, (), False)
    assert spec.channels_first is (name == "yolov8")
    assert spec.sigmoid is (name != "rtdetr logits")
    assert spec == ModelSpec.from_dict(spec.to_dict())
    assert spec.preprocessing.color_order == "rgb"
    assert spec.size_step == (128 if name == "efficientdet" else 32)
    if opset != 17:
        return
    # Each can be asked for by its name, and no other fits.
    assert read_spec(path, model_type=model_type) == spec
    for other in {"yolox", "yolov5", "yolov8", "yolov10", "rtdetr", "efficientdet"} - {model_type}:
        with pytest.raises(ModelError, match=r"\(outputs: "):
            read_spec(path, model_type=other)


def table(*shape: int, op: str = "Relu", **metadata: str) -> onnx.ModelProto:
    """Return a graph with one output of a shape, whose values come from anywhere."""
    count = 3 * 64 * 96
    pads = [0] * 2 + [0, max(0, -(-shape[1] * shape[2] // 1) - count)]
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["a"]),
        helper.make_node("Pad", ["a", "pads"], ["b"]),
        helper.make_node("Slice", ["b", "first", "end", "axis"], ["c"]),
        helper.make_node(op, ["c"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], ["y"]),
    ]

    def whole(name: str, *values: int) -> Any:
        return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)

    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64, 96])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            whole("flat", 1, -1),
            whole("pads", *pads),
            whole("first", 0),
            whole("end", shape[1] * shape[2]),
            whole("axis", 1),
            whole("shape", *shape),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    if metadata:
        helper.set_model_props(model, metadata)
    return model


def test_rows_that_may_have_an_objectness_are_asked_for() -> None:
    """(N, 126, 10): 5 classes and objectness, or 6 without."""
    with pytest.raises(ModelError, match=r"may be those of yolov8.*class names"):
        read_spec(table(1, 126, 10))
    five, six = list("abcde"), list("abcdef")
    assert read_spec(table(1, 126, 10), class_names=five).head is HeadLayout.DECODED
    assert read_spec(table(1, 126, 10), class_names=six).head is HeadLayout.CLASS_SCORES
    named = table(1, 126, 10, names=str(dict(enumerate(six))))
    assert read_spec(named).class_names == tuple(six)


def test_a_metadata_names_a_form_and_its_boxes() -> None:
    model = table(
        *(1, 126, 10),
        **{"yolox_trt.model_type": "yolov8", "yolox_trt.box_format": "xyxy_relative"},
        names=str(dict(enumerate("abcdef"))),
    )
    spec = read_spec(model)
    assert (spec.model_type, spec.box_format) == ("yolov8", BoxFormat.XYXY_RELATIVE)
    assert read_spec(model, box_format=BoxFormat.XYXY).box_format is BoxFormat.XYXY
    helper.set_model_props(model, {"yolox_trt.model_type": "yolov8", "stride": "64"})
    assert read_spec(model, class_names=list("abcdef")).size_step == 64
    helper.set_model_props(model, {"yolox_trt.box_format": "corners"})
    with pytest.raises(ModelError, match=r"'corners'.*expected cxcywh"):
        read_spec(model)


def test_masks_and_key_points_beside_boxes_are_left_out(tmp_path: Path) -> None:
    network = detector_graphs.YoloV8(num_classes=5, beside=8, prototypes=True)
    spec = read_spec(export(network, tmp_path / "seg.onnx"))
    assert (spec.num_classes, spec.output_names, spec.ignored) == (5, ("output0",), ("output1",))
    pose = table(1, 4 + 1 + 51, 126, names="{0: 'person'}", task="pose")
    assert read_spec(pose).num_classes == 1


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"task": "obb"}, r"task 'obb'.*for detection"),
        ({"names": "{0: 'a', 1"}, r"metadata 'names'.*expected \{0: 'name'"),
        ({"names": "{0: 'a'}" + "()" * 50}, "metadata 'names'"),
        ({"yolox_trt.model_type": "own"}, r"type 'own'.*fix: name the module"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(metadata: dict[str, str], told: str) -> None:
    with pytest.raises(ModelError if "own" not in told else Exception, match=told):
        read_spec(table(1, 9, 126, **metadata))


def test_the_number_of_classes_must_be_known(tmp_path: Path) -> None:
    """What an end-to-end head gives does not show it."""
    with pytest.raises(ModelError, match=r"do not tell the number of classes.*label file"):
        read_spec(table(1, 25, 6), model_type="yolov10")
    assert read_spec(table(1, 25, 6), model_type="yolov10", class_names=["a"]).num_classes == 1


def test_boxes_beside_scores_need_a_format(tmp_path: Path) -> None:
    network = detector_graphs.RtDetr(form="logits")
    path = export(network, tmp_path / "m.onnx")
    model = onnx.load(str(path))
    for node in model.graph.node:  # nothing tells any more that queries were chosen
        if node.op_type == "TopK":
            node.op_type, node.domain = "OwnChoice", "own"
    model.opset_import.append(helper.make_opsetid("own", 1))
    with pytest.raises(ModelError, match="option box format"):
        read_spec(model)
    spec = read_spec(model, box_format=BoxFormat.XYXY)
    assert (spec.model_type, spec.box_format, spec.nms) == ("boxes_scores", BoxFormat.XYXY, True)


@pytest.mark.parametrize(
    ("objectness", "are_scores"), [("Sigmoid", True), ("Relu", False), (None, True)]
)
def test_scores_that_are_probabilities_are_no_logits(
    objectness: str | None, are_scores: bool
) -> None:
    """Classes cut out of a joint tensor, times an objectness: no second sigmoid."""
    nodes = [
        ("Conv", ["x", "w"], ["c"], {"strides": [32, 32]}),
        ("Reshape", ["c", "rows"], ["r"], {}),
        ("Slice", ["r", "0", "4", "1"], ["b"], {}),
        ("Slice", ["r", "4", "9", "1"], ["l"], {}),
        ("Sigmoid", ["l"], ["p"], {}),
        ("Concat", ["b", "p"], ["joint"], {"axis": 1}),
        ("Transpose", ["joint"], ["t"], {"perm": [0, 2, 1]}),
        ("Slice", ["t", "0", "4", "2"], ["boxes"], {}),
        ("Slice", ["t", "4", "9", "2"], ["s"], {}),
    ]
    if objectness:
        nodes += [
            ("Slice", ["c", "0", "1", "1"], ["first"], {}),
            ("Reshape", ["first", "column"], ["f"], {}),
            (objectness, ["f"], ["o"], {}),
            ("Mul", ["s", "o"], ["scores"], {}),
        ]
    else:
        nodes.append(("Identity", ["s"], ["scores"], {}))
    constants = {str(n): np.array([n]) for n in (0, 1, 2, 4, 9)}
    constants |= {"w": np.zeros((9, 3, 32, 32), np.float32)}
    constants |= {"rows": np.array([1, 9, 6]), "column": np.array([1, 6, 1])}
    model = make_graph(nodes, {"x": (1, 3, 64, 96)}, ["boxes", "scores"], constants)
    spec = read_spec(model, box_format=BoxFormat.XYXY)
    assert (spec.model_type, spec.num_classes, spec.sigmoid) == ("boxes_scores", 5, are_scores)


def test_a_format_of_boxes_without_effect_is_refused(tmp_path: Path) -> None:
    network = detector_graphs.EfficientDet()
    for model, own in (
        (build_yolox(), "cxcywh"),
        (export(network, tmp_path / "m.onnx"), "anchors"),
    ):
        told = rf"'xyxy' asked for.*'{own}'.*leave the option box format out"
        with pytest.raises(ModelError, match=told):
            read_spec(model, box_format=BoxFormat.XYXY)
    assert read_spec(build_yolox(), box_format="cxcywh") == read_spec(build_yolox())
    finished = build_yolox(head="efficient_nms")
    assert read_spec(finished, box_format="xyxy") == read_spec(finished)
    with pytest.raises(ModelError, match=r"'cxcywh' asked for a efficient_nms"):
        read_spec(finished, box_format="cxcywh")


def test_nothing_known_is_refused_with_what_is() -> None:
    with pytest.raises(ModelError, match=r"y \(1, 7, 7\).*yolov5 or yolov7.*option model type"):
        read_spec(table(1, 7, 7))


@pytest.mark.parametrize("name", ["yolov5", "yolov8", "efficientdet"])
def test_a_batch_that_is_built_in_is_opened(name: str, tmp_path: Path) -> None:
    graph = Graph.load(export(NETWORKS[name][0](), tmp_path / "m.onnx"))
    spec = read_spec(graph)
    model, opened, most = fit_batch(graph, spec, 3)
    assert model is not None and (opened.batch, most) == (None, 3)
    assert read_spec(model).head is spec.head


def test_a_batch_that_cannot_be_opened_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = Graph.load(export(NETWORKS["rtdetr queries"][0](), tmp_path / "m.onnx"))
    assert fit_batch(graph, read_spec(graph), 3)[2] == 1
    assert "runs with batch 1, not 3" in caplog.text
