# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""COCO metrics on cases with a known answer, and the published network on real images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest

from yolox_trt.cli.main import main
from yolox_trt.core import Detections, Frame, PostprocessOptions
from yolox_trt.core.device import Device
from yolox_trt.detectors.detector import Detector, StageTimes
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.evaluation.coco_metrics import coco_metrics
from yolox_trt.evaluation.dataset import load_dataset
from yolox_trt.evaluation.evaluate import evaluate
from yolox_trt.evaluation.options import DatasetOptions

TRUTH: dict[str, Any] = {
    "images": [{"id": 1}, {"id": 2}],
    "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "car"}, {"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 400},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [50, 50, 100, 100], "area": 10000},
        {"id": 3, "image_id": 2, "category_id": 1, "bbox": [0, 0, 40, 50], "area": 2000},
    ],
}
for annotation in TRUTH["annotations"]:
    annotation["iscrowd"] = 0


def result(annotation: dict[str, Any], score: float, shift: float = 0.0) -> dict[str, Any]:
    x, y, width, height = annotation["bbox"]
    return {
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": [x + shift, y, width, height],
        "score": score,
    }


def test_perfect_detections() -> None:
    metrics = coco_metrics(TRUTH, [result(a, 0.9) for a in TRUTH["annotations"]])
    found = (metrics.mean_ap, metrics.map50, metrics.map_small, metrics.map_large)
    assert found == pytest.approx((1.0,) * 4)
    assert metrics.per_class == pytest.approx({"person": 1.0, "car": 1.0})


def test_known_average_precision() -> None:
    people = [a for a in TRUTH["annotations"] if a["category_id"] == 1]
    # One of two people found, after a false positive of a higher score: precision 1/2 up to
    # recall 1/2, which covers 51 of COCO's 101 recall points.
    wrong = {"image_id": 2, "category_id": 1, "bbox": [200, 200, 10, 10], "score": 0.95}
    metrics = coco_metrics(TRUTH, [wrong, result(people[0], 0.9)])
    assert metrics.per_class["person"] == pytest.approx(0.5 * 51 / 101)
    assert metrics.per_class["car"] == 0.0
    # IoU of a 20-wide box shifted by 4 is 16 / 24 = 0.667: it counts at 0.50, 0.55, 0.60, 0.65.
    shifted = coco_metrics(TRUTH, [result(people[0], 0.9, shift=4.0), result(people[1], 0.8, 1e3)])
    assert shifted.per_class["person"] == pytest.approx(0.4 * 51 / 101)
    assert shifted.per_class50["person"] == pytest.approx(51 / 101)


def test_no_detection_is_zero_and_not_an_error() -> None:
    assert coco_metrics(TRUTH, []).mean_ap == 0.0


@pytest.mark.parametrize("ids", [(0, 1, 2), (5, 5, 5), (None, None, None)])
def test_the_ids_of_annotations_do_not_matter(ids: tuple[int | None, ...]) -> None:
    annotations = [{**a, "id": i} for a, i in zip(TRUTH["annotations"], ids, strict=True)]
    results = [result(a, 0.9) for a in annotations]
    metrics = coco_metrics({**TRUTH, "annotations": annotations}, results)
    assert metrics.mean_ap == pytest.approx(1.0)


class PerfectDetector:
    """Finds the one person of each image; has no class for anything else."""

    spec = SimpleNamespace(class_names=("person",), num_classes=1)
    max_batch = 1
    stage_times = StageTimes()

    def warmup(self) -> None:
        """Nothing to do."""

    def detect(self, frames: list[Frame], options: list[PostprocessOptions]) -> list[Detections]:
        box = np.array([[0.0, 0.0, 10.0, 10.0]], np.float32)
        return [Detections(box, np.ones(1, np.float32), np.zeros(1, np.int32)) for _ in frames]


def test_categories_that_the_model_cannot_name_are_not_counted(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 20, 3), np.uint8))
    truth = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": TRUTH["categories"],
        "annotations": [
            {"image_id": 1, "category_id": category, "bbox": [0, 0, 10, 10]} for category in (1, 2)
        ],
    }
    (tmp_path / "instances_a.json").write_text(json.dumps(truth))
    found = evaluate(cast(Detector, PerfectDetector()), load_dataset(DatasetOptions(coco=tmp_path)))
    assert found.metrics.mean_ap == pytest.approx(1.0)
    assert found.left_out == ("car",)


def test_a_limit_counts_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "model.onnx", "--coco", "data", "--limit", "-1"]) == 2
    assert "--limit = -1; expected a whole number, at least 1" in capsys.readouterr().err


def test_official_nano_reaches_its_reference(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    out = tmp_path / "metrics.json"
    detections = tmp_path / "detections.json"
    status = main(
        [
            "evaluate",
            str(data_dir / "models" / "yolox_nano.onnx"),
            "--coco",
            str(data_dir / "coco_mini_val79"),
            "--device",
            "cpu",
            "--json",
            str(out),
            "--detections",
            str(detections),
        ]
    )
    assert status == 0
    metrics = json.loads(out.read_text())["metrics"]
    assert metrics["mean_ap"] == pytest.approx(0.3116, abs=0.001)
    assert metrics["map50"] == pytest.approx(0.4941, abs=0.001)
    # And box for box: every reference detection is there with its score.
    reference = data_dir / "coco_mini_val79" / "ref" / "yolox_nano.coco_results.json"
    scores = sorted(r["score"] for r in json.loads(detections.read_text()))
    expected = sorted(r["score"] for r in json.loads(reference.read_text()))
    assert scores == pytest.approx(expected, abs=1e-3)


def test_a_batch_gives_the_same_result(data_dir: Path) -> None:
    """yolox_nano has batch 1: the graph is opened to any batch."""
    import onnx

    model = onnx.load(data_dir / "models" / "yolox_nano.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]
    for initializer in model.graph.initializer:
        # Targets of Reshape: [1, 85, -1] -> [-1, 85, anchors] would need the sizes; 0 copies N.
        if initializer.data_type == onnx.TensorProto.INT64 and list(initializer.dims) == [3]:
            values = onnx.numpy_helper.to_array(initializer).copy()
            values[0] = 0
            initializer.CopyFrom(onnx.numpy_helper.from_array(values, initializer.name))
    dataset = load_dataset(DatasetOptions(coco=data_dir / "coco_mini_val79")).first(7)
    options = PostprocessOptions(score_threshold=0.1, nms_threshold=0.65)
    cpu = DetectorOptions(model=model, device=Device("cpu"))
    single = evaluate(create_detector(cpu), dataset, options)
    batched = evaluate(create_detector(dataclasses.replace(cpu, max_batch=3)), dataset, options)
    assert len(batched.results) == len(single.results)
    assert batched.metrics.mean_ap == pytest.approx(single.metrics.mean_ap, abs=1e-6)
