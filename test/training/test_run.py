# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A run that a signal ends keeps what it learned, and goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.cli.interrupts import Interrupted, interruptible
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ModelError
from yolox_trt.core.progress import no_progress
from yolox_trt.graph.spec import read_spec
from yolox_trt.training.coco_labels import CocoLabels
from yolox_trt.training.options import TrainJob, TrainOptions
from yolox_trt.training.run import Trainer, read_training, run_training
from yolox_trt.training.train import train


@pytest.fixture
def job(small_nano: None, labels: CocoLabels, pictures: Path, tmp_path: Path) -> TrainJob:
    return TrainJob(
        model="yolox_nano", dla_ready=True, annotations=pictures / "instances.json",
        images=pictures, output=tmp_path / "run", device=Device("cpu"),
        options=TrainOptions(size=(64, 64), batch=2, steps=4),
    )  # fmt: skip


def sends(number: int, *, at: int) -> Callable[..., None]:
    """Return a progress that sends this process a signal at a step."""

    def on_progress(what: str, done: float, *_: object) -> None:
        if (what, done) == ("train", at):
            os.kill(os.getpid(), number)

    return on_progress


def weights(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "model.pt", weights_only=True)["state"]
    return state


def test_a_run_that_was_ended_goes_on_to_the_same_weights(job: TrainJob, tmp_path: Path) -> None:
    train(job)
    broken = replace(job, output=tmp_path / "broken")
    with pytest.raises(Interrupted) as ended, interruptible():
        train(broken, sends(signal.SIGTERM, at=2))
    assert ended.value.number == signal.SIGTERM
    assert read_spec(broken.output / "model.onnx").num_classes == 2
    halfway = weights(broken.output)
    assert read_training(broken.output / "checkpoint.pt")["step"] == 2
    train(replace(broken, resume=broken.output / "checkpoint.pt"))
    expected, found = weights(job.output), weights(broken.output)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not all(torch.equal(halfway[name], value) for name, value in expected.items())
    log = json.loads((broken.output / "log.json").read_text())
    assert log[-1]["step"] == 4 and {"seconds", "total", "box"} <= log[-1].keys()


SOUND: dict[str, Any] = {"training": {}, "step": 1, "seconds": 1.5, "log": []}


@pytest.mark.parametrize(
    "change",
    [
        {"step": None}, {"step": "x"}, {"step": -1}, {"seconds": None}, {"seconds": float("nan")},
        {"log": 3}, {"log": [3]}, {"random": 3}, {"random": [3]}, {"random": [{}]},
        {"random": [{"cpu": torch.zeros(3)}]}, {"random": {"cpu": None}},
    ],
)  # fmt: skip
def test_the_state_of_a_run_is_checked_before_it_goes_on(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(SOUND, path)
    assert read_training(path) == {**SOUND, "random": []}
    random = [{"cpu": torch.get_rng_state()}]
    for whole in (random, random[0]):  # older versions knew one process
        torch.save({**SOUND, "random": whole}, path)
        assert [state.keys() for state in read_training(path)["random"]] == [{"cpu"}]
    torch.save({**SOUND, **change}, path)
    with pytest.raises(ModelError, match=r"state of a run that is damaged.*expected"):
        read_training(path)
    torch.save({name: value for name, value in SOUND.items() if name not in change}, path)
    if "random" not in change:
        with pytest.raises(ModelError, match=r"that is damaged \(no '(step|seconds|log)'"):
            read_training(path)


def test_checkpoints_and_the_model_are_written_while_it_trains(job: TrainJob) -> None:
    """What is killed leaves a model, too; exporting it does not change what is learned."""
    job = replace(job, options=replace(job.options, steps=2))
    train(replace(job, output=job.output / "quiet"))
    found = []

    def on_progress(what: str, done: float, *_: object) -> None:
        if what == "train":
            path = job.output / "checkpoint.pt"
            found.append(read_training(path)["step"] if path.is_file() else 0)
            assert (job.output / "model.onnx").is_file() == bool(found[-1])

    train(replace(job, save_every=1e-9), on_progress)
    assert found == [0, 1]
    quiet, often = weights(job.output / "quiet"), weights(job.output)
    assert all(torch.equal(often[name], value) for name, value in quiet.items())


def test_a_second_ctrl_c_ends_at_once(job: TrainJob) -> None:
    def on_progress(what: str, done: float, *_: object) -> None:
        if (what, done) == ("train", 1):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(job, on_progress)
    assert not (job.output / "model.onnx").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_checkpoint_of_another_network_is_refused(job: TrainJob) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(job, sends(signal.SIGINT, at=1))
    other = replace(job, model="yolox_tiny", resume=job.output / "checkpoint.pt")
    with pytest.raises(ModelError, match=r"checkpoint of another run.*give another `resume`"):
        train(other)
    with pytest.raises(ModelError, match=r"model.pt' without the state.*correct `resume`"):
        train(replace(job, resume=job.output / "model.pt"))


def test_a_run_by_time(job: TrainJob) -> None:
    seen: list[tuple[float, float | None]] = []
    timed = replace(job, options=replace(job.options, steps=0, seconds=0.05))
    train(timed, lambda what, done, total=None, note="": seen.append((done, total)))
    assert seen[-1] == (0.05, 0.05)
    assert (job.output / "model.onnx").is_file()


class SlowStart(Trainer):
    """Compiles in its first step, as `--compile` does."""

    device, batch, state = torch.device("cpu"), 2, MappingProxyType({})

    def __init__(self, options: TrainOptions) -> None:
        self.options, self.seen = options, list[float]()

    def train_step(self, progress: float) -> dict[str, torch.Tensor]:
        if not self.seen:
            time.sleep(self.options.seconds)
        self.seen.append(progress)
        return {"loss": torch.zeros(())}


def test_time_begins_behind_the_first_step(job: TrainJob) -> None:
    """What compiles for minutes would use up the learning rate's warm-up, or all of the run."""
    job.output.mkdir()
    timed = replace(job, options=replace(job.options, steps=0, seconds=1.0))
    trainer = SlowStart(timed.options)
    run_training(trainer, timed, lambda _: None, resumed={}, title="train", on_progress=no_progress)
    assert trainer.seen[0] == pytest.approx(0, abs=0.1) and trainer.seen[1] < 0.5
