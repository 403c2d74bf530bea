# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
r"""Train any detector of this package on images with COCO annotations.

    yolox_trt train --model yolox_s_opt --annotations instances.json \
        --images images/ --out run/

SGD with Nesterov momentum, cosine schedule, mosaics until the last epochs, SimOTA and a weight
average, after YOLOX's published recipe (arXiv 2107.08430, section 2.1).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yolox_trt.training.augment import AugmentOptions
from yolox_trt.training.checks import check_input_side, check_positive, check_share
from yolox_trt.training.coco_labels import CocoLabels
from yolox_trt.training.detection_loss import DetectionLoss
from yolox_trt.training.ema import WeightAverage
from yolox_trt.training.image_store import ImageStore
from yolox_trt.training.labelled_augment import LabelledAugmenter
from yolox_trt.training.progress import Progress
from yolox_trt.training.weights import fold_batch_norm
from yolox_trt.training.yolox import CONFIGS, STRIDES, YOLOX, ModelConfig


@dataclass(frozen=True)
class TrainOptions:
    """One training run.

    :param learning_rate: for a batch of 64; scaled with the batch.
    :param plain_share: last share of the steps, without mosaics and with the L1 box loss.
    """

    size: int = 640
    batch: int = 16
    steps: int = 10000
    learning_rate: float = 0.01
    final_ratio: float = 0.05
    warmup: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    plain_share: float = 0.05
    average: float = 0.9998
    clip: float = 35.0
    seed: int = 0
    augment: AugmentOptions = field(
        default_factory=lambda: AugmentOptions(rotate_degrees=0.0, aspect=0.1, mixup=0.0)
    )

    def __post_init__(self) -> None:
        check_input_side(self.size, STRIDES[-1])
        for name in ("batch", "steps", "learning_rate", "clip"):
            check_positive(name, getattr(self, name))
        for name in ("final_ratio", "warmup", "plain_share", "average"):
            check_share(name, getattr(self, name))


class Trainer:
    """Model, optimiser and data of one run.

    :param start: weights to start from (a state dictionary of the same configuration).
    """

    def __init__(
        self,
        config: ModelConfig,
        labels: CocoLabels,
        store: ImageStore,
        options: TrainOptions,
        *,
        device: torch.device | str = "cpu",
        start: dict[str, torch.Tensor] | None = None,
    ) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.device = torch.device(device)
        names = tuple(labels.class_names)
        self.model = YOLOX(replace(config, num_classes=len(names), class_names=names))
        if start is not None:
            self.model.load_state_dict(start)
        self.model.to(self.device).train()
        self.average = WeightAverage(self.model, options.average)
        self.views = LabelledAugmenter(store, options.size, options.augment, labels)
        self.loss = DetectionLoss()
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        self.base_rate = options.learning_rate * options.batch / 64
        self.optimiser = torch.optim.SGD(
            [
                {"params": decayed, "weight_decay": options.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.base_rate,
            momentum=options.momentum,
            nesterov=True,
        )

    def run(self) -> Iterator[dict[str, float]]:
        """Train; yields the loss parts of every step."""
        o = self.options
        for step in range(o.steps):
            progress = step / o.steps
            if progress < o.warmup:
                factor = ((step + 1) / max(1.0, o.warmup * o.steps)) ** 2
            else:
                along = (progress - o.warmup) / (1 - o.warmup)
                factor = o.final_ratio + (1 - o.final_ratio) * 0.5 * (1 + math.cos(math.pi * along))
            for group in self.optimiser.param_groups:
                group["lr"] = self.base_rate * min(1.0, factor)
            plain = progress > 1 - o.plain_share
            self.loss.use_l1 = plain
            images, boxes, classes = self.views.labelled_batch(o.batch, mosaic=not plain)
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"
            ):
                outputs = self.model(images)
            parts = self.loss(outputs, boxes, classes, (o.size, o.size))
            self.optimiser.zero_grad(set_to_none=True)
            parts["total"].backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), o.clip)
            self.optimiser.step()
            self.average.update()
            yield {"step": step + 1, **{k: v.item() for k, v in parts.items()}}

    def export_model(self) -> YOLOX:
        """The averaged weights, batch norm folded, on the CPU."""
        model = self.average.model
        assert isinstance(model, YOLOX)
        return (fold_batch_norm(model) if model.config.norm else model).cpu().eval()


HELP = {
    "size": "side of the square input in pixels",
    "batch": "images a step",
    "steps": "optimiser steps",
    "learning_rate": "for a batch of 64, scaled with the batch",
    "weight_decay": "of kernels",
    "average": "decay of the weight average",
    "seed": "of all random numbers",
}


def build_parser() -> argparse.ArgumentParser:
    """Arguments of ``python -m yolox_trt.training.train``."""
    o = TrainOptions()
    parser = argparse.ArgumentParser(
        prog="yolox_trt train", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", choices=sorted(CONFIGS), default="yolox_s_opt")
    parser.add_argument(
        "--dla-ready", action="store_true", help="ReLU6, strided stem, chained pools"
    )
    parser.add_argument("--annotations", required=True, help="COCO instances_*.json")
    parser.add_argument("--images", required=True, help="folder of its images")
    parser.add_argument("--out", required=True, help="folder for weights and log")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name in ("size", "batch", "steps", "learning_rate", "weight_decay", "average", "seed"):
        default = getattr(o, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            help=f"{HELP[name]} (default: %(default)s)",
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train; writes ``model.pt``, ``model.onnx`` and ``log.json`` into ``--out``."""
    from yolox_trt.training.export import export_onnx

    args = build_parser().parse_args(argv)
    known = {f: getattr(args, f) for f in TrainOptions.__dataclass_fields__ if hasattr(args, f)}
    options = TrainOptions(**known)
    config = CONFIGS[args.model]
    if args.dla_ready:
        config = config.dla_ready()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    labels = CocoLabels.load(args.annotations, args.images)
    store = ImageStore.load(labels.paths, side=options.size, device=args.device)
    trainer = Trainer(config, labels, store, options, device=args.device)
    log: list[dict[str, Any]] = []
    begin = time.monotonic()
    with Progress(options.steps, "training") as bar:
        for state in trainer.run():
            bar.update(state["step"], f"loss {state['total']:.3f}")
            if state["step"] % 10 == 0:
                log.append(state)
    model = trainer.export_model()
    torch.save(
        {"state": model.state_dict(), "config": asdict(model.config), "options": asdict(options)},
        out / "model.pt",
    )
    export_onnx(model, out / "model.onnx", size=(options.size, options.size))
    (out / "log.json").write_text(json.dumps(log))
    print(f"{out / 'model.onnx'} after {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
