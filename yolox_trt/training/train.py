# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Training of any detector of this package on images with COCO annotations.

SGD with Nesterov momentum, cosine schedule, mosaics until the last epochs, SimOTA and a weight
average, after YOLOX's published recipe (arXiv 2107.08430, section 2.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from yolox_trt.core.output_paths import write_json
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.training.checkpoint import write_checkpoint
from yolox_trt.training.coco_labels import CocoLabels
from yolox_trt.training.detection_loss import detection_loss
from yolox_trt.training.export import export_onnx
from yolox_trt.training.image_store import ImageStore
from yolox_trt.training.labelled_augment import LabelledAugmenter
from yolox_trt.training.model_config import CONFIGS, ModelConfig
from yolox_trt.training.options import ExportOptions, TrainJob, TrainOptions
from yolox_trt.training.schedule import cosine_factor, parameter_groups, weight_average
from yolox_trt.training.torch_device import torch_device
from yolox_trt.training.weights import fold_batch_norm
from yolox_trt.training.yolox import YOLOX


class Trainer:
    """Model, optimiser and data of one run.

    Args:
        config: the network; its classes are those of the labels.
        labels: boxes and classes of the images.
        store: the images, in the order of the labels.
        options: how to train.
        device: where.
    """

    def __init__(
        self,
        config: ModelConfig,
        labels: CocoLabels,
        store: ImageStore,
        options: TrainOptions,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.device = torch.device(device)
        names = tuple(labels.class_names)
        self.model = YOLOX(replace(config, num_classes=len(names), class_names=names))
        self.model.to(self.device).train()
        self.average = weight_average(self.model, options.average)
        self.views = LabelledAugmenter(store, options.side, options.augment, labels)
        self.base_rate = options.learning_rate * options.batch / 64
        self.optimiser = torch.optim.SGD(
            parameter_groups(self.model, options.weight_decay),
            lr=self.base_rate,
            momentum=options.momentum,
            nesterov=True,
        )

    def run(self) -> Iterator[dict[str, float]]:
        """Train; yield the loss parts of every step."""
        o = self.options
        for step in range(o.steps):
            progress = step / o.steps
            factor = cosine_factor(progress, o)
            if progress < o.warmup:
                factor = ((step + 1) / max(1.0, o.warmup * o.steps)) ** 2
            for group in self.optimiser.param_groups:
                group["lr"] = self.base_rate * min(1.0, factor)
            plain = progress > 1 - o.plain_share
            images, boxes, classes = self.views.labelled_batch(o.batch, mosaic=not plain)
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"
            ):
                outputs = self.model(images)
            parts = detection_loss(outputs, boxes, classes, o.size, use_l1=plain)
            self.optimiser.zero_grad(set_to_none=True)
            parts["total"].backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), o.clip)
            self.optimiser.step()
            self.average.update_parameters(self.model)
            yield {"step": step + 1, **{k: v.item() for k, v in parts.items()}}

    def export_model(self) -> YOLOX:
        """The averaged weights, batch norm folded, on the CPU."""
        model = self.average.module
        assert isinstance(model, YOLOX)
        return (fold_batch_norm(model) if model.config.norm else model).cpu().eval()


def train(job: TrainJob, on_progress: Progress = no_progress) -> None:
    """Train and export; writes `model.pt`, `model.onnx` and `log.json` into the output folder.

    Args:
        job: what to read, train and write.
        on_progress: told of images that were read and of every step.

    Raises:
        ConfigurationError: the annotations cannot be read, or an image is missing.
    """
    options, device = job.options, torch_device(job.device)
    config = CONFIGS[job.model]
    if job.dla_ready:
        config = config.dla_ready()
    job.output.mkdir(parents=True, exist_ok=True)
    labels = CocoLabels.load(job.annotations, job.images)
    store = ImageStore.load(labels.paths, side=options.side, device=device, on_progress=on_progress)
    trainer = Trainer(config, labels, store, options, device=device)
    log = []
    for state in trainer.run():
        step = int(state["step"])
        on_progress("train", step, options.steps, f"loss {state['total']:.3f}")
        if step % 10 == 0:
            log.append(state)
    model = trainer.export_model()
    write_checkpoint(job.output / "model.pt", model, options)
    export_onnx(model, job.output / "model.onnx", ExportOptions(size=options.size))
    write_json(job.output / "log.json", log)
