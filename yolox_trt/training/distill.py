# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Distil a SiLU YOLOX into its DLA-ready ReLU6 form, on photographs without labels.

The student starts as an exact rewrite of the teacher. Its activation is blended from SiLU to ReLU6
while it is held to the teacher's outputs and to the teacher's features at every block.

    yolox_trt distill --teacher yolox_nano.onnx --images photos/ --out run/
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.training.augment import Augmenter, AugmentOptions
from yolox_trt.training.checkpoint import load_state, read_checkpoint
from yolox_trt.training.checks import (
    check_input_side,
    check_option,
    check_positive,
    check_share,
)
from yolox_trt.training.ema import WeightAverage
from yolox_trt.training.image_store import ImageStore, list_images
from yolox_trt.training.layers import ConvAct, Separable
from yolox_trt.training.progress import Progress
from yolox_trt.training.weights import fold_batch_norm, insert_batch_norm, load_teacher, rewrite
from yolox_trt.training.yolox import CONFIGS, STRIDES, YOLOX, flatten_outputs

# The stem's weights act on 0..255; for the optimiser they are held as for an input of 0..4, so that
# one learning rate suits every layer. Undone before anything is saved.
INPUT_SCALE = 64.0


@dataclass(frozen=True)
class DistillOptions:
    """One training run.

    :param form: ``full`` or ``depthwise`` 3 x 3 convolutions in the student of a teacher with
        depthwise ones; other students have full ones, as their teachers.
    :param steps: number of optimiser steps, or 0 to train for ``seconds``.
    :param seconds: wall-clock time of the training loop when ``steps`` is 0.
    :param batch_norm: put batch norm back after every convolution for training.
    :param blend_until: share of the run after which the activation is ReLU6 alone.
    :param feature_weight: weight of the feature loss at the start; it moves to
        ``feature_weight_end``.
    :param average: decay of the weight average, which is what is saved.
    :param compile: use torch.compile (a minute or two before the first step).
    :param cuda_graph: record a whole step as a CUDA graph.
    :param canvas: side in pixels at which images are kept; longer ones are shrunk to it.
    :param taps: ``blocks``, ``all`` or ``none``: where features are compared with the teacher's.
    """

    form: Separable = "full"
    size: int = 416
    batch: int = 64
    steps: int = 0
    seconds: float = 600.0
    learning_rate: float = 2e-3
    final_ratio: float = 0.01
    warmup: float = 0.01
    weight_decay: float = 0.02
    clip: float = 10.0
    batch_norm: bool = True
    blend_until: float = 0.4
    taps: str = "blocks"
    feature_weight: float = 0.5
    feature_weight_end: float = 0.1
    box_weight: float = 3.0
    average: float = 0.9995
    seed: int = 0
    compile: bool = False
    cuda_graph: bool = False
    canvas: int = 448
    augment: AugmentOptions = field(default_factory=AugmentOptions)

    def __post_init__(self) -> None:
        check_input_side(self.size, STRIDES[-1])
        for name in ("batch", "canvas", "learning_rate", "clip"):
            check_positive(name, getattr(self, name))
        for name in ("final_ratio", "warmup", "blend_until", "average"):
            check_share(name, getattr(self, name))
        check_option(self.steps >= 0, "steps", self.steps, "a whole number, 0 for --seconds")
        if not self.steps:
            check_positive("seconds", self.seconds)
        shares = self.augment.plain + self.augment.mosaic
        if shares > 1.0:
            raise ConfigurationError(
                f"--plain {self.augment.plain} and --mosaic {self.augment.mosaic}",
                expected="two shares of one batch, together at most 1",
                fix="lower --plain or --mosaic",
            )


def check_teacher(teacher: YOLOX, form: Separable) -> None:
    """Refuse a network that cannot be distilled.

    :raises ConfigurationError: it is no SiLU network of CSP blocks, or has no form like this.
    """
    config = teacher.config
    if config.block != "csp" or config.activation != "silu":
        silu = [c.name for c in CONFIGS.values() if c.block == "csp" and c.activation == "silu"]
        raise ConfigurationError(
            f"a teacher {config.name} of {config.block} blocks with {config.activation}",
            expected=f"a SiLU network of CSP blocks: {', '.join(silu)}",
            fix="set --teacher-name; the others are DLA-ready: train them with `yolox_trt train`",
        )
    if config.separable == "none" and form == "depthwise":
        raise ConfigurationError(
            f"--form depthwise for {config.name}, whose 3 x 3 convolutions are full",
            expected="--form full",
            fix="leave out --form",
        )


