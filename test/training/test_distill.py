# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Distillation: it starts at zero, learns, and saves what it learned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.training import distill
from yolox_trt.training.augment import Augmenter
from yolox_trt.training.checkpoint import write_checkpoint
from yolox_trt.training.distill_losses import OutputLoss
from yolox_trt.training.distiller import Distiller, check_teacher
from yolox_trt.training.equalize import equalize
from yolox_trt.training.export import load_trained
from yolox_trt.training.image_store import ImageStore, list_images
from yolox_trt.training.model_config import CONFIGS
from yolox_trt.training.options import AugmentOptions, DistillJob, DistillOptions
from yolox_trt.training.yolox import YOLOX, flatten_outputs

SMALL = DistillOptions(
    size=(64, 64), canvas=64, batch=4, steps=4, augment=AugmentOptions(mixup=0.25)
)


def make(teacher: Any, pictures: Path, options: DistillOptions) -> Distiller:
    store = ImageStore.load(list_images([pictures]), side=64, device="cpu")
    return Distiller(teacher, store, store, options)


def test_loss_is_zero_before_the_first_step(teacher: Any, pictures: Path) -> None:
    run = make(teacher, pictures, replace(SMALL, batch_norm=False))
    x = run.views.batch(4)
    parts = run._losses(x, *run.teach(x))
    assert parts.abs().max() < 1e-4


def test_relu6_alone_is_far_from_the_teacher_and_training_brings_it_near(
    teacher: Any, pictures: Path
) -> None:
    options = replace(
        SMALL, batch_norm=False, blend_until=0.0, learning_rate=1e-4, warmup=0.0, steps=12,
        augment=AugmentOptions(plain=1.0, mosaic=0.0), final_ratio=1.0, feature_weight_end=0.5,
    )  # fmt: skip
    run = make(teacher, pictures, options)
    x = run.views.batch(4)
    target = run.teach(x)
    before = run._losses(x, *target).detach()
    run.schedule(0.5)
    for _ in range(12):
        run.step(x)
    after = run._losses(x, *target).detach()
    assert before[3] > 1.0
    assert after[3] < 0.7 * before[3]


def test_blend_falls_to_relu6(teacher: Any, pictures: Path) -> None:
    run = make(teacher, pictures, SMALL)
    seen = []
    for progress in (0.0, 0.2, 0.4, 1.0):
        run.schedule(progress)
        seen.append(float(run.student.activation.blend))
    assert seen == pytest.approx([1.0, 0.5, 0.0, 0.0])


def test_a_resumed_student_stays_with_relu6(teacher: Any, pictures: Path, tmp_path: Path) -> None:
    run = make(teacher, pictures, replace(SMALL, batch_norm=False))
    write_checkpoint(tmp_path / "student.pt", run.export_model(), SMALL, half=True)
    store = ImageStore.load(list_images([pictures]), side=64, device="cpu")
    resumed = Distiller(
        teacher, store, None, replace(SMALL, batch_norm=False), resume=tmp_path / "student.pt"
    )
    resumed.schedule(0.0)
    assert float(resumed.student.activation.blend) == 0.0


def small_teacher(name: str, **changes: Any) -> Any:
    return YOLOX(replace(CONFIGS[name], width=0.0625, norm=False, **changes)).eval()


def test_a_teacher_without_depthwise_convolutions(pictures: Path) -> None:
    names = ("ball", "block")
    small = small_teacher("yolox_tiny", num_classes=2, class_names=names)
    run = make(small, pictures, replace(SMALL, batch_norm=False))
    x = run.views.batch(4)
    assert run._losses(x, *run.teach(x)).abs().max() < 1e-4
    assert "head.reg_convs.2.1" in run.tapped_student.names
    model = run.export_model()
    equalize(model, [x])
    assert model.config.class_names == names


def test_networks_that_cannot_be_distilled_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"yolox_s_opt of elan.*`teacher_name`"):
        check_teacher(small_teacher("yolox_s_opt"), "full")
    with pytest.raises(ConfigurationError, match="`form` = depthwise for yolox_tiny"):
        check_teacher(small_teacher("yolox_tiny"), "depthwise")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (80, 80)}, "`size` = 80x80.*multiples of 32"),
        ({"size": (64, 96)}, "`size` = 64x96.*square.*96x96"),
        ({"batch": 0}, "`batch` = 0"),
        ({"seconds": 0.0}, r"`seconds` = 0\.0"),
        ({"steps": -1}, "`steps` = -1"),
        ({"blend_until": 1.5}, r"`blend_until` = 1\.5"),
        (
            {"augment": AugmentOptions(plain=0.8)},
            r"`plain` = 0\.8 and `mosaic` = 0\.5.*lower `plain` or `mosaic`",
        ),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DistillOptions(**options)


def test_shares_of_a_batch(pictures: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"`mixup` = 1\.5"):
        AugmentOptions(mixup=1.5)
    store = ImageStore.load(list_images([pictures]), side=64, device="cpu")
    # Half of three, twice, is rounded up to four.
    views = Augmenter(store, 64, AugmentOptions(plain=0.5, mosaic=0.5)).batch(3)
    assert len(views) == 3


def test_blend_moves_with_the_model_and_its_copy(teacher: Any, pictures: Path) -> None:
    run = make(teacher, pictures, SMALL)
    run.student.to(torch.float64)  # replaces every buffer, as moving to a GPU does
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    run.student.eval()
    with torch.no_grad():
        run.student.set_blend(1.0)
        first = flatten_outputs(run.student(x))
        run.student.set_blend(0.0)
        assert (flatten_outputs(run.student(x)) - first).abs().max() > 1e-3


def test_output_loss_is_zero_for_the_teacher_and_positive_elsewhere() -> None:
    t = torch.randn(2, 30, 85)
    t[..., 4] += 2
    loss = OutputLoss()
    assert all(float(v) == pytest.approx(0, abs=1e-5) for v in loss(t, t))
    assert all(float(v) > 0 for v in loss(t + torch.randn_like(t), t))


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
