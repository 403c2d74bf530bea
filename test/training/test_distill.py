# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A whole distillation saves what it learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.core.device import Device
from yolox_trt.training import distill
from yolox_trt.training.checkpoint import load_trained
from yolox_trt.training.equalize import equalize
from yolox_trt.training.options import DistillJob, DistillOptions


def test_a_run_writes_weights_that_export_and_run(
    teacher_path: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    options = DistillOptions(size=(64, 64), canvas=64, batch=2, steps=2)
    job = DistillJob(
        teacher=teacher_path, images=(pictures,), held_out=(pictures,), output=out,
        device=Device("cpu"), equalize_images=3, options=options,
    )  # fmt: skip
    equalized = []
    monkeypatch.setattr(
        distill,
        "equalize",
        lambda model, views: equalized.append([len(v) for v in views]) or equalize(model, views),
    )
    seen = []
    held_out = distill.distill(job, lambda *state: seen.append(state))
    assert equalized == [[3]]
    assert seen[0][:3] == ("read images", 1, 6)
    assert seen[-1][:3] == ("distil", 2, 2) and "objectness" in seen[-1][3]
    model = load_trained(out / "student.pt")
    assert model.config.activation == "relu6"
    assert not model.config.norm
    log = json.loads((out / "log.json").read_text())
    assert log[-1]["held_out"] == held_out and held_out["sum"] > 0
    ort = pytest.importorskip("onnxruntime")
    x = torch.rand(1, 3, 64, 64) * 255
    got = ort.InferenceSession(str(out / "student.onnx")).run(None, {"images": x.numpy()})
    with torch.no_grad():
        expected = [t.numpy() for level in model(x) for t in level]
    for a, b in zip(got, expected, strict=True):
        assert abs(a - b).max() < 1e-3 * max(1.0, abs(b).max())
