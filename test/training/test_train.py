# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Training on labelled boxes: it learns, and writes what it learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.core.device import Device
from yolox_trt.training import train
from yolox_trt.training.checkpoint import load_trained
from yolox_trt.training.coco_labels import CocoLabels
from yolox_trt.training.image_store import ImageStore
from yolox_trt.training.model_config import CONFIGS
from yolox_trt.training.options import AugmentOptions, TrainJob, TrainOptions


def test_loss_falls_on_a_tiny_set(labels: CocoLabels) -> None:
    store = ImageStore.load(labels.paths, side=64, device="cpu")
    options = TrainOptions(
        size=(64, 64), batch=6, steps=40, learning_rate=1.0, warmup=0.1, plain_share=0.0,
        augment=AugmentOptions(mosaic=0.0, rotate_degrees=0.0, scale=(0.99, 1.01), colour=0.0),
    )  # fmt: skip
    config = replace(CONFIGS["yolox_nano"].dla_ready(), depth=0.0)
    trainer = train.DetectionTrainer(config, labels, store, options)
    totals = [float(trainer.train_step(step / 40)["total"]) for step in range(40)]
    assert sum(totals[-5:]) < 0.85 * sum(totals[:5])


def test_a_run_trains_and_exports(
    small_nano: None, labels: CocoLabels, pictures: Path, tmp_path: Path
) -> None:
    onnx_spec = pytest.importorskip("yolox_trt.graph.spec")
    out = tmp_path / "run"
    job = TrainJob(
        model="yolox_nano", dla_ready=True, annotations=pictures / "instances.json",
        images=pictures, output=out, device=Device("cpu"),
        options=TrainOptions(size=(64, 64), batch=2, steps=2),
    )  # fmt: skip
    seen = []
    train.train(job, lambda *state: seen.append(state))
    assert seen[-1][:3] == ("train", 2, 2) and "total" in seen[-1][3]
    spec = onnx_spec.read_spec(out / "model.onnx")
    assert spec.class_names == ("ball", "block")
    assert (spec.input_height, spec.num_classes) == (64, 2)
    assert load_trained(out / "model.pt").config.class_names == ("ball", "block")
    assert torch.load(out / "model.pt", weights_only=True)["options"]["steps"] == 2
