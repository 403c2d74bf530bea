# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""One of two processes that train together: python rank_process.py FOLDER PORT ...

torchrun's variables say which one it is. FOLDER has `pictures/` with labels; the results of the
first process go to `steps.json` in it, and its exit status is that of a run in which the second one
meets an error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from support.yolox_graphs import build_yolox

from yolox_trt.cli.main import main
from yolox_trt.compiler.int8.options import QuantizeOptions
from yolox_trt.compiler.int8.quantizer import quantize
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.compiler.surgery.pipeline import optimize
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ModelError
from yolox_trt.graph.graph import Graph
from yolox_trt.training.checkpoint import write_checkpoint
from yolox_trt.training.coco_labels import CocoLabels
from yolox_trt.training.distiller import Distiller
from yolox_trt.training.image_store import ImageStore
from yolox_trt.training.labelled_augment import LabelledBatch
from yolox_trt.training.model_config import CONFIGS
from yolox_trt.training.options import DistillOptions, QatOptions, TrainJob, TrainOptions
from yolox_trt.training.qat import QatTrainer
from yolox_trt.training.ranks import ALONE, Ranks, joined
from yolox_trt.training.run import Log, Trainer, read_training, run_training
from yolox_trt.training.train import DetectionTrainer
from yolox_trt.training.yolox import YOLOX

SIZE, BATCH = (64, 64), 4
NAME = "yolox_nano"
CONFIGS[NAME] = replace(CONFIGS[NAME], width=0.0625)


def part(batch: LabelledBatch, ranks: Ranks) -> LabelledBatch:
    """The share of one process; of unequal numbers of boxes."""
    mine = slice(ranks.rank, None, ranks.count)
    return LabelledBatch(batch.images[mine], batch.boxes[mine], batch.classes[mine], None)


def differences(
    make: Callable[[Ranks], Trainer], step: Callable[[Any, LabelledBatch], Any], ranks: Ranks
) -> list[float]:
    """How far one step of two processes is from that of one with the whole batch.

    Returns:
        Of the losses and of each gradient, relative to the largest; to the first process.
    """
    torch.manual_seed(7)
    boxes = [
        torch.tensor([[8.0, 8.0, 40.0, 30.0], [4.0, 30.0, 60.0, 60.0]])[: i % 3] for i in range(4)
    ]
    classes = [torch.arange(len(each)) for each in boxes]
    batch = LabelledBatch(torch.rand(BATCH, 3, *SIZE) * 255, boxes, classes, None)
    together = make(ranks)
    ranks.start_alike(m for m in together.state.values() if isinstance(m, torch.nn.Module))
    if not ranks.is_first:
        step(together, part(batch, ranks))
        return []
    alone = make(ALONE)
    for name, each in together.state.items():
        alone.state[name].load_state_dict(each.state_dict())
    losses = [torch.as_tensor(step(t, part(batch, t.ranks))).double() for t in (alone, together)]
    gradients = [
        [p.grad for group in trainer.state["optimiser"].param_groups for p in group["params"]]
        for trainer in (alone, together)
    ]
    assert losses[0].abs().sum() > 0
    found = [losses, *zip(*gradients, strict=True)]
    return [float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in found]


def distill_step(trainer: Distiller, batch: LabelledBatch) -> Any:
    return trainer.step(batch.images)


def train_step(trainer: DetectionTrainer, batch: LabelledBatch) -> Any:
    trainer.views.labelled_batch = lambda *_, **__: batch  # type: ignore[method-assign]
    losses = trainer.train_step(0.5)
    return [losses[name] for name in ("total", "box", "objectness", "class")]


def qat_step(trainer: QatTrainer, batch: LabelledBatch) -> Any:
    return trainer._optimise(batch.images, batch.boxes, batch.classes)


