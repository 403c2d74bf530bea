# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Training on labelled boxes: assignment, boxes under augmentation, loss, the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.training import train
from yolox_trt.training.coco_labels import CocoLabels
from yolox_trt.training.detection_loss import DetectionLoss
from yolox_trt.training.ema import WeightAverage
from yolox_trt.training.export import load_trained
from yolox_trt.training.image_store import ImageStore
from yolox_trt.training.labelled_augment import LabelledAugmenter
from yolox_trt.training.model_config import CONFIGS
from yolox_trt.training.options import AugmentOptions, TrainJob, TrainOptions
from yolox_trt.training.simota import assign, box_iou
from yolox_trt.training.yolox import YOLOX, anchor_grid


@pytest.fixture
def labels(pictures: Path) -> CocoLabels:
    images, annotations = [], []
    for i in range(6):
        images.append({"id": i, "file_name": f"{i:02d}.png", "height": 70 + 4 * i, "width": 100})
        box = [10 + 5 * i, 12 + 3 * i, 40, 30]
        annotations.append({"id": i, "image_id": i, "category_id": 7, "bbox": box, "iscrowd": 0})
    annotations.append(
        {"id": 9, "image_id": 0, "category_id": 7, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    )
    file = pictures / "instances.json"
    categories = [{"id": 3, "name": "ball"}, {"id": 7, "name": "block"}]
    file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return CocoLabels.load(file, pictures)


def test_coco_labels_skip_crowds_and_number_classes(labels: CocoLabels) -> None:
    assert labels.class_names == ["ball", "block"]
    assert labels.boxes[0].tolist() == [[10, 12, 50, 42]]
    assert labels.classes[0].tolist() == [1]


def test_missing_image_is_named(labels: CocoLabels, pictures: Path) -> None:
    (pictures / "03.png").unlink()
    with pytest.raises(ConfigurationError, match=r"03\.png"):
        CocoLabels.load(pictures / "instances.json", pictures)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("not JSON", "not a COCO annotation file"),
        ('{"images": [], "annotations": []}', "no 'categories' in it"),
        ("[1, 2]", "not a COCO annotation file"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "`images` are empty"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "`categories` are empty"),
        ('{"images": [1], "annotations": [], "categories": []}', "not a COCO annotation file"),
    ],
)
def test_a_file_without_annotations_is_named(
    tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "labels.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=f"labels.json.*{message}.*`annotations`"):
        CocoLabels.load(path, tmp_path)


@pytest.mark.parametrize("folder", ["train/", "elsewhere/"])
def test_subfolders_of_file_names(labels: CocoLabels, pictures: Path, folder: str) -> None:
    """The image of that name in the subfolder, or in the folder itself where there is no other."""
    (pictures / "train").mkdir()
    (pictures / "train" / "00.png").write_bytes((pictures / "01.png").read_bytes())
    file = pictures / "instances.json"
    data = json.loads(file.read_text())
    data["images"][0]["file_name"] = f"{folder}00.png"
    file.write_text(json.dumps(data))
    expected = pictures / ("train/00.png" if folder == "train/" else "00.png")
    assert CocoLabels.load(file, pictures).paths[0] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (80, 80)}, "`size` = 80x80.*multiples of 32"),
        ({"batch": 0}, "`batch` = 0"),
        ({"steps": 0}, "`steps` = 0"),
        ({"learning_rate": math.nan}, "`learning_rate` = nan"),
        ({"average": 2.0}, r"`average` = 2\.0.*expected.*0 to "),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TrainOptions(**options)


@pytest.mark.parametrize("mosaic", [False, True])
def test_boxes_follow_their_pixels(labels: CocoLabels, mosaic: bool) -> None:
    store = ImageStore.load(labels.paths, side=100, device="cpu")
    options = AugmentOptions(rotate_degrees=0.0, mosaic=1.0, colour=0.0)
    views = LabelledAugmenter(store, 128, options, labels)
    views._colour = lambda x: x  # type: ignore[method-assign]
    checked = 0
    images, boxes, classes = views.labelled_batch(6, mosaic=mosaic)
    for image, found, kinds in zip(images, boxes, classes, strict=True):
        assert len(found) == len(kinds)
        for x1, y1, x2, y2 in found.tolist():
            if min(x2 - x1, y2 - y1) < 8:
                continue
            inside = image[1, int(y1) + 2 : int(y2) - 2, int(x1) + 2 : int(x2) - 2]
            # The block's green is 200, the noise around it under 90, the padding 114.
            assert inside.min() > 150
            checked += 1
    assert checked > 3


