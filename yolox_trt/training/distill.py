# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Distillation of a SiLU YOLOX into its DLA-ready ReLU6 form, on photographs without labels."""

from __future__ import annotations

import time
from typing import Any

import torch

from yolox_trt.core.output_paths import write_json
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.training.checkpoint import write_checkpoint
from yolox_trt.training.distiller import Distiller, check_teacher
from yolox_trt.training.equalize import equalize
from yolox_trt.training.export import export_onnx
from yolox_trt.training.image_store import ImageStore, list_images
from yolox_trt.training.options import DistillJob, ExportOptions
from yolox_trt.training.torch_device import torch_device
from yolox_trt.training.weights import load_teacher
from yolox_trt.training.yolox import YOLOX

#: Views in one run through the network when the ranges of channels are measured.
_EQUALIZE_BATCH = 32


def distill(job: DistillJob, on_progress: Progress = no_progress) -> dict[str, float]:
    """Distil, equalise and export.

    Writes `student.pt`, `student.onnx` and `log.json` into the job's output folder.

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
    device = torch_device(job.device)
    # Before the images, which take longer to read.
    teacher = load_teacher(job.teacher, job.teacher_name)
    check_teacher(teacher, options.form)
    job.output.mkdir(parents=True, exist_ok=True)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    paths = list_images(job.images)[: job.limit or None]
    train = ImageStore.load(paths, side=options.canvas, device=device, on_progress=on_progress)
    held = None
    if job.held_out:
        held = ImageStore.load(list_images(job.held_out), side=options.canvas, device=device)
    distiller = Distiller(teacher, train, held, options, device=device, resume=job.resume)
    log: list[dict[str, Any]] = []

    def save() -> YOLOX:
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
        write_json(job.output / "log.json", log)
        return model

    saved = time.monotonic()
    for state in distiller.run():
        log.append(state)
        losses = ", ".join(f"{k} {state[k]:.3f}" for k in ("objectness", "class", "box", "feature"))
        note = f"{state['images_per_second']:.0f} images/s, {losses}"
        done, total = (
            (state["step"], options.steps)
            if options.steps
            else (min(state["seconds"], options.seconds), options.seconds)
        )
        on_progress("distil", done, total, note)
        if time.monotonic() - saved > job.save_every:
            save()
            saved = time.monotonic()
    model = save()
    export_onnx(
        model, job.output / "student.onnx", ExportOptions(size=options.size, half_weights=True)
    )
    return log[-1].get("held_out", {})
