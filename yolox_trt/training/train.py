# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Training of any detector of this package on images with COCO annotations.

SGD with Nesterov momentum, cosine schedule, mosaics until the last epochs, SimOTA and a weight
average, after YOLOX's published recipe (arXiv 2107.08430, section 2.1).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from yolox_trt.core.output_paths import prepare_folder
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.training.checkpoint import write_checkpoint
from yolox_trt.training.coco_labels import CocoLabels
from yolox_trt.training.detection_loss import detection_loss
from yolox_trt.training.export import export_onnx
from yolox_trt.training.image_store import ImageStore
from yolox_trt.training.labelled_augment import LabelledAugmenter
from yolox_trt.training.masks import load_masks, mask_loss
from yolox_trt.training.model_config import CONFIGS, ModelConfig
from yolox_trt.training.options import ExportOptions, TrainJob, TrainOptions
from yolox_trt.training.ranks import ALONE, Ranks, joined
from yolox_trt.training.run import Log, Trainer, read_training, run_training
from yolox_trt.training.schedule import WeightAverage, cosine_factor, parameter_groups
from yolox_trt.training.torch_device import check_step
from yolox_trt.training.weights import fold_batch_norm
from yolox_trt.training.yolox import YOLOX


class DetectionTrainer(Trainer):
    """Model, optimiser and data of one run.

    Args:
        config: the network; its classes are those of the labels.
        labels: boxes and classes of the images.
        store: the images, in the order of the labels.
        options: how to train.
        device: where.
        masks: of the images, as `load_masks` gives them; for a network with a segmentation head.
        ranks: this process among those of the run.
    """

    def __init__(
        self,
        config: ModelConfig,
        labels: CocoLabels,
        store: ImageStore,
        options: TrainOptions,
        *,
        device: torch.device | str = "cpu",
        masks: torch.Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        torch.manual_seed(options.seed)
        self.options: TrainOptions = options
        self.ranks = ranks
        self.batch = ranks.batch(options.batch)
        self.device = torch.device(device)
        names = tuple(labels.class_names)
        self.model = YOLOX(replace(config, num_classes=len(names), class_names=names))
        self.model.to(self.device).train()
        self.average = WeightAverage(self.model, options.average)
        self.views = LabelledAugmenter(store, options.size, options.augment, labels, masks)
        self.base_rate = options.learning_rate * options.batch / 64
        self.optimiser = torch.optim.SGD(
            parameter_groups(self.model, options.weight_decay),
            lr=self.base_rate,
            momentum=options.momentum,
            nesterov=True,
        )
        self.state = {
            "model": self.model, "average": self.average, "optimiser": self.optimiser
        }  # fmt: skip

    def train_step(self, progress: float) -> dict[str, Tensor]:
        o = self.options
        factor = cosine_factor(progress, o)
        if progress < o.warmup:
            factor = max(progress / o.warmup, 0.01) ** 2
        for group in self.optimiser.param_groups:
            group["lr"] = self.base_rate * min(1.0, factor)
        plain = progress > 1 - o.plain_share
        batch = self.views.labelled_batch(self.batch, mosaic=not plain)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            outputs, logits = self.model.with_masks(batch.images)
        parts = detection_loss(
            outputs, batch.boxes, batch.classes, o.size, use_l1=plain, ranks=self.ranks
        )
        if logits is not None and batch.masks is not None:
            parts["mask"] = mask_loss(logits.float(), batch.masks, self.ranks)
            parts["total"] = parts["total"] + parts["mask"]
        self.optimiser.zero_grad(set_to_none=True)
        parts["total"].backward()
        losses = torch.stack([part.detach() for part in parts.values()])
        self._average(self.model.parameters(), self.model, losses)
        nn.utils.clip_grad_norm_(self.model.parameters(), o.clip)
        self.optimiser.step()
        self.average.update_parameters(self.model)
        return dict(zip(parts, losses, strict=True))

    def export_model(self) -> YOLOX:
        """The averaged weights, batch norm folded, on the CPU."""
        model = self.average.module
        assert isinstance(model, YOLOX)
        # Copies: the training goes on with its own.
        return (fold_batch_norm(model) if model.config.norm else deepcopy(model)).cpu().eval()


def train(job: TrainJob, on_progress: Progress = no_progress) -> None:
    """Train and export.

    Writes `model.pt`, `model.onnx`, `checkpoint.pt` and `log.json` into the output folder, every
    `save_every` seconds and at the end, also where a signal ends the run early.

    Args:
        job: what to read, train and write.
        on_progress: told of images that were read and of every step.

    Raises:
        ConfigurationError: the annotations cannot be read, or an image is missing.
        ModelError: the checkpoint to go on with is of another network.
    """
    options, config = job.options, CONFIGS[job.model]
    if job.dla_ready:
        config = config.dla_ready()
    with joined(job.device, options.batch) as (device, ranks):
        on_progress = ranks.told(on_progress)
        check_step(device, options, ranks.batch(options.batch))
        prepare_folder(job.output)
        resumed = read_training(job.resume)
        labels = CocoLabels.load(job.annotations, job.images).part(ranks)
        store = ImageStore.load(
            labels.paths, side=options.side, device=device, on_progress=on_progress
        )
        masks = None
        if job.masks is not None and job.mask_labels is not None:
            config = replace(config, mask_class_names=job.mask_labels, mask_stride=job.mask_stride)
            masks = load_masks(labels.paths, job.masks, store, len(job.mask_labels))
        trainer = DetectionTrainer(
            config, labels, store, options, device=device, masks=masks, ranks=ranks
        )

        def export(log: Log) -> None:
            model = trainer.export_model()
            write_checkpoint(job.output / "model.pt", model, options, log=log)
            export_onnx(model, job.output / "model.onnx", ExportOptions(size=options.size))

        run_training(trainer, job, export, resumed=resumed, title="train", on_progress=on_progress)
