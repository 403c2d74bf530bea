# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What optimisers share: the learning rate's course, and which parameters decay."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from yolox_trt.training.options import RunOptions


def cosine_factor(progress: float, options: RunOptions) -> float:
    """Return the learning rate over its peak at a progress from 0 to 1, the warm-up left out."""
    along = (progress - options.warmup) / max(1 - options.warmup, 1e-9)
    last = options.final_ratio
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * along))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return an optimiser's groups: kernels, which decay; biases and scales, which do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
