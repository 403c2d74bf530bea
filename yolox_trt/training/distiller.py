# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Distiller: teacher, student, optimiser and data of one distillation, step by step.

The student starts as an exact rewrite of the teacher. Its activation is blended from SiLU to ReLU6
while it is held to the teacher's outputs and to the teacher's features at every block.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import options_of
from yolox_trt.training.augment import Augmenter
from yolox_trt.training.captured_step import CapturedStep
from yolox_trt.training.distill_losses import (
    FeatureLoss,
    HeldOut,
    TappedModel,
    output_loss,
    tap_names,
    teacher_score,
)
from yolox_trt.training.image_store import ImageStore
from yolox_trt.training.model_config import Separable
from yolox_trt.training.options import SILU_CONFIGS, DistillJob, DistillOptions
from yolox_trt.training.ranks import ALONE, Ranks
from yolox_trt.training.run import Trainer
from yolox_trt.training.schedule import WeightAverage, parameter_groups, set_rate
from yolox_trt.training.weights import (
    fold_batch_norm,
    insert_batch_norm,
    load_student,
    rewrite,
)
from yolox_trt.training.yolox import YOLOX, flatten_outputs

# The stem's weights act on 0..255; for the optimiser they are held as for an input of 0..4, so that
# one learning rate suits every layer. Undone before anything is saved.
INPUT_SCALE = 64.0


def check_teacher(teacher: YOLOX, form: Separable) -> None:
    """Refuse a network that cannot be distilled.

    Raises:
        ConfigurationError: it is no SiLU network of CSP blocks, or has no form like this.
    """
    config = teacher.config
    if config.name not in SILU_CONFIGS:
        raise ConfigurationError(
            f"a teacher {config.name} of {config.block} blocks with {config.activation}",
            expected=f"a SiLU network of CSP blocks: {', '.join(SILU_CONFIGS)}",
            fix=(
                "set ",
                options_of(DistillJob)["teacher_name"],
                "; the others are DLA-ready: train them with `yolox_trt train`",
            ),
        )
    if config.separable == "none" and form == "depthwise":
        declared = options_of(DistillOptions)["form"]
        raise ConfigurationError(
            (declared, f" = depthwise for {config.name}, whose 3 x 3 convolutions are full"),
            expected="full",
            fix=("leave out ", declared),
        )