def tap_names(model: YOLOX, which: str) -> list[str]:
    """Names of the convolutions whose results are compared, in order of the modules."""
    if which == "none":
        return []
    names = [n for n, m in model.named_modules() if isinstance(m, ConvAct)]
    if which == "all":
        return names
    ends = ("conv3", "dark5.1.conv2", "lateral_conv0", "reduce_conv1")
    return [
        n
        for n in names
        if n.endswith(ends)
        or (n.startswith(("head.", "backbone.bu_conv")) and not n.endswith("dconv"))
    ]


class TappedModel(nn.Module):
    """A detector that also returns what its tapped convolutions give before the activation."""

    def __init__(self, model: YOLOX, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = list(names)
        self._seen: dict[str, Tensor] = {}
        for name in self.names:
            module = model.get_submodule(name)
            assert isinstance(module, ConvAct)
            module.bn.register_forward_hook(self._keep(name))

    def _keep(self, name: str):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, _inputs: object, out: Tensor) -> None:
            self._seen[name] = out

        return hook

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        outputs = flatten_outputs(self.model(images))
        return outputs, [self._seen[n] for n in self.names]


class OutputLoss(nn.Module):
    """Distance of raw outputs (N, A, 5 + C) from the teacher's, in three parts.

    Objectness: binary cross-entropy with the teacher's probability, over all anchors. Class: the
    same per class; box: smooth L1 of the four logits; both weighted by the teacher's score where it
    is over ``floor``. All divided by the sum of these scores; the teacher's own entropy is
    taken off,
    so a perfect student has zero.
    """

    def __init__(self, floor: float = 0.02) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s, t = student.float(), teacher.float()
        p_obj, p_cls = t[..., 4].sigmoid(), t[..., 5:].sigmoid()
        score = p_obj * p_cls.amax(-1)
        weight = score * (score > self.floor)
        total = weight.sum().clamp(min=1.0)
        bce = F.binary_cross_entropy_with_logits

        def excess(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
            return bce(a, p, reduction="none") - bce(b, p, reduction="none")

        objectness = excess(s[..., 4], t[..., 4], p_obj).sum() / total
        classes = (excess(s[..., 5:], t[..., 5:], p_cls).sum(-1) * weight).sum() / total
        box = F.smooth_l1_loss(s[..., :4], t[..., :4], reduction="none", beta=0.2).sum(-1)
        return objectness, classes, (box * weight).sum() / total


class FeatureLoss(nn.Module):
    """Squared distance of the tapped features, each channel relative to the teacher's variance.

    Compared after a SiLU, which flattens values that the next layer hardly sees; the
    student's get a
    learned scale and shift per channel first, because its next layer could undo those.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.scale = nn.ParameterList(nn.Parameter(torch.ones(c, 1, 1)) for c in channels)
        self.shift = nn.ParameterList(nn.Parameter(torch.zeros(c, 1, 1)) for c in channels)
        for i, c in enumerate(channels):
            self.register_buffer(f"inverse_{i}", torch.ones(c))

    @torch.no_grad()
    def measure(self, teacher: Sequence[Tensor]) -> None:
        """Set the variances from the teacher's features over some images."""
        for i, t in enumerate(teacher):
            var = F.silu(t.float()).var((0, 2, 3))
            floor = 0.05 * var.mean()
            getattr(self, f"inverse_{i}").copy_(1 / var.clamp(min=floor))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor | float:
        total: Tensor | float = student[0].new_zeros((), dtype=torch.float32) if student else 0.0
        for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
            mapped = F.silu(s.float() * self.scale[i] + self.shift[i])
            error = (mapped - F.silu(t.float())).square().mean((0, 2, 3))
            total = total + (error * getattr(self, f"inverse_{i}")).mean()
        return total


class Distiller:
    """Holds teacher, student, optimiser and data of one run.

    :param resume: a saved student to start from (a file written by :meth:`save`).
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
        self.cuda = self.device.type == "cuda"
        self.train_set = train
        self.held_out = held_out
        self.views = Augmenter(train, options.size, options.augment)

        check_teacher(teacher, options.form)
        config = replace(
            teacher.config.dla_ready(),
            activation="blend",
            norm=False,
            separable="none" if teacher.config.separable == "none" else options.form,
        )
        student = rewrite(teacher, config)
        if resume is not None:
            load_state(
                student,
                read_checkpoint(resume)[1],
                source=resume,
                fix="give the --teacher, --teacher-name and --form that it was distilled with",
            )
        # The teacher in its own activation, but with full convolutions where the student has them:
        # the same numbers, faster on matrix units.
        answer = rewrite(teacher, replace(config, activation="silu"))
        self.half = torch.float16 if self.cuda else torch.float32
        answer = answer.to(self.device, self.half).eval().requires_grad_(False)
        student = student.to(self.device)
        self._scale_stem(student, INPUT_SCALE)
        # A saved student has ReLU6 alone, and goes on with it.
        self._blend_until = options.blend_until if resume is None else 0.0
        student.set_blend(1.0 if self._blend_until > 0 else 0.0)
        if options.batch_norm:
            student = insert_batch_norm(student, self.views.batch(options.batch) / INPUT_SCALE)
        if self.cuda:
            answer = answer.to(memory_format=torch.channels_last)
            student = student.to(memory_format=torch.channels_last)

        self.student = student
        self.average = WeightAverage(student, options.average)
        names = tap_names(student, options.taps)
        self.tapped_teacher = TappedModel(answer, names)
        self.tapped_student = TappedModel(student, names)
        channels = [student.get_submodule(n).conv.out_channels for n in names]
        self.output_loss = OutputLoss()
        self.feature_loss = FeatureLoss(channels).to(self.device)
        with torch.no_grad():
            self.feature_loss.measure(self.teach(self.views.batch(min(64, options.batch)))[1])

        kernels = [p for p in student.parameters() if p.ndim > 1]
        others = [p for p in student.parameters() if p.ndim <= 1]
        self.parameters = [*kernels, *others, *self.feature_loss.parameters()]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": kernels, "weight_decay": options.weight_decay},
                {"params": [*others, *self.feature_loss.parameters()], "weight_decay": 0.0},
            ],
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
        x = images.to(self.half)
        if self.cuda:
            x = x.contiguous(memory_format=torch.channels_last)
        out: tuple[Tensor, list[Tensor]] = self.tapped_teacher(x)
        return out

    def _losses(self, images: Tensor, target: Tensor, features: list[Tensor]) -> Tensor:
        """Objectness, class, box and feature loss as one vector (4,)."""
        amp = torch.autocast("cuda", torch.bfloat16) if self.cuda else nullcontext()
        x = images / INPUT_SCALE
        if self.cuda:
            x = x.contiguous(memory_format=torch.channels_last)
        with amp:
            outputs, mine = self.tapped_student(x)
        parts = self.output_loss(outputs, target)
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

    _graph: torch.cuda.CUDAGraph | None = None

    def step(self, images: Tensor) -> Tensor:
        """One optimiser step; returns the four loss parts, detached."""
        if self._graph is None:
            parts = self._optimise(images)
        else:
            self._graph_images.copy_(images)
            self._graph.replay()
            parts = self._graph_parts
        self.average.update()
        return parts

    def schedule(self, progress: float) -> None:
        """Set learning rate and blend for a progress in [0, 1]."""
        o = self.options
        if progress < o.warmup:
            factor = max(progress / o.warmup, 0.01)
        else:
            along = (progress - o.warmup) / (1 - o.warmup)
            factor = o.final_ratio + (1 - o.final_ratio) * 0.5 * (1 + math.cos(math.pi * along))
        for group in self.optimiser.param_groups:
            if self.cuda:
                group["lr"].fill_(o.learning_rate * factor)
            else:
                group["lr"] = o.learning_rate * factor
        self._weights[3] = o.feature_weight + progress * (o.feature_weight_end - o.feature_weight)
        blend = max(0.0, 1 - progress / self._blend_until) if self._blend_until > 0 else 0.0
        if float(self._blend) != blend:
            self._blend = blend
            self.student.set_blend(blend)

    _blend = -1.0

    def run(self) -> Iterator[dict[str, float]]:
        """Train; yields the state of the run about once a second."""
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
    def export_model(self, *, averaged: bool = True) -> YOLOX:
        """The student as it ships: ReLU6 alone, batch norm folded, input 0..255, on the CPU."""
        source = self.average.model if averaged else self.student
        assert isinstance(source, YOLOX)
        if self.options.batch_norm:
            self._measure_batch_norm(source)
            folded = fold_batch_norm(source)
        else:
            folded = YOLOX(source.config)
            folded.load_state_dict({k: v.cpu() for k, v in source.state_dict().items()})
        result = YOLOX(replace(folded.config, activation="relu6"))
        result.load_state_dict(folded.state_dict())
        self._scale_stem(result, 1 / INPUT_SCALE)
        return result.float().eval()

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
        size = (self.options.size, self.options.size)
        for start in range(0, len(self.held_out) if self.held_out else 0, 60):
            assert self.held_out is not None
            canvas = self.held_out.canvas[start : start + 60].float()
            # The canvas holds the whole image at the top left, so shrinking it is the letterbox for
            # images as long as the canvas.
            x = F.interpolate(canvas, size, mode="bilinear", antialias=True)
            views.append((x, self.teach(x)[0].float()))
        return views

    @torch.no_grad()
    def evaluate(self, model: YOLOX) -> dict[str, float]:
        """Output losses of an exported model on the held-out images, seen as at inference."""
        model = model.to(self.device)
        o = self.options
        totals = torch.zeros(3, device=self.device)
        for x, target in self._held_out_views:
            totals += torch.stack(self.output_loss(flatten_outputs(model(x)), target))
        model.cpu()
        obj, cls, box = (totals / len(self._held_out_views)).tolist()
        return {"objectness": obj, "class": cls, "box": box, "sum": obj + cls + o.box_weight * box}

    def save(self, path: str | Path, model: YOLOX, log: list[dict[str, Any]]) -> None:
        """Write weights (kernels as float16), configuration, options and the log."""
        torch.save(
            {
                # Kernels as the exported file holds them, biases in full.
                "state": {k: v.half() if v.ndim > 1 else v for k, v in model.state_dict().items()},
                "config": asdict(model.config),
                "options": asdict(self.options),
                "log": log,
            },
            path,
        )


HELP = {
    "size": "side of the square input in pixels",
    "batch": "images a step",
    "steps": "optimiser steps (distill: 0 trains for --seconds)",
    "seconds": "wall-clock time of the training loop",
    "learning_rate": "peak learning rate",
    "final_ratio": "last learning rate over the peak",
    "weight_decay": "of kernels",
    "clip": "largest gradient norm",
    "blend_until": "share of the run after which the activation is ReLU6 alone",
    "feature_weight": "of the feature loss at the start",
    "feature_weight_end": "and at the end",
    "box_weight": "of the box loss",
    "average": "decay of the weight average",
    "seed": "of all random numbers",
    "canvas": "side at which images are kept in memory",
    "warmup": "share of the run in which the learning rate rises",
    "plain": "share of whole images",
    "mosaic": "share of 2 x 2 mosaics",
    "mixup": "share of blended views",
    "colour": "strength of colour changes",
    "rotate_degrees": "largest rotation",
}


def build_parser() -> argparse.ArgumentParser:
    """Arguments of ``python -m yolox_trt.training.distill``."""
    o = DistillOptions()
    parser = argparse.ArgumentParser(
        prog="yolox_trt distill", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--teacher", required=True, help="exported YOLOX ONNX (SiLU)")
    parser.add_argument("--teacher-name", default="yolox_nano", help="its configuration")
    parser.add_argument("--images", nargs="+", required=True, help="folders with photographs")
    parser.add_argument("--held-out", nargs="*", default=[], help="folders never trained on")
    parser.add_argument("--out", required=True, help="folder for weights and log")
    parser.add_argument("--resume", help="start from this student")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--form",
        choices=("full", "depthwise"),
        default=o.form,
        help="3 x 3 convolutions of the student of a depthwise teacher (default: %(default)s)",
    )
    parser.add_argument("--taps", choices=("blocks", "all", "none"), default=o.taps)
    parser.add_argument("--batch-norm", action=argparse.BooleanOptionalAction, default=o.batch_norm)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cuda-graph", action="store_true")
    for name in (
        "size",
        "batch",
        "steps",
        "seconds",
        "learning_rate",
        "final_ratio",
        "weight_decay",
        "clip",
        "blend_until",
        "feature_weight",
        "feature_weight_end",
        "box_weight",
        "average",
        "seed",
        "canvas",
        "warmup",
    ):
        default = getattr(o, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            help=f"{HELP[name]} (default: %(default)s)",
        )
    for name in ("plain", "mosaic", "mixup", "colour", "rotate_degrees"):
        default = getattr(o.augment, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            default=default,
            help=f"{HELP[name]} (default: %(default)s)",
        )
    parser.add_argument(
        "--save-every", type=float, default=120.0, help="seconds between checkpoints"
    )
    parser.add_argument(
        "--equalise-images", type=int, default=96, help="images for channel ranges, 0 for none"
    )
    parser.add_argument("--limit", type=int, default=0, help="use only so many images")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Distil, equalise and export; writes ``student.pt``, ``student.onnx`` and ``log.json``."""
    from yolox_trt.training.equalise import equalise
    from yolox_trt.training.export import export_onnx

    args = build_parser().parse_args(argv)
    augment = AugmentOptions(
        plain=args.plain,
        mosaic=args.mosaic,
        mixup=args.mixup,
        colour=args.colour,
        rotate_degrees=args.rotate_degrees,
    )
    known = {f: getattr(args, f) for f in DistillOptions.__dataclass_fields__ if hasattr(args, f)}
    options = DistillOptions(**{**known, "augment": augment})
    for name in ("limit", "equalise_images"):
        value = getattr(args, name)
        check_option(value >= 0, name, value, "a whole number of at least 0")
    # Before the images, which take longer to read.
    teacher = load_teacher(args.teacher, args.teacher_name)
    check_teacher(teacher, options.form)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if str(args.device).startswith("cuda"):
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    begin = time.monotonic()
    paths = list_images(args.images)
    if args.limit:
        paths = paths[: args.limit]
    train = ImageStore.load(paths, side=options.canvas, device=args.device)
    held = None
    if args.held_out:
        held = ImageStore.load(list_images(args.held_out), side=options.canvas, device=args.device)
    print(f"{len(train)} images decoded in {time.monotonic() - begin:.1f} s", flush=True)
    distiller = Distiller(
        teacher,
        train,
        held,
        options,
        device=args.device,
        resume=args.resume,
    )
    log: list[dict[str, Any]] = []
    saved = time.monotonic()

    def checkpoint() -> YOLOX:
        model = distiller.export_model()
        views = [
            distiller.views.plain(min(32, args.equalise_images - first)).cpu()
            for first in range(0, args.equalise_images, 32)
        ]
        if views:
            equalise(model, views)
        if held is not None:
            log.append({"held_out": distiller.evaluate(model)})
            print("held out", json.dumps(log[-1]["held_out"]), flush=True)
        distiller.save(out / "student.pt.part", model, log)
        (out / "student.pt.part").replace(out / "student.pt")
        (out / "log.json").write_text(json.dumps(log))
        return model

    with Progress(1.0, "distilling") as bar:
        for state in distiller.run():
            log.append(state)
            bar.update(
                state["progress"],
                f"{state['images_per_second']:.0f} images/s, objectness {state['objectness']:.3f}, "
                f"class {state['class']:.3f}, box {state['box']:.3f}, "
                f"feature {state['feature']:.2f}",
            )
            if time.monotonic() - saved > args.save_every:
                checkpoint()
                saved = time.monotonic()
    size = (options.size, options.size)
    export_onnx(checkpoint(), out / "student.onnx", size=size, half_weights=True)
    print(f"{out / 'student.onnx'} after {time.monotonic() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