def compare_steps(folder: Path, port: str) -> None:
    """Write how far steps of two processes are from those of one."""
    labels = CocoLabels.load(folder / "pictures" / "instances.json", folder / "pictures")
    store = ImageStore.load(labels.paths, side=64)
    torch.manual_seed(3)
    teacher = YOLOX(replace(CONFIGS["yolox_tiny"], width=0.0625, norm=False, num_classes=2)).eval()
    built = build_yolox(depth=0, width=0.125, num_classes=2, height=64, width_px=64, metadata=True)
    inputs = [torch.rand(1, 3, *SIZE).mul(255).numpy()]
    raw = Graph(optimize(Graph(built), SurgeryOptions(target="dla"), verify=False).model)
    quantized = quantize(raw, inputs, QuantizeOptions(threads=1))
    plain = replace(CONFIGS[NAME].dla_ready(), norm=False)
    distilled = DistillOptions(
        size=SIZE, canvas=64, batch=BATCH, batch_norm=False, blend_until=0.0, steps=1
    )
    trained = TrainOptions(size=SIZE, batch=BATCH, steps=1)
    qat = QatOptions(size=SIZE, canvas=64, batch=BATCH, steps=1)
    os.environ["MASTER_PORT"] = port
    with joined(Device("cpu"), BATCH) as (_, ranks):
        found = {
            "distill": differences(
                lambda r: Distiller(teacher, store, None, distilled, ranks=r), distill_step, ranks
            ),
            "train": differences(
                lambda r: DetectionTrainer(plain, labels, store, trained, ranks=r),
                train_step, ranks,
            ),
            "qat": differences(
                lambda r: QatTrainer(quantized, store, (store, labels), None, qat, ranks=r),
                qat_step, ranks,
            ),
        }  # fmt: skip
        if ranks.is_first:
            (folder / "steps.json").write_text(json.dumps(found))


def run(folder: Path, name: str, port: str, *, end_at: int = 0, resume: str = "") -> None:
    """A run of four steps; SIGTERM ends it in the first process alone where `end_at` says."""
    os.environ["MASTER_PORT"] = port
    output = folder / f"{name}-{os.environ['RANK']}"
    output.mkdir()
    job = TrainJob(
        annotations=folder / "pictures" / "instances.json", images=folder / "pictures",
        output=output, resume=folder / resume / "checkpoint.pt" if resume else None,
        options=TrainOptions(size=SIZE, batch=2, steps=4),
    )  # fmt: skip

    def on_progress(what: str, done: float, *_: object) -> None:
        print("step", name, int(done), flush=True)
        if done == end_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def export(log: Log) -> None:
        write_checkpoint(output / "model.pt", trainer.export_model(), job.options, log=log)

    signal.signal(signal.SIGTERM, lambda *_: None)
    with joined(Device("cpu"), job.options.batch) as (_, ranks):
        labels = CocoLabels.load(job.annotations, job.images).part(ranks)
        store = ImageStore.load(labels.paths, side=64)
        config = CONFIGS[NAME].dla_ready()
        trainer = DetectionTrainer(config, labels, store, job.options, ranks=ranks)
        run_training(
            trainer, job, export, resumed=read_training(job.resume), title="train",
            on_progress=ranks.told(on_progress),
        )  # fmt: skip


def meet_an_error(folder: Path, port: str) -> int:
    """Run the command; the second process meets an error in its second step."""
    os.environ["MASTER_PORT"] = port
    step = DetectionTrainer.train_step

    def broken(self: DetectionTrainer, progress: float) -> Any:
        if self.ranks.rank and progress >= 0.25:
            raise ModelError("a step that fails", fix="see here")
        return step(self, progress)

    DetectionTrainer.train_step = broken  # type: ignore[method-assign]
    images = folder / "pictures"
    words = ["--annotations", images / "instances.json", "--images", images, "-o", folder / "dead"]
    options = ["--model", NAME, "--size", "64x64", "--batch", 2, "--steps", 4, "--device", "cpu"]
    return main(["train", *map(str, (*words, *options))])


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, ports = Path(sys.argv[1]), sys.argv[2:]
    compare_steps(where, ports[0])
    run(where, "whole", ports[1])
    run(where, "broken", ports[2], end_at=2)
    run(where, "resumed", ports[3], resume="broken-0")
    sys.exit(meet_an_error(where, ports[4]))
