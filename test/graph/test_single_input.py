# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The second input of RT-DETR becomes a constant, and outputs that nobody reads are left out."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support.tensorrt_fixtures import make_api, pretend_gpu

from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.compiler.surgery.pipeline import optimize
from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.compiler.tensorrt.plan import BuildPlan
from yolox_trt.core import Device, ModelError
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.single_input import single_input
from yolox_trt.graph.spec import read_spec

torch = pytest.importorskip("torch", reason="the networks are built with PyTorch")
from support.detector_graphs import RtDetr, YoloV8, export

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("batch", [1, 2, None])
def test_boxes_come_in_input_pixels(batch: int | None, tmp_path: Path) -> None:
    path = export(RtDetr(), tmp_path / "m.onnx", batch=batch)
    graph = Graph.load(path)
    spec = read_spec(graph)
    assert single_input(graph, spec) == ["input 'orig_target_sizes' is 96x64 (W x H)"]
    assert [value.name for value in graph.inputs] == ["images"]
    graph.check()
    images = np.random.default_rng(0).random((batch or 3, 3, 64, 96), np.float32)
    sizes = np.array([[96, 64]] * len(images))
    expected = ort.InferenceSession(str(path)).run(
        None, {"images": images, "orig_target_sizes": sizes}
    )
    found = ort.InferenceSession(graph.to_model().SerializeToString()).run(None, {"images": images})
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert single_input(graph, spec) == []


def test_tools_leave_the_graph_that_they_are_given(tmp_path: Path) -> None:
    graph = Graph.load(export(RtDetr(), tmp_path / "m.onnx"))
    optimize(graph, SurgeryOptions(head="keep"), verify=False)
    assert [value.name for value in graph.inputs] == ["images", "orig_target_sizes"]
    model = graph.to_model()
    with contextlib.closing(create_detector(DetectorOptions(model=model, device=Device("cpu")))):
        assert len(model.graph.input) == 2


def test_an_engine_is_built_of_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch)
    path = export(RtDetr(), tmp_path / "m.onnx")
    plan = BuildPlan(path, BuildOptions(precision="fp32"), api=make_api("10.3")[1])
    built = onnx.load_from_string(plan.serialized_model() or b"")
    assert [value.name for value in built.graph.input] == ["images"]
    assert plan.spec.model_type == "rtdetr"
    options = BuildOptions(precision="fp32", model_type="yolov8")
    with pytest.raises(ModelError, match="not those of model type 'yolov8'"):
        BuildPlan(path, options, api=make_api("10.3")[1])
    named = BuildOptions(precision="fp32", model_type="rtdetr")
    other = BuildPlan(path, named, api=make_api("10.3")[1])
    assert other.fingerprint.key != plan.fingerprint.key


def test_outputs_beside_the_boxes_are_left_out(tmp_path: Path) -> None:
    network = YoloV8(beside=4, prototypes=True)
    graph = Graph.load(export(network, tmp_path / "m.onnx"))
    nodes = len(graph.nodes)
    assert single_input(graph, read_spec(graph)) == ["outputs left out: output1"]
    assert [value.name for value in graph.outputs] == ["output0"]
    assert len(graph.nodes) == nodes - 1
    graph.check()
