# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt train`, `distill` and `export` as a user types them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.command_line import call

from yolox_trt.cli import main as cli
from yolox_trt.core.device import Device
from yolox_trt.training.options import DistillJob

DISTILL = ("distill", "--teacher", "t.onnx", "--images", "photos", "-o", "run")
TRAIN = ("train", "--annotations", "a.json", "--images", "photos", "-o", "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*DISTILL, "--size", "80x80"), "--size = 80x80.*multiples of 32.*set --size"),
        ((*DISTILL, "--size", "416"), "'416'.*HxW"),
        ((*DISTILL, "--plain", "0.8"), "--plain = 0.8 and --mosaic = 0.5.*lower --plain"),
        ((*DISTILL, "--equalise-images", "-1"), "--equalize-images = -1"),
        ((*DISTILL, "--device", "dla0"), "dla0.*auto, gpu, gpu:N or cpu.*set --device"),
        ((*TRAIN, "--steps", "-1"), "--steps = -1.*at least 0"),
        (("export", "--weights", "m.pt", "-o", "m.onnx", "--opset", "99"), "--opset = 99.*9 to 20"),
        (("export", "--weights", "m.pt", "-o", "m.pt"), "m.pt.*.onnx.*set --output"),
    ],
)
def test_errors_name_the_options(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(list(words)) == 2
    assert re.search(message, capsys.readouterr().err)


def test_words_become_a_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="PyTorch missing: pip install torch")
    jobs: list[DistillJob] = []

    def distill(job: DistillJob, on_progress: object) -> dict[str, float]:
        jobs.append(job)
        return {"sum": 1.5}

    monkeypatch.setattr("yolox_trt.training.distill.distill", distill)
    words = ("--teacher", "t.onnx", "--images", "a", "--images", "b", "-o", tmp_path / "run")
    more = ("--size", "64x64", "--device", "gpu:1", "--mixup", "0.1", "--no-batch-norm")
    assert call("distill", *words, *more) == 0
    (job,) = jobs
    assert (job.images, job.device) == ((Path("a"), Path("b")), Device("gpu", 1))
    assert (job.options.size, job.options.batch, job.options.augment.mixup) == ((64, 64), 64, 0.1)
    assert not job.options.batch_norm
    assert "sum 1.500" in capsys.readouterr().out


def test_a_trained_model_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="PyTorch missing: pip install torch")
    onnx = pytest.importorskip("onnx")
    from dataclasses import replace

    from yolox_trt.training.checkpoint import write_checkpoint
    from yolox_trt.training.model_config import CONFIGS
    from yolox_trt.training.options import TrainOptions
    from yolox_trt.training.yolox import YOLOX

    config = replace(CONFIGS["yolox_tiny"].dla_ready(), width=0.0625, norm=False)
    write_checkpoint(tmp_path / "model.pt", YOLOX(config), TrainOptions())
    target = tmp_path / "out" / "m.onnx"
    words = ("--weights", tmp_path / "model.pt", "-o", target, "--size", "64x96", "--batch", "2")
    assert call("export", *words) == 0
    assert "m.onnx: " in capsys.readouterr().out
    shape = onnx.load(str(target)).graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [2, 3, 64, 96]