def test_iou_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 10, 10]])
    b = torch.tensor([[5.0, 0, 15, 10], [20, 20, 30, 30], [0, 0, 10, 10]])
    assert box_iou(a, b).tolist() == pytest.approx([50 / 150, 0, 1])


def test_simota_takes_the_best_anchors_and_gives_each_one_object() -> None:
    corners, strides = anchor_grid((64, 64))
    centres = (corners + 0.5) * strides
    gt = torch.tensor([[8.0, 8, 40, 40], [10.0, 10, 42, 42], [44, 44, 60, 60]])
    kinds = torch.tensor([0, 1, 1])
    boxes = torch.cat((centres - 12, centres + 12), 1)
    # One anchor predicts the first object exactly, with its class.
    exact = int(((centres - torch.tensor([24.0, 24.0])).abs().sum(1)).argmin())
    boxes[exact] = gt[0]
    obj = torch.full((len(boxes),), -2.0)
    cls = torch.full((len(boxes), 2), -2.0)
    obj[exact], cls[exact, 0] = 4.0, 4.0
    found = assign(boxes, obj, cls, centres, strides[:, 0], gt, kinds)
    assert len(found.anchors.unique()) == len(found.anchors)
    assert set(found.objects.tolist()) == {0, 1, 2}
    where = (found.anchors == exact).nonzero()[0, 0]
    assert int(found.objects[where]) == 0
    assert float(found.iou[where]) == pytest.approx(1.0, abs=1e-5)


def test_image_without_objects_has_objectness_loss_only() -> None:
    model = YOLOX(CONFIGS["yolox_nano"].dla_ready()).eval()
    loss = DetectionLoss()
    none = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)]
    parts = loss(model(torch.zeros(1, 3, 64, 64)), *none, (64, 64))
    assert parts["objectness"] > 0
    assert parts["box"] == parts["class"] == 0
    parts["total"].backward()


def test_loss_falls_on_a_tiny_set(labels: CocoLabels) -> None:
    store = ImageStore.load(labels.paths, side=64, device="cpu")
    options = TrainOptions(
        size=(64, 64), batch=6, steps=40, learning_rate=1.0, warmup=0.1, plain_share=0.0,
        augment=AugmentOptions(mosaic=0.0, rotate_degrees=0.0, scale=(0.99, 1.01), colour=0.0),
    )  # fmt: skip
    trainer = train.Trainer(CONFIGS["yolox_nano"].dla_ready(), labels, store, options)
    totals = [state["total"] for state in trainer.run()]
    assert sum(totals[-5:]) < 0.85 * sum(totals[:5])


def test_weight_average_lags_behind_and_arrives() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = WeightAverage(model, 0.5)
    model.weight.data.fill_(1.0)
    average.update()
    first = float(average.model.weight)
    assert 0.4 < first < 1.0
    for _ in range(30):
        average.update()
    assert float(average.model.weight) == pytest.approx(1.0, abs=1e-3)


def test_a_run_trains_and_exports(labels: CocoLabels, pictures: Path, tmp_path: Path) -> None:
    onnx_spec = pytest.importorskip("yolox_trt.graph.spec")
    out = tmp_path / "run"
    job = TrainJob(
        model="yolox_nano", dla_ready=True, annotations=pictures / "instances.json",
        images=pictures, output=out, device=Device("cpu"),
        options=TrainOptions(size=(64, 64), batch=2, steps=2),
    )  # fmt: skip
    seen = []
    train.train(job, lambda *state: seen.append(state))
    assert seen[-1][:3] == ("train", 2, 2) and "loss" in seen[-1][3]
    spec = onnx_spec.read_spec(out / "model.onnx")
    assert spec.class_names == ("ball", "block")
    assert (spec.input_height, spec.num_classes) == (64, 2)
    assert load_trained(out / "model.pt").config.class_names == ("ball", "block")
    assert torch.load(out / "model.pt", weights_only=True)["options"]["steps"] == 2
