# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Distillation step by step: it starts at zero and learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.gpu import requires_gpu

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.training.augment import Augmenter
from yolox_trt.training.checkpoint import write_checkpoint
from yolox_trt.training.distiller import Distiller, check_teacher
from yolox_trt.training.equalize import equalize
from yolox_trt.training.export import export_onnx
from yolox_trt.training.image_store import ImageStore, list_images
from yolox_trt.training.model_config import CONFIGS
from yolox_trt.training.options import AugmentOptions, DistillOptions, ExportOptions
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
    assert run.step(x).abs().max() < 1e-4


def test_relu6_alone_is_far_from_the_teacher_and_training_brings_it_near(
    teacher: Any, pictures: Path
) -> None:
    options = replace(
        SMALL, batch_norm=False, blend_until=0.0, learning_rate=1e-4, warmup=0.0, steps=12,
        augment=AugmentOptions(plain=1.0, mosaic=0.0), final_ratio=1.0, feature_weight_end=0.5,
    )  # fmt: skip
    run = make(teacher, pictures, options)
    x = run.views.batch(4)
    run.schedule(0.5)
    before, *_, after = [run.step(x).clone() for _ in range(13)]
    assert before[3] > 1.0
    assert after[3] < 0.7 * before[3]


def test_steps_have_each_of_the_sizes(
    teacher: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(SMALL, other_sizes=((32, 96), (64, 64)), batch_norm=False)
    assert options.all_sizes == ((64, 64), (32, 96))
    run = make(teacher, pictures, options)
    seen = []
    monkeypatch.setattr(run, "step", lambda x: seen.append(tuple(x.shape[2:])) or torch.zeros(4))
    for step in range(20):
        run.train_step(step / 20)
    assert set(seen) == set(options.all_sizes)
    monkeypatch.undo()
    assert run.step(run.views.batch(4, (32, 96))).isfinite().all()
    with pytest.raises(ConfigurationError, match=r"`other_sizes` = 100x96; expected positive mul"):
        replace(SMALL, other_sizes=((100, 96),))


def test_the_last_share_of_a_run_has_no_mosaics(
    teacher: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(teacher, pictures, replace(SMALL, batch_norm=False, plain_share=0.25))
    mosaics: list[float] = []
    progress = 0.0
    genuine = Augmenter._mosaic
    monkeypatch.setattr(
        Augmenter, "_mosaic", lambda *given: mosaics.append(progress) or genuine(*given)
    )
    for progress in (0.1, 0.7, 0.8, 0.99):
        run.train_step(progress)
    assert mosaics == [0.1, 0.7]


def test_blend_falls_to_relu6(teacher: Any, pictures: Path) -> None:
    run = make(teacher, pictures, SMALL)
    seen = []
    for progress in (0.0, 0.2, 0.4, 1.0):
        run.schedule(progress)
        seen.append(float(run.student.activation.blend))
    assert seen == pytest.approx([1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize("name", ["student.pt", "student.onnx"])
def test_a_resumed_student_stays_with_relu6(
    teacher: Any, pictures: Path, tmp_path: Path, name: str
) -> None:
    run = make(teacher, pictures, replace(SMALL, batch_norm=False))
    trained = run.export_model()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.25)  # no longer the teacher's
    if name.endswith(".pt"):
        write_checkpoint(tmp_path / name, trained, SMALL, half=True)
    else:
        export_onnx(trained, tmp_path / name, ExportOptions(size=(64, 64), half_weights=True))
    store = ImageStore.load(list_images([pictures]), side=64, device="cpu")
    options = replace(SMALL, batch_norm=False)
    resumed = Distiller(teacher, store, None, options, resume=tmp_path / name)
    resumed.schedule(0.0)
    assert resumed.student.config.activation == "relu6"
    again = resumed.export_model().state_dict()
    for key, value in trained.state_dict().items():
        torch.testing.assert_close(again[key], value, rtol=1e-3, atol=1e-6)


def test_features_of_an_equalised_student_are_near_at_once(
    teacher: Any, pictures: Path, tmp_path: Path
) -> None:
    options = replace(SMALL, batch_norm=False, blend_until=0.0)
    run = make(teacher, pictures, options)
    trained = run.export_model()
    with torch.no_grad():  # channels scaled and scaled back, as equalisation does
        for first, second in (("cls_convs", "cls_preds"), ("reg_convs", "reg_preds")):
            factors = torch.linspace(0.05, 8.0, getattr(trained.head, second)[0].in_channels)
            last = getattr(trained.head, first)[0][-1].pconv.conv
            last.weight.mul_(factors[:, None, None, None])
            last.bias.mul_(factors)
    write_checkpoint(tmp_path / "student.pt", trained, SMALL)
    store = ImageStore.load(list_images([pictures]), side=64, device="cpu")
    resumed = Distiller(teacher, store, None, options, resume=tmp_path / "student.pt")
    views = run.views.batch(4)
    plain, scaled = (each.step(views)[3] for each in (run, resumed))
    assert scaled < 1.2 * plain


def test_weights_of_another_network_are_refused(
    teacher: Any, pictures: Path, tmp_path: Path
) -> None:
    run = make(teacher, pictures, replace(SMALL, batch_norm=False, form="depthwise"))
    path = tmp_path / "student.onnx"
    export_onnx(run.export_model(), path, ExportOptions(size=(64, 64)))
    store = ImageStore.load(list_images([pictures]), side=64, device="cpu")
    with pytest.raises(
        ModelError, match=r"expected=?.* fix: give `?.*teacher|expected .*; fix: give"
    ):
        Distiller(teacher, store, None, replace(SMALL, batch_norm=False), resume=path)


def small_teacher(name: str, **changes: Any) -> Any:
    return YOLOX(replace(CONFIGS[name], width=0.0625, norm=False, **changes)).eval()


@pytest.mark.slow
def test_a_teacher_without_depthwise_convolutions(pictures: Path) -> None:
    names = ("ball", "block")
    small = small_teacher("yolox_tiny", num_classes=2, class_names=names)
    run = make(small, pictures, replace(SMALL, batch_norm=False))
    x = run.views.batch(4)
    assert run.step(x).abs().max() < 1e-4
    assert "head.reg_convs.2.1" in run.tapped_student.names
    model = run.export_model()
    equalize(model, [x])
    assert model.config.class_names == names


def test_networks_that_cannot_be_distilled_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"yolox_s_opt of elan.*`teacher_name`"):
        check_teacher(small_teacher("yolox_s_opt"), "full")
    with pytest.raises(ConfigurationError, match="`form` = depthwise for yolox_tiny"):
        check_teacher(small_teacher("yolox_tiny"), "depthwise")


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


@requires_gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_the_host_runs_ahead_of_the_gpu(teacher: Any, pictures: Path, cuda_graph: bool) -> None:
    options = replace(SMALL, batch=8, cuda_graph=cuda_graph, plain_share=0.5)
    store = ImageStore.load(list_images([pictures]), side=64, device="cuda")
    run = Distiller(teacher, store, None, options, device="cuda")
    before = run.average.module.head.obj_preds[0].weight.clone()
    run.train_step(0.1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for progress in (0.2, 0.4, 0.6, 0.8):
            run.train_step(progress)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (run.average.module.head.obj_preds[0].weight != before).any()
