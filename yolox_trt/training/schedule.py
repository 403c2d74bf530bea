# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What optimisers share: the learning rate's course, which parameters decay, and the average."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from yolox_trt.training.options import RunOptions


def cosine_factor(progress: float, options: RunOptions) -> float:
    """Return the learning rate over its peak at a progress from 0 to 1, the warm-up left out."""
    along = (progress - options.warmup) / max(1 - options.warmup, 1e-9)
    last = options.final_ratio
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * along))


def set_rate(optimiser: torch.optim.Optimizer, progress: float, options: RunOptions) -> None:
    """Set an optimiser's learning rate for a progress from 0 to 1: warm-up, then a cosine."""
    factor = cosine_factor(progress, options)
    if progress < options.warmup:
        factor = max(progress / options.warmup, 0.01)
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):  # of a captured step, which reads it anew
            group["lr"].fill_(options.learning_rate * factor)
        else:
            group["lr"] = options.learning_rate * factor


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return an optimiser's groups: kernels, which decay; biases and scales, which do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def weight_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy that keeps `average = d * average + (1 - d) * weights` with every update.

    `d` grows from 0.1 to `decay`. Floating-point buffers (batch-norm statistics) are averaged too,
    others are copied. The copy, its `module`, is in evaluation mode.
    """

    @torch.no_grad()
    def blend(mine: list[Tensor], theirs: list[Tensor], updates: Tensor) -> None:
        d = min(decay, (1 + int(updates)) / (10 + int(updates)))
        if mine[0].is_floating_point():
            torch._foreach_lerp_(mine, theirs, 1 - d)
        else:
            torch._foreach_copy_(mine, theirs)

    average = AveragedModel(model, multi_avg_fn=blend, use_buffers=True).requires_grad_(False)
    average.update_parameters(model)  # the first one copies
    return average.eval()
