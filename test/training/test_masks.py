# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A segmentation head that learned drawn shapes, through every tool and engine."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from support.command_line import call
from support.drawn_masks import MASK_CLASSES, SIDE, draw_scene, train_on_scenes, write_scenes

from yolox_trt.core import ConfigurationError, Device, Frame, PostprocessOptions
from yolox_trt.core.mask import NO_CLASS, Mask
from yolox_trt.core.model_spec import SegmentationHead
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.graph.spec import read_spec
from yolox_trt.training.checkpoint import load_trained
from yolox_trt.training.coco_labels import CocoLabels
from yolox_trt.training.export import export_onnx
from yolox_trt.training.image_store import ImageStore
from yolox_trt.training.labelled_augment import LabelledAugmenter
from yolox_trt.training.masks import load_masks, mask_loss
from yolox_trt.training.options import AugmentOptions, ExportOptions, TrainJob, TrainOptions
from yolox_trt.training.train import train

HEAD = SegmentationHead("seg_2", 3, 2, 32, 32, False, MASK_CLASSES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, and the trained network as logits.onnx and argmax.onnx."""
    path = tmp_path_factory.mktemp("masks")
    write_scenes(path / "scenes", 8)
    model = train_on_scenes()
    export_onnx(model, path / "logits.onnx")
    export_onnx(model, path / "argmax.onnx", ExportOptions(argmax=True, form="decoded"))
    return path


def accuracy(model: Path) -> tuple[float, list[Mask]]:
    """Share of the pixels of new scenes, of another size than those of the training, and masks."""
    detector = create_detector(DetectorOptions(model=model, device=Device.parse("cpu")))
    right, masks = [], []
    for seed in range(100, 104):
        scene = draw_scene(seed, 96, 120)
        options = [PostprocessOptions(masks=True)]
        (found,) = detector.detect([Frame.from_array(scene.image)], options)
        assert found.mask is not None
        masks.append(found.mask)
        right.append((found.mask.decode() == scene.mask).mean())
    detector.close()
    return float(np.mean(right)), masks


def test_both_forms_of_export_find_what_was_drawn(folder: Path) -> None:
    assert read_spec(folder / "logits.onnx").segmentation == HEAD
    assert read_spec(folder / "argmax.onnx").segmentation == replace(HEAD, has_argmax=True)
    share, masks = accuracy(folder / "logits.onnx")
    assert share > 0.9  # nothing but background would be 0.8
    assert {0, 1, 2} == {int(v) for mask in masks for v in mask.values}
    _, others = accuracy(folder / "argmax.onnx")
    for mask, other in zip(masks, others, strict=True):
        np.testing.assert_array_equal(mask.decode(), other.decode())


def test_every_tool_keeps_the_masks(folder: Path, tmp_path: Path) -> None:
    """dla-check and the forms of heads: test/graph/test_outputs.py; build: test/engines."""
    model, images = folder / "argmax.onnx", folder / "scenes" / "images"
    raw, qdq, back = (tmp_path / name for name in ("raw.onnx", "qdq.onnx", "float.onnx"))
    calibration = ("--images", images, "--algorithm", "max", "--limit", 4)
    assert call("optimize", model, "--target", "dla", "-o", raw) == 0
    assert call("calibrate", raw, *calibration, "--cache", tmp_path / "a.cache") == 0
    assert call("quantize", raw, *calibration, "-o", qdq) == 0
    assert call("translate", qdq, "-o", back, "--cache", tmp_path / "b.cache") == 0
    _, masks = accuracy(model)
    # The weights that come back from INT8 are rounded.
    for file, least in ((raw, 0.9999), (back, 0.99), (qdq, 0.97)):
        assert read_spec(file).segmentation == HEAD
        _, others = accuracy(file)
        same = [(a.decode() == b.decode()).mean() for a, b in zip(masks, others, strict=True)]
        assert np.mean(same) > least


def test_masks_follow_their_pixels(tmp_path: Path) -> None:
    write_scenes(tmp_path, 6)
    labels = CocoLabels.load(tmp_path / "instances.json", tmp_path / "images")
    store = ImageStore.load(labels.paths, side=48)  # smaller than the files
    masks = load_masks(labels.paths, tmp_path / "masks", store, 3)
    options = AugmentOptions(rotate_degrees=20.0, mosaic=1.0, colour=0.0)
    views = LabelledAugmenter(store, (96, 96), options, labels, masks)
    views._colour = lambda x: x  # type: ignore[method-assign]
    for mosaic in (True, False):
        batch = views.labelled_batch(6, mosaic=mosaic)
        assert batch.masks is not None
        blue, _, red = batch.images.unbind(1)
        # Clear of the edges, whose colours are blended.
        for clear, kind in (((blue > 200) & (red < 60), 1), ((red > 200) & (blue < 60), 2)):
            assert clear.sum() > 100
            assert (batch.masks[clear] == kind).float().mean() > 0.98
        padding = (batch.images == 114).all(1)
        assert (batch.masks[padding] == NO_CLASS).float().mean() > 0.98


def test_the_loss_leaves_unknown_pixels_out() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    masks = torch.full((1, 8, 8), NO_CLASS)
    assert mask_loss(logits, masks) == 0
    masks[0, :4, :4] = 1
    assert mask_loss(logits, masks) == pytest.approx(np.log(3))
    logits[0, 1, 0, 0] = 20.0
    assert mask_loss(logits, masks) < 1e-6


def job(folder: Path, output: Path, **changes: Any) -> TrainJob:
    return TrainJob(
        **{
            "model": "yolox_nano",
            "dla_ready": True,
            "annotations": folder / "instances.json",
            "images": folder / "images",
            "output": output,
            "device": Device.parse("cpu"),
            "masks": folder / "masks",
            "mask_labels": MASK_CLASSES,
            "options": TrainOptions(size=(SIDE, SIDE), batch=2, steps=1),
            **changes,
        }
    )


def test_a_run_trains_and_exports_both_heads(folder: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    train(job(folder / "scenes", tmp_path, mask_stride=8), lambda *state: seen.append(state))
    spec = read_spec(tmp_path / "model.onnx")
    assert spec.class_names == ("box", "disc")
    expected = SegmentationHead("seg_8", 3, 8, SIDE // 8, SIDE // 8, False, MASK_CLASSES)
    assert spec.segmentation == expected
    assert load_trained(tmp_path / "model.pt").config.mask_class_names == MASK_CLASSES


def test_masks_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="`masks` alone; expected both"):
        job(folder, tmp_path, mask_labels=None)
    scenes = tmp_path / "scenes"
    shutil.copytree(folder / "scenes", scenes)
    with pytest.raises(ConfigurationError, match=r"class 2 in mask .*classes 0 to 1, or 255"):
        train(job(scenes, tmp_path, mask_labels=("background", "box")))
    cv2.imwrite(str(scenes / "masks" / "003.png"), np.zeros((SIDE, SIDE, 3), np.uint8))
    with pytest.raises(ConfigurationError, match=r"003.png' of 3 channels of uint8"):
        train(job(scenes, tmp_path))
    (scenes / "masks" / "003.png").unlink()
    with pytest.raises(ConfigurationError, match=r"003.png' that cannot be read"):
        train(job(scenes, tmp_path))
