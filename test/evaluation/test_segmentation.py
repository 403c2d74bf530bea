# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy of masks with a known answer: what `detect --masks` wrote, and changes of it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper
from support.frames import random_frame
from support.yolox_graphs import build_yolox

from yolox_trt.cli.main import main
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.mask import NO_CLASS
from yolox_trt.core.model_spec import SegmentationHead
from yolox_trt.evaluation.options import DatasetOptions
from yolox_trt.evaluation.segmentation import confusion_of, load_mask_labels, metrics_of

NAMES = ("road", "sky", "car", "person")
HEAD = SegmentationHead("pixels", 4, 4, 16, 24, False, NAMES)
SIZES = [(96, 144), (70, 60), (64, 96)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and what `detect --masks` makes of them."""
    path = tmp_path_factory.mktemp("segmentation")
    model = build_yolox(num_classes=5, segmentation="logits", mask_classes=4)
    helper.set_model_props(model, {"yolox_trt.mask_class_names": json.dumps(NAMES)})
    onnx.save(model, path / "net.onnx")
    (path / "images").mkdir()
    for number, size in enumerate(SIZES):
        frame = random_frame("bgr8", *size, seed=number, smooth=True)
        cv2.imwrite(str(path / "images" / f"{number}.png"), np.array(frame.rows))
    assert detect(path, path / "out", "--masks") == 0
    return path


def detect(folder: Path, out: Path, *more: str) -> int:
    model = ("--model", str(folder / "net.onnx"), "--device", "cpu", "--threads", "1")
    return main(["detect", str(folder / "images"), "-o", str(out), *model, *more])


def evaluate(folder: Path, labels: Path, *more: str) -> int:
    where = ("--images", str(folder / "images"), "--device", "cpu", "--threads", "1")
    return main(
        ["evaluate", str(folder / "net.onnx"), "--segmentation", str(labels), *where, *more]
    )


def masks_of(folder: Path) -> list[np.ndarray]:
    return [cv2.imread(str(folder / f"{n}.png"), cv2.IMREAD_UNCHANGED) for n in range(len(SIZES))]


def write(folder: Path, masks: list[np.ndarray]) -> Path:
    folder.mkdir()
    for number, mask in enumerate(masks):
        cv2.imwrite(str(folder / f"{number}.png"), mask)
    return folder


def panoptic(folder: Path, masks: list[np.ndarray]) -> Path:
    """Write masks as COCO panoptic labels, in which each class is a segment of a large id."""
    (folder / "panoptic_some").mkdir(parents=True)
    categories = [{"id": 7 * i + 1, "name": name} for i, name in enumerate((*NAMES[:3], "tree"))]
    images, annotations = [], []
    for number, mask in enumerate(masks):
        images.append({"id": number, "file_name": f"{number}.png"})
        ids = np.where(mask == NO_CLASS, 0, 70_000 + 300 * mask.astype(np.int64))
        colours = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], -1).astype(np.uint8)  # B G R
        cv2.imwrite(str(folder / "panoptic_some" / f"{number}.png"), colours)
        segments = [{"id": 70_000 + 300 * i, "category_id": 7 * i + 1} for i in range(4)]
        file = {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
        annotations.append(file)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "panoptic_some.json").write_text(json.dumps(content))
    return folder / "panoptic_some.json"


def test_masks_are_written_in_the_size_of_the_images(folder: Path) -> None:
    masks = masks_of(folder / "out" / "masks")
    assert [mask.shape for mask in masks] == SIZES
    assert all(mask.dtype == np.uint8 and mask.max() < 4 for mask in masks)
    assert len(np.unique(masks[0])) > 1
    # They are drawn over the images, too.
    drawn = cv2.imread(str(folder / "out" / "0.png"))
    plain = cv2.imread(str(folder / "images" / "0.png"))
    assert (drawn != plain).any(2).mean() > 0.9


def test_what_was_written_is_what_is_found(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(folder, folder / "out" / "masks") == 0
    shown = capsys.readouterr().out
    assert "3 images" in shown and shown.count("1.0000") >= 2
    masks = masks_of(folder / "out" / "masks")
    # A quarter of the pixels of the first image get a wrong label, some of the second none.
    first = masks[0].copy()
    first[:, ::4] = (first[:, ::4] + 1) % 4
    masks[1][:10] = NO_CLASS
    labels = write(tmp_path / "labels", [first, *masks[1:]])
    out = tmp_path / "found.json"
    assert evaluate(folder, labels, "--json", str(out)) == 0
    metrics = json.loads(out.read_text())["metrics"]
    total = 96 * 144 + 60 * 60 + 64 * 96
    assert metrics["pixel_accuracy"] == pytest.approx(1 - 96 * 36 / total)
    assert metrics["images"] == 3
    assert 0 < metrics["mean_iou"] < metrics["pixel_accuracy"]
    # The first image alone.
    assert evaluate(folder, labels, "--limit", "1", "--json", str(out)) == 0
    assert json.loads(out.read_text())["metrics"]["pixel_accuracy"] == pytest.approx(0.75)


def test_panoptic_labels(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = masks_of(folder / "out" / "masks")
    out = tmp_path / "found.json"
    assert evaluate(folder, panoptic(tmp_path / "p", masks), "--json", str(out)) == 0
    metrics = json.loads(out.read_text())["metrics"]
    # No class of the model is called tree: its pixels, those of "person", do not count.
    assert metrics["left_out"] == ["tree"]
    assert "tree" in capsys.readouterr().out
    assert metrics["pixel_accuracy"] == 1.0 and metrics["mean_iou"] == 1.0


def test_known_metrics() -> None:
    labels = np.array([[0, 0, 1, 1], [2, NO_CLASS, 1, 0]], np.uint8)
    found = np.array([[0, 1, 1, 1], [0, 3, NO_CLASS, 0]], np.uint8)
    metrics = metrics_of(confusion_of(labels, found, 4), HEAD, 1)
    assert metrics.pixel_accuracy == pytest.approx(4 / 6)
    # Of "person" there is nothing: the mean is over three classes.
    assert metrics.per_class == pytest.approx({"road": 2 / 4, "sky": 2 / 3, "car": 0.0})
    assert metrics.mean_iou == pytest.approx((2 / 4 + 2 / 3) / 3)


def test_labels_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    masks = masks_of(folder / "out" / "masks")
    images = DatasetOptions(images=folder / "images")

    def refused(labels: Path, match: str) -> None:
        with pytest.raises(ConfigurationError, match=match):
            for read in load_mask_labels(labels, HEAD, images).read:
                read()

    labels = write(tmp_path / "labels", [*masks, masks[0]])
    refused(labels, r"1 of 4 labels without an image .*3\.png")
    (labels / "3.png").unlink()
    cv2.imwrite(str(labels / "1.png"), np.full(SIZES[1], 4, np.uint8))
    refused(labels, r"class 4 in mask .*1\.png.*classes 0 to 3")
    cv2.imwrite(str(labels / "1.png"), np.zeros((*SIZES[1], 3), np.uint8))
    refused(labels, r"1\.png' of 3 channels")
    unnamed = SegmentationHead("pixels", 5, 4, 16, 24)
    with pytest.raises(ConfigurationError, match=r"5 classes without names .*4 categories"):
        load_mask_labels(panoptic(tmp_path / "p", masks), unnamed, images)
    strange = SegmentationHead("pixels", 2, 4, 16, 24, False, ("a", "b"))
    with pytest.raises(ConfigurationError, match=r"classes a, b .*categories of the labels: road"):
        load_mask_labels(tmp_path / "p" / "panoptic_some.json", strange, images)


def test_a_label_of_another_size(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = masks_of(folder / "out" / "masks")
    assert evaluate(folder, write(tmp_path / "labels", [masks[0][1:], *masks[1:]])) == 2
    assert "a label of (95, 144)" in capsys.readouterr().err


def test_a_model_without_masks(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(build_yolox(num_classes=5), tmp_path / "net.onnx")
    (tmp_path / "images").symlink_to(folder / "images")
    assert detect(tmp_path, tmp_path / "out", "--masks") == 2
    assert "without a segmentation head" in capsys.readouterr().err
    assert evaluate(tmp_path, folder / "out" / "masks") == 2
    assert "without a segmentation head" in capsys.readouterr().err
