# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Distillation of a SiLU YOLOX into its DLA-ready ReLU6 form, on photographs without labels."""

from __future__ import annotations

import torch

from yolox_trt.core.output_paths import prepare_folder
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.graph.graph import Graph
from yolox_trt.training.checkpoint import read_checkpoint, write_checkpoint
from yolox_trt.training.distiller import Distiller, check_teacher
from yolox_trt.training.equalize import equalize
from yolox_trt.training.export import export_onnx
from yolox_trt.training.image_store import ImageStore, list_images
from yolox_trt.training.options import DistillJob, ExportOptions
from yolox_trt.training.ranks import joined
from yolox_trt.training.run import Log, read_training, run_training
from yolox_trt.training.torch_device import check_step
from yolox_trt.training.weights import load_teacher

#: Views in one run through the network when the ranges of channels are measured.
_EQUALIZE_BATCH = 32


def distill(job: DistillJob, on_progress: Progress = no_progress) -> dict[str, float]:
    """Distil, equalise and export.

    Writes `student.pt`, `student.onnx`, `checkpoint.pt` and `log.json` into the job's folder, every
    `save_every` seconds and at the end, also where a signal ends the run early.

    Args:
        job: what to read, train and write.
        on_progress: told of images that were read and of the progress of the training.

    Returns:
        Losses on the held-out images at the end ("objectness", "class", "box", "sum"); empty
        where there are none.

    Raises:
        ConfigurationError: an option does not fit the teacher, or there are no images.
        ModelError: the teacher or the student to go on with is of another kind.
    """
    options = job.options
    with joined(job.device, options.batch) as (device, ranks):
        on_progress = ranks.told(on_progress)
        check_step(device, options, ranks.batch(options.batch))
        # Before the images, which take longer to read.
        teacher = load_teacher(job.teacher, job.teacher_name)
        check_teacher(teacher, options.form)
        prepare_folder(job.output)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
        held_out_paths = list_images(job.held_out)
        resumed = {}
        if job.resume is not None and job.resume.suffix == ".onnx":
            Graph.load(job.resume)
        elif job.resume is not None:
            resumed = read_training(job.resume, weights_too=True)
            if not resumed:
                read_checkpoint(job.resume)
        paths = ranks.part(list_images(job.images)[: job.limit or None])
        train = ImageStore.load(paths, side=options.canvas, device=device, on_progress=on_progress)
        held = None
        if job.held_out and ranks.is_first:
            held = ImageStore.load(held_out_paths, side=options.canvas, device=device)
        start = None if resumed else job.resume
        distiller = Distiller(
            teacher, train, held, options, device=device, resume=start, ranks=ranks
        )

        def export(log: Log) -> None:
            model = distiller.export_model()
            views = [
                distiller.views.plain(min(_EQUALIZE_BATCH, job.equalize_images - first)).cpu()
                for first in range(0, job.equalize_images, _EQUALIZE_BATCH)
            ]
            if views:
                equalize(model, views)
            if held is not None:
                log.append({"held_out": distiller.evaluate(model)})
            write_checkpoint(job.output / "student.pt", model, options, half=True, log=log)
            form = ExportOptions(
                size=options.size, half_weights=True, auto_size=len(options.all_sizes) > 1
            )
            export_onnx(model, job.output / "student.onnx", form)

        log = run_training(
            distiller, job, export, resumed=resumed, title="distil", on_progress=on_progress
        )
    return log[-1].get("held_out", {}) if log else {}
