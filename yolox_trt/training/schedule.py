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


class WeightAverage(AveragedModel):
    """A copy that keeps `average = d * average + (1 - d) * weights` with every update.

    `d` grows from 0.1 to `decay`. Floating-point buffers (batch-norm statistics) are averaged too,
    others are copied. The copy, its `module`, is in evaluation mode. An update reads nothing back
    from the device, so that it can be part of a captured step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, device=next(model.parameters()).device, use_buffers=True)
        self._decay = decay
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights of the model."""
        mine, theirs = ([*m.parameters(), *m.buffers()] for m in (self.module, model))
        floats = [i for i, tensor in enumerate(mine) if tensor.is_floating_point()]
        others = [i for i, tensor in enumerate(mine) if not tensor.is_floating_point()]
        decay = ((1 + self.n_averaged) / (10 + self.n_averaged)).clamp(max=self._decay)
        change = torch._foreach_sub([theirs[i] for i in floats], [mine[i] for i in floats])
        torch._foreach_mul_(change, 1 - decay)
        torch._foreach_add_([mine[i] for i in floats], change)
        if others:
            torch._foreach_copy_([mine[i] for i in others], [theirs[i] for i in others])
        self.n_averaged += 1