class Distiller(Trainer):
    """Holds teacher, student, optimiser and data of one run.

    Args:
        resume: weights to start from (student.pt or student.onnx of a run).
        ranks: this process among those of the run.
    """

    def __init__(
        self,
        teacher: YOLOX,
        train: ImageStore,
        held_out: ImageStore | None,
        options: DistillOptions,
        *,
        device: torch.device | str = "cpu",
        resume: str | Path | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        torch.manual_seed(options.seed)
        self.options: DistillOptions = options
        self.ranks = ranks
        self.batch = ranks.batch(options.batch)
        self.device = torch.device(device)
        #: By the (height, width) of the images.
        self._captured: dict[tuple[int, int], CapturedStep] = {}
        self.cuda = self.device.type == "cuda"
        self.views = Augmenter(train, options.size, options.augment)
        singles = replace(options.augment, plain=0.5, mosaic=0.0, mixup=0.0)
        self._last_views = Augmenter(train, options.size, singles)
        # A saved student has ReLU6 alone, and goes on with it.
        self._blend_until = options.blend_until if resume is None else 0.0

        check_teacher(teacher, options.form)
        config = replace(
            teacher.config.dla_ready(),
            activation="blend" if self._blend_until > 0 else "relu6",
            norm=False,
            separable="none" if teacher.config.separable == "none" else options.form,
        )
        student = rewrite(teacher, config)
        if resume is not None:
            named = {**options_of(DistillJob), **options_of(DistillOptions)}
            given = (named["teacher"], ", ", named["teacher_name"], " and ", named["form"])
            fix = ("give ", *given, " as when it was distilled")
            load_student(student, Path(resume), fix=fix)
        # The teacher in its own activation, but with full convolutions where the student has them:
        # the same numbers, faster on matrix units.
        answer = rewrite(teacher, replace(config, activation="silu"))
        self.half = torch.float16 if self.cuda else torch.float32
        self._layout: dict[str, Any] = {"memory_format": torch.channels_last} if self.cuda else {}
        answer = answer.to(self.device, self.half, **self._layout).eval().requires_grad_(False)
        student = student.to(self.device)
        self._scale_stem(student, INPUT_SCALE)
        student.set_blend(1.0)
        if options.batch_norm:
            student = insert_batch_norm(student, self.views.batch(self.batch) / INPUT_SCALE)
        student = student.to(self.device, **self._layout)
        self.student = student
        self.average = WeightAverage(student, options.average)
        names = tap_names(student, options.taps)
        self.tapped_teacher = TappedModel(answer, names)
        self.tapped_student = TappedModel(student, names)
        channels = [student.get_submodule(n).conv.out_channels for n in names]
        self.feature_loss = FeatureLoss(channels).to(self.device)
        with torch.no_grad():
            views = self.views.batch(min(64, self.batch))
            features = self.teach(views)[1]
            self.feature_loss.measure(features)
            if resume is not None:
                student.eval()
                self.feature_loss.fit(self.tapped_student(views / INPUT_SCALE)[1], features)
                student.train()

        kernels, others = parameter_groups(student, options.weight_decay)
        others["params"] += self.feature_loss.parameters()
        self.parameters = [*kernels["params"], *others["params"]]
        self.optimiser = torch.optim.AdamW(
            [kernels, others],
            # A tensor, so that a captured step follows the schedule.
            lr=torch.tensor(1e-9, device=self.device) if self.cuda else options.learning_rate,
            betas=(0.9, 0.99),
            fused=self.cuda,
            capturable=self.cuda,
        )
        self._weights = torch.tensor(
            [1.0, 1.0, options.box_weight, options.feature_weight], device=self.device
        )
        self.state = {
            "student": self.student,
            "average": self.average,
            "optimiser": self.optimiser,
            "feature_loss": self.feature_loss,
        }
        self.held_out = None
        if held_out is not None:
            self.held_out = HeldOut(held_out, options.size, lambda x: self.teach(x)[0])
        self._student_losses = self._losses
        if options.compile:
            self.tapped_teacher.compile()
            self._student_losses = torch.compile(self._losses)
            self.views.compile()
            self._last_views.compile()

    @staticmethod
    @torch.no_grad()
    def _scale_stem(model: YOLOX, factor: float) -> None:
        stem = model.backbone.backbone.stem
        stem.conv.conv.weight.mul_(factor)

    @torch.no_grad()
    def teach(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The teacher's outputs (N, A, 5 + C) and tapped features."""
        x = images.to(self.half).contiguous(**self._layout)
        out: tuple[Tensor, list[Tensor]] = self.tapped_teacher(x)
        return out

    def _losses(
        self, images: Tensor, target: Tensor, features: list[Tensor], total: Tensor
    ) -> Tensor:
        """Objectness, class, box and feature loss as one vector (4,)."""
        amp = torch.autocast("cuda", torch.bfloat16) if self.cuda else nullcontext()
        x = (images / INPUT_SCALE).contiguous(**self._layout)
        with amp:
            outputs, mine = self.tapped_student(x)
        parts = output_loss(outputs, target, total)
        features_apart = parts[0].new_zeros(()) + self.feature_loss(mine, features)
        return torch.stack((*parts, features_apart))

    def _optimise(self, images: Tensor) -> Tensor:
        target, features = self.teach(images)
        # Apart from what is compiled: other processes take part.
        total = self.ranks.normaliser(teacher_score(target))
        parts = self._student_losses(images, target, features, total)
        self.optimiser.zero_grad(set_to_none=True)
        (parts * self._weights).sum().backward()
        parts = parts.detach()
        self._average(self.parameters, self.student, parts)
        nn.utils.clip_grad_norm_(self.parameters, self.options.clip, foreach=True)
        self.optimiser.step()
        self.average.update_parameters(self.student)
        return parts

    def step(self, images: Tensor) -> Tensor:
        """One optimiser step; returns the four loss parts, detached."""
        captured = self._captured.get((images.shape[2], images.shape[3]))
        return (captured or self._optimise)(images)

    def schedule(self, progress: float) -> None:
        """Set learning rate and blend for a progress in [0, 1]."""
        o = self.options
        set_rate(self.optimiser, progress, o)
        feature = o.feature_weight + progress * (o.feature_weight_end - o.feature_weight)
        self._weights[3].fill_(feature)  # an assignment would wait for the device
        if self._blend_until > 0:
            self.student.set_blend(max(0.0, 1 - progress / self._blend_until))

    def train_step(self, progress: float) -> dict[str, Tensor]:
        o = self.options
        if o.cuda_graph and not self._captured:
            for size in o.all_sizes:
                images = self.views.batch(self.batch, size)
                self._captured[size] = CapturedStep(
                    self._optimise, images, self.optimiser, self.ranks
                )
        self.schedule(progress)
        # By chance, but alike in all processes, none of which shall wait for a larger size.
        size = random.Random(progress).choice(o.all_sizes)
        views = self._last_views if progress > 1 - o.plain_share else self.views
        parts = self.step(views.batch(self.batch, size))
        return dict(zip(("objectness", "class", "box", "feature"), parts, strict=True))

    @torch.no_grad()
    def export_model(self) -> YOLOX:
        """The averaged student as it ships: ReLU6, batch norm folded, input 0..255, on the CPU."""
        source = self.average.module
        assert isinstance(source, YOLOX)
        if self.options.batch_norm:
            self._measure_batch_norm(source)
            source = fold_batch_norm(source)
        result = YOLOX(replace(source.config, activation="relu6"))
        result.load_state_dict(source.state_dict())
        self._scale_stem(result, 1 / INPUT_SCALE)
        return result.eval()

    def _measure_batch_norm(self, model: YOLOX, batches: int = 24) -> None:
        """Take the batch-norm statistics anew, over whole images without augmentation."""
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        model.set_blend(0.0)
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # a plain mean over the batches
            m.train()
        for _ in range(batches):
            model(self.views.plain(self.batch) / INPUT_SCALE)
        for m in norms:
            m.eval()

    def evaluate(self, model: YOLOX) -> dict[str, float]:
        """Output losses of an exported model on the held-out images, seen as at inference."""
        assert self.held_out is not None
        model = model.to(self.device)
        run: Callable[[Tensor], Tensor] = lambda x: flatten_outputs(model(x))  # noqa: E731
        losses = self.held_out.losses(run, self.options.box_weight)
        model.cpu()
        return losses
