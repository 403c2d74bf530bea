# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Distiller: teacher, student, optimiser and data of one distillation, step by step.

The student starts as an exact rewrite of the teacher. Its activation is blended from SiLU to ReLU6
while it is held to the teacher's outputs and to the teacher's features at every block.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import options_of
from yolox_trt.training.augment import Augmenter
from yolox_trt.training.checkpoint import load_state, read_checkpoint
from yolox_trt.training.distill_losses import FeatureLoss, TappedModel, output_loss, tap_names
from yolox_trt.training.image_store import ImageStore
from yolox_trt.training.model_config import Separable
from yolox_trt.training.options import SILU_CONFIGS, DistillJob, DistillOptions
from yolox_trt.training.schedule import cosine_factor, parameter_groups, weight_average
from yolox_trt.training.weights import fold_batch_norm, insert_batch_norm, rewrite
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


class Distiller:
    """Holds teacher, student, optimiser and data of one run.

    Args:
        resume: a saved student to start from (student.pt of a run).
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
    ) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.device = torch.device(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self.cuda = self.device.type == "cuda"
        self.held_out = held_out
        self.views = Augmenter(train, options.side, options.augment)

        check_teacher(teacher, options.form)
        config = replace(
            teacher.config.dla_ready(),
            activation="blend",
            norm=False,
            separable="none" if teacher.config.separable == "none" else options.form,
        )
        student = rewrite(teacher, config)
        if resume is not None:
            named = {**options_of(DistillJob), **options_of(DistillOptions)}
            given = (named["teacher"], ", ", named["teacher_name"], " and ", named["form"])
            fix = ("give ", *given, " as when it was distilled")
            load_state(student, read_checkpoint(resume)[1], source=resume, fix=fix)
        # The teacher in its own activation, but with full convolutions where the student has them:
        # the same numbers, faster on matrix units.
        answer = rewrite(teacher, replace(config, activation="silu"))
        self.half = torch.float16 if self.cuda else torch.float32
        self._layout: dict[str, Any] = {"memory_format": torch.channels_last} if self.cuda else {}
        answer = answer.to(self.device, self.half, **self._layout).eval().requires_grad_(False)
        student = student.to(self.device)
        self._scale_stem(student, INPUT_SCALE)
        # A saved student has ReLU6 alone, and goes on with it.
        self._blend_until = options.blend_until if resume is None else 0.0
        student.set_blend(1.0 if self._blend_until > 0 else 0.0)
        if options.batch_norm:
            student = insert_batch_norm(student, self.views.batch(options.batch) / INPUT_SCALE)
        student = student.to(self.device, **self._layout)
        self.student = student
        self.average = weight_average(student, options.average)
        names = tap_names(student, options.taps)
        self.tapped_teacher = TappedModel(answer, names)
        self.tapped_student = TappedModel(student, names)
        channels = [student.get_submodule(n).conv.out_channels for n in names]
        self.feature_loss = FeatureLoss(channels).to(self.device)
        with torch.no_grad():
            self.feature_loss.measure(self.teach(self.views.batch(min(64, options.batch)))[1])

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
        self._held_out_views = self._view_held_out()
        self._student_losses = self._losses
        if options.compile:
            self.tapped_teacher.compile()
            self._student_losses = torch.compile(self._losses)

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

    def _losses(self, images: Tensor, target: Tensor, features: list[Tensor]) -> Tensor:
        """Objectness, class, box and feature loss as one vector (4,)."""
        amp = torch.autocast("cuda", torch.bfloat16) if self.cuda else nullcontext()
        x = (images / INPUT_SCALE).contiguous(**self._layout)
        with amp:
            outputs, mine = self.tapped_student(x)
        parts = output_loss(outputs, target)
        features_apart = parts[0].new_zeros(()) + self.feature_loss(mine, features)
        return torch.stack((*parts, features_apart))

    def _optimise(self, images: Tensor) -> Tensor:
        target, features = self.teach(images)
        parts = self._student_losses(images, target, features)
        self.optimiser.zero_grad(set_to_none=True)
        (parts * self._weights).sum().backward()
        nn.utils.clip_grad_norm_(self.parameters, self.options.clip, foreach=True)
        self.optimiser.step()
        return parts.detach()

    def capture(self) -> None:
        """Record one whole step as a CUDA graph: a thousand small kernels, one launch.

        The warm-up steps run at a learning rate of zero.
        """
        images = self.views.batch(self.options.batch)
        for group in self.optimiser.param_groups:
            group["lr"].fill_(0.0)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._optimise(images)
        torch.cuda.current_stream().wait_stream(side)
        self.optimiser.zero_grad(set_to_none=True)
        self._graph_images = images.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            self._graph_parts = self._optimise(self._graph_images)
        self._graph = graph

    def step(self, images: Tensor) -> Tensor:
        """One optimiser step; returns the four loss parts, detached."""
        if self._graph is None:
            parts = self._optimise(images)
        else:
            self._graph_images.copy_(images)
            self._graph.replay()
            parts = self._graph_parts
        self.average.update_parameters(self.student)
        return parts

    def schedule(self, progress: float) -> None:
        """Set learning rate and blend for a progress in [0, 1]."""
        o = self.options
        factor = cosine_factor(progress, o)
        if progress < o.warmup:
            factor = max(progress / o.warmup, 0.01)
        for group in self.optimiser.param_groups:
            if self.cuda:
                group["lr"].fill_(o.learning_rate * factor)
            else:
                group["lr"] = o.learning_rate * factor
        self._weights[3] = o.feature_weight + progress * (o.feature_weight_end - o.feature_weight)
        self.student.set_blend(
            max(0.0, 1 - progress / self._blend_until) if self._blend_until > 0 else 0.0
        )

    def run(self) -> Iterator[dict[str, float]]:
        """Train; yield the state of the run about once a second."""
        o = self.options
        if o.cuda_graph and self._graph is None:
            self.capture()
        start = last = time.monotonic()
        step = since = 0
        sums = torch.zeros(4, device=self.device)
        while True:
            elapsed = time.monotonic() - start
            progress = step / o.steps if o.steps else elapsed / o.seconds
            if progress >= 1:
                break
            self.schedule(progress)
            sums += self.step(self.views.batch(o.batch))
            step += 1
            since += 1
            # One look a second keeps the queue of the GPU filled in between.
            if time.monotonic() - last > 1.0 or step == o.steps:
                values = (sums / since).tolist()
                sums.zero_()
                now = time.monotonic()
                yield {
                    "step": step,
                    "progress": min(1.0, progress),
                    "seconds": now - start,
                    "images_per_second": o.batch * since / (now - last),
                    "objectness": values[0],
                    "class": values[1],
                    "box": values[2],
                    "feature": values[3],
                }
                last, since = now, 0

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
            model(self.views.plain(self.options.batch) / INPUT_SCALE)
        for m in norms:
            m.eval()

    def _view_held_out(self) -> list[tuple[Tensor, Tensor]]:
        """Held-out images as at inference, with the teacher's outputs."""
        views: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(self.held_out) if self.held_out else 0, 60):
            assert self.held_out is not None
            canvas = self.held_out.canvas[start : start + 60].float()
            # The canvas holds the whole image at the top left, so shrinking it is the letterbox for
            # images as long as the canvas.
            x = F.interpolate(canvas, self.options.size, mode="bilinear", antialias=True)
            views.append((x, self.teach(x)[0].float()))
        return views

    @torch.no_grad()
    def evaluate(self, model: YOLOX) -> dict[str, float]:
        """Output losses of an exported model on the held-out images, seen as at inference."""
        model = model.to(self.device)
        o = self.options
        totals = torch.zeros(3, device=self.device)
        for x, target in self._held_out_views:
            totals += torch.stack(output_loss(flatten_outputs(model(x)), target))
        model.cpu()
        obj, cls, box = (totals / len(self._held_out_views)).tolist()
        return {"objectness": obj, "class": cls, "box": box, "sum": obj + cls + o.box_weight * box}
