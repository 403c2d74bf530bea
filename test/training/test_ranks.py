# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Several processes learn as one would."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, DeviceError
from yolox_trt.training.coco_labels import CocoLabels
from yolox_trt.training.model_config import CONFIGS
from yolox_trt.training.options import TrainJob, TrainOptions
from yolox_trt.training.ranks import ALONE, Ranks, joined
from yolox_trt.training.run import read_training
from yolox_trt.training.train import train

#: The processes take 15 s of two idle cores, and import PyTorch on busy ones.
pytestmark = pytest.mark.timeout(300)
WORKER = Path(__file__).parents[1] / "support" / "rank_process.py"


class Pair(NamedTuple):
    """What two processes left.

    Attributes:
        folder: results of support/rank_process.py.
        status: exit status of each.
        shown: standard output of each.
        errors: standard error of each.
    """

    folder: Path
    status: tuple[int, ...]
    shown: tuple[str, ...]
    errors: tuple[str, ...]


def free_ports(count: int) -> list[str]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [str(each.getsockname()[1]) for each in sockets]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, pictures: Path, labels: CocoLabels) -> Pair:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "pictures").symlink_to(pictures)
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    environment |= {"PYTHONPATH": os.pathsep.join([tests, *filter(None, sys.path)])}
    ports = free_ports(5)
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), *ports],
            env={**environment, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    try:
        found = [process.communicate(timeout=280) for process in processes]
    finally:
        for process in processes:
            process.kill()
    shown, errors = zip(*found, strict=True)
    return Pair(folder, tuple(process.returncode for process in processes), shown, errors)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["distill", "train", "qat"])
def test_a_step_of_two_is_that_of_one_with_the_whole_batch(pair: Pair, command: str) -> None:
    """Up to the order in which float32 numbers are added.

    That shows most in the gradient of a quantiser's scale, the difference of two large sums.
    """
    assert (pair.folder / "steps.json").is_file(), pair.errors
    losses, *gradients = json.loads((pair.folder / "steps.json").read_text())[command]
    assert losses < 1e-5
    assert len(gradients) > 50 and max(gradients) < 5e-3
    assert sum(gradients) / len(gradients) < 1e-4


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "model.pt", weights_only=True)["state"]
    return state


@pytest.mark.slow
def test_a_run_that_one_of_them_ended_goes_on_to_the_same_weights(pair: Pair) -> None:
    whole, broken, resumed = (pair.folder / f"{name}-0" for name in ("whole", "broken", "resumed"))
    checkpoint = read_training(broken / "checkpoint.pt")
    assert checkpoint["step"] == 2 and len(checkpoint["random"]) == 2
    expected, found = weights(whole), weights(resumed)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not all(torch.equal(v, expected[name]) for name, v in weights(broken).items())


@pytest.mark.slow
def test_the_first_one_alone_reports_and_writes(pair: Pair) -> None:
    for name in ("whole", "broken", "resumed"):
        first, second = (pair.folder / f"{name}-{rank}" for rank in (0, 1))
        written = {path.name for path in first.iterdir()}
        assert written == {"checkpoint.pt", "log.json", "model.pt"}
        assert not list(second.iterdir())
    assert "step resumed 4" in pair.shown[0] and "step" not in pair.shown[1]


@pytest.mark.slow
def test_one_that_fails_ends_the_other_with_a_reason(pair: Pair) -> None:
    assert pair.status == (2, 2), pair.errors
    assert "yolox_trt train: a step that fails; fix: see here" in pair.errors[1]
    assert re.search(r"no exchange with the other 1 .*first that ended; go on", pair.errors[0])
    assert "Traceback" not in "".join(pair.errors)


@pytest.mark.slow
def test_a_run_of_two_goes_on_as_one(
    pair: Pair,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = TrainJob(
        model="yolox_nano", dla_ready=True, annotations=pair.folder / "pictures" / "instances.json",
        images=pair.folder / "pictures", output=tmp_path, device=Device("cpu"),
        resume=pair.folder / "broken-0" / "checkpoint.pt",
        options=TrainOptions(size=(64, 64), batch=2, steps=4),
    )  # fmt: skip
    monkeypatch.setitem(CONFIGS, job.model, replace(CONFIGS[job.model], width=0.0625))
    with caplog.at_level(logging.WARNING):
        train(job)
    assert read_training(tmp_path / "checkpoint.pt")["step"] == 4
    assert "was 2 processes and is 1 now" in caplog.text
    assert "of 2 images" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
@pytest.mark.parametrize("options", [(), ("--cuda-graph", "--other-sizes", "64x96")])
def test_two_gpus(
    teacher_path: Path, pictures: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    words = ["--teacher", teacher_path, "--images", pictures, "--held-out", pictures]
    words += ["--size", "64x64", "--canvas", "64", "--batch", "8", "--steps", "6", *options]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [
        *torchrun,
        "-m",
        "yolox_trt.cli",
        "distill",
        *map(str, words),
        "-o",
        tmp_path / "run",
    ]
    subprocess.run(command, check=True, timeout=110)
    *steps, last = json.loads((tmp_path / "run" / "log.json").read_text())
    assert steps[-1]["step"] == 6 and last["held_out"]["sum"] > 0
    assert len(read_training(tmp_path / "run" / "checkpoint.pt")["random"]) == 2


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    assert Ranks(1, 4).batch(64) == 16
    with pytest.raises(ConfigurationError, match=r"`batch` = 65 for 2 proc.*`batch` to 64 or 66"):
        Ranks(1, 2).batch(65)
    with pytest.raises(ConfigurationError, match=r"`batch` = 1 for 2 .*set `batch` to 2"):
        Ranks(0, 2).batch(1)


def test_images_are_shared_without_any_left_over(labels: CocoLabels) -> None:
    parts = [labels.part(Ranks(rank, 4)) for rank in range(4)]
    assert sorted(path for part in parts for path in part.paths) == sorted(labels.paths)
    assert [len(part.boxes) for part in parts] == [2, 2, 1, 1]
    assert labels.part(ALONE) is labels
    with pytest.raises(ConfigurationError, match=r"6 images for 7 processes.*--nproc-per-node"):
        labels.part(Ranks(0, 7))


def environment(patch: pytest.MonkeyPatch, *values: str) -> None:
    for name, value in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), values, strict=True):
        patch.setenv(name, value)


@pytest.mark.parametrize(
    ("values", "device", "gpus", "message"),
    [
        (("2", "2", "0"), None, 0, r"RANK = 2, WORLD_SIZE = 2.*what torchrun sets"),
        (("x", "2", "0"), None, 0, r"RANK = x.*start it by torchrun"),
        (("1", "2", "1"), "gpu:1", 2, r"`device` = gpu:1 for several.*CUDA_VISIBLE_DEVICES"),
    ],
)
def test_what_makes_no_sense_together_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    values: Sequence[str],
    device: str | None,
    gpus: int,
    message: str,
) -> None:
    environment(monkeypatch, *values)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    named = Device.parse(device) if device else None
    with pytest.raises(ConfigurationError, match=message), joined(named, 4):
        pass


def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, "1", "2", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    refused = pytest.raises(DeviceError, match=r"process 2.*finds 1 GPUs.*--nproc-per-node 1")
    with refused, joined(None, 4):
        pass
