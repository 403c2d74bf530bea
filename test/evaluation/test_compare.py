# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Comparison of quantised forms: every row measured, one HTML file; and the bars on real data."""

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from support.onnx_graphs import make_graph
from support.yolox_graphs import build_yolox

from yolox_trt.cli.main import main
from yolox_trt.compiler.int8.images import CalibrationInputs
from yolox_trt.compiler.int8.layers import weighted_layers
from yolox_trt.compiler.int8.options import QuantizeOptions
from yolox_trt.compiler.int8.quantizer import quantize
from yolox_trt.core.device import Device
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.evaluation.compare import Variant, compare
from yolox_trt.evaluation.dataset import load_dataset
from yolox_trt.evaluation.evaluate import evaluate
from yolox_trt.evaluation.options import CompareOptions, DatasetOptions
from yolox_trt.evaluation.output_metrics import OutputMetrics
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import read_image_input, take_image_alone
from yolox_trt.graph.predictions import sample_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A relu6 model, two images and their (arbitrary) labels."""
    path = tmp_path_factory.mktemp("compare")
    (path / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in (1, 2):
        pixels = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (160, 120))
        cv2.imwrite(str(path / "images" / f"{number}.png"), pixels)
        images.append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 120})
        annotations.append(
            {
                "id": number, "image_id": number, "category_id": 1, "bbox": [10, 10, 60, 60],
                "area": 3600, "iscrowd": 0,
            }
        )  # fmt: skip
    labels = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    (path / "instances_test.json").write_text(json.dumps(labels))
    model = build_yolox(activation="relu6", depth=0, width=0.125)
    onnx.save(model, str(path / "model.onnx"))
    return path


@pytest.mark.slow
def test_compare_measures_every_form_and_writes_one_file(folder: Path, tmp_path: Path):
    report, figures = tmp_path / "report.html", tmp_path / "figures.json"
    status = main(
        [
            "compare", str(folder / "model.onnx"), "--images", str(folder), "--coco", str(folder),
            "--algorithm", "max", "--algorithm", "percentile:99.9", "--keep-fp16", "20%",
            "-o", str(report), "--json", str(figures), "--threads", "1",
        ]
    )  # fmt: skip
    assert status == 0
    variants = {v["form"]: v for v in json.loads(figures.read_text())["variants"]}
    assert {
        "FP32", "FP16", "all tensors, max", "conv inputs, max", "fixed ranges",
        "conv inputs, percentile:99.9, FP16 auto:20%",
    } <= set(variants)  # fmt: skip
    assert variants["conv inputs, max"]["size"] < 0.6 * variants["FP32"]["size"]
    assert 0.0 < variants["conv inputs, percentile:99.9, FP16 auto:20%"]["float_macs"] <= 0.2
    assert variants["FP32"]["layer_errors"] == {}
    assert all(0 < e < 10 for e in variants["conv inputs, max"]["layer_errors"].values())
    text = report.read_text()
    assert text.count("data:image/png;base64,") == 3
    assert "src='http" not in text
    assert all(name in text for name in ("FP32", "fixed ranges", "conv inputs, max"))


def test_any_network_is_compared_with_itself(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {"w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
                 "v": rng.normal(size=(5, 4, 1, 1)).astype(np.float32)}  # fmt: skip
    nodes = [
        ("Conv", ["x", "w"], ["c"], {"pads": [1] * 4}),
        ("Relu", ["c"], ["r"], {}),
        ("Conv", ["r", "v"], ["y"], {}),
    ]
    model = tmp_path / "segmentation.onnx"
    onnx.save(make_graph(nodes, {"x": (1, 3, 24, 32)}, ["y"], constants), str(model))
    report, figures = tmp_path / "report.html", tmp_path / "figures.json"
    status = main(
        [
            "compare", str(model), "--images", str(folder), "--preprocessing",
            "rgb_imagenet,resize=stretch", "--algorithm", "max", "--algorithm", "entropy",
            "--keep-fp16", "1", "-o", str(report), "--json", str(figures), "--threads", "1",
        ]
    )  # fmt: skip
    assert status == 0
    variants = {v["form"]: v["metrics"] for v in json.loads(figures.read_text())["variants"]}
    assert variants["FP32"]["errors"] == {"y": 0.0} and variants["FP32"]["mean_iou"] == 1.0
    assert 0 < variants["FP16"]["errors"]["y"] < variants["conv inputs, max"]["errors"]["y"] < 0.1
    assert 0.5 < variants["conv inputs, max"]["pixel_accuracy"] <= 1.0
    text = report.read_text()
    assert text.count("data:image/png;base64,") == 3
    assert all(word in text for word in ("mean IoU", "pixel accuracy", "FP32's own outputs"))


def test_what_decides_is_called_by_what_it_is() -> None:
    """With several outputs the worst decides, which need not be the first."""
    one, two = {"y": 0.5}, {"boxes": 0.001, "scores": 0.5}
    for errors, title in ((one, "error of y"), (two, "largest error of an output")):
        variant = Variant("FP16", OutputMetrics(errors, None, None, {}, 2), 1, 0.1)
        assert (variant.score, variant.score_title) == (-0.5, title)
    assert variant.figures == {"error of boxes": "0.1 %", "error of scores": "50 %"}
    masks = Variant("FP16", OutputMetrics(one, 0.9, 0.8, {"0": 0.8}, 2), 1, 0.1)
    assert (masks.score, masks.score_title) == (0.8, "mean IoU")


FORMS = ("yolov5", "yolov6", "yolov8", "yolov10", "rtdetr", "rtdetr logits", "efficientdet")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_detector_is_compared(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the networks are built with PyTorch")
    from support.detector_graphs import NETWORKS, export

    graph = Graph.load(export(NETWORKS[name][0](), tmp_path / "m.onnx"))
    take_image_alone(graph)
    image = read_image_input(graph)
    inputs = [image.normalize(sample_images(1, image.input_height, image.input_width))]
    told: list[tuple[str, float, float | None]] = []

    def on_progress(what: str, done: float, total: float | None = None, note: str = "") -> None:
        told.append((what, done, total))

    options = CompareOptions(algorithms=["max"], keep_fp16=["1"], threads=1)
    variants = compare(graph, inputs, inputs, options, on_progress=on_progress)
    found = {variant.form: variant.metrics for variant in variants}
    assert all(isinstance(metrics, OutputMetrics) for metrics in found.values())
    outputs = {value.name for value in graph.outputs}
    assert found["FP32"].errors == dict.fromkeys(outputs, 0.0)
    layers = {node.name for node in weighted_layers(graph)}
    for variant in variants:
        if variant.form.startswith("conv inputs"):
            assert 0 < variant.metrics.worst_error < 1, variant.form
            assert set(variant.layer_errors) == layers
    assert ("sensitivity, conv inputs", len(layers), len(layers)) in told
    assert told[-1] == ("forms", len(variants), len(variants))


def test_what_is_missing_is_named_as_this_command_does(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["compare", str(folder / "model.onnx"), "--images", str(folder)]
    assert main([*given, "--bdd100k", str(folder / "labels.json")]) == 2
    assert "--bdd100k alone" in (error := capsys.readouterr().err)
    assert "give --labelled-images DIR" in error


def test_silu_nano_keeps_its_accuracy_in_int8(data_dir: Path):
    graph = Graph.load(data_dir / "models" / "yolox_nano.onnx")
    dataset = load_dataset(DatasetOptions(coco=data_dir / "coco_mini_val79"))

    inputs = CalibrationInputs(data_dir / "coco_mini_train80", read_image_input(graph), limit=24)
    result = quantize(graph, inputs, QuantizeOptions(equalize=0.75))
    assert result.kept_macs == 0.0
    detector = create_detector(
        DetectorOptions(model=result.graph.to_model(), device=Device("cpu"), engine="onnxruntime")
    )
    try:
        measured = evaluate(detector, dataset).metrics.mean_ap
    finally:
        detector.close()
    assert measured > 0.3116 - 0.03
