# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt train`, `distill`, `qat` and `export`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.core.option import Option, nested, option, options_of, parse_path
from yolox_trt.core.output_paths import OutputFile
from yolox_trt.core.progress import Progress
from yolox_trt.training.options import DistillJob, ExportOptions, Job, QatJob, TrainJob


@dataclass(frozen=True, kw_only=True)
class _Training(Command):
    """A run of a trainer, into a folder."""

    job: Job

    def folder_files(self) -> Iterator[tuple[Option, Path]]:
        yield from ((options_of(Job)["output"], file) for file in self.job.files)


@dataclass(frozen=True, kw_only=True)
class Train(_Training, name="train", needs=("torch",)):
    """Train a detector on images with COCO annotations.

    SGD with Nesterov momentum, a cosine schedule, mosaics until the last steps, SimOTA and a weight
    average, after YOLOX's published recipe. Writes model.pt, model.onnx, checkpoint.pt and
    log.json, also where Ctrl-C or SIGTERM ends it early.

    Examples:
        yolox_trt train --model yolox_s_opt --annotations instances.json --images images/ -o run/
    """

    job: TrainJob = nested(TrainJob)

    def run(self, output: Output) -> int:
        from yolox_trt.training.train import train

        return _trained(output, partial(train, self.job), self.job.output / "model.onnx")


def _trained(
    output: Output, run: Callable[[Progress], Mapping[str, float] | None], result: Path
) -> int:
    """Run a training; tell its losses on held-out images, and its result."""
    from yolox_trt.training.ranks import rank_of_environment

    begin = time.monotonic()
    with output.progress() as progress:
        held_out = run(progress)
    if rank_of_environment()[0]:  # the first process tells it
        return 0
    if held_out:
        losses = ", ".join(f"{name} {loss:.3f}" for name, loss in held_out.items())
        output.print(f"on held-out images: {losses}")
    output.print(f"{result} after {time.monotonic() - begin:.0f} s")
    return 0


@dataclass(frozen=True, kw_only=True)
class Distill(_Training, name="distill", needs=("torch",)):
    """Make a ReLU6 detector for the DLA from a SiLU one, with photographs and no labels.

    The student starts as an exact rewrite of the teacher. Its activation is blended from SiLU to
    ReLU6 while it is held to the teacher's outputs and features. Writes student.pt, student.onnx,
    checkpoint.pt and log.json, also where Ctrl-C or SIGTERM ends it early. On two GPUs, as with
    train and qat: `torchrun --nproc-per-node 2 -m yolox_trt.cli distill ...`.

    Examples:
        yolox_trt distill --teacher yolox_nano.onnx --images photos/ -o run/
    """

    job: DistillJob = nested(DistillJob)

    def run(self, output: Output) -> int:
        from yolox_trt.training.distill import distill

        return _trained(output, partial(distill, self.job), self.job.output / "student.onnx")


@dataclass(frozen=True, kw_only=True)
class Qat(_Training, name="qat", needs=("torch", "onnx", "onnxruntime")):
    """Train the INT8 form of a model: quantisation-aware training.

    The model is rewritten as `optimize --target dla` does, calibrated, and given Q/DQ nodes; then
    weights and scales learn to answer as the float model does. Writes qat.onnx (Q/DQ), which
    translate, build, evaluate and compare take, checkpoint.pt and log.json, also where Ctrl-C or
    SIGTERM ends it early.

    Examples:
        yolox_trt qat yolox_nano.onnx --images photos/ --equalize -o run/
        yolox_trt qat yolox_nano.onnx --images photos/ --placement all --keep-fp16 last -o run/
    """

    job: QatJob = nested(QatJob)

    def run(self, output: Output) -> int:
        from yolox_trt.training.qat import qat

        return _trained(output, partial(qat, self.job), self.job.output / "qat.onnx")


@dataclass(frozen=True, kw_only=True)
class Export(Command, name="export", needs=("torch", "onnx")):
    """Write a trained detector as ONNX.

    Examples:
        yolox_trt export --weights run/model.pt --size 608x960 -o s_opt_608x960.onnx
    """

    weights: Path = option(
        parse=parse_path, metavar="FILE", help="Trained weights: student.pt or model.pt of a run."
    )
    output: Path = option(parse=OutputFile(".onnx"), flag="--output -o", help="File to write.")
    options: ExportOptions = nested(ExportOptions)

    def run(self, output: Output) -> int:
        from yolox_trt.training.checkpoint import load_trained
        from yolox_trt.training.export import export_onnx

        export_onnx(load_trained(self.weights), self.output, self.options)
        output.print(f"{self.output}: {self.output.stat().st_size / 1e6:.2f} MB")
        return 0
