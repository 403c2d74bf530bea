# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A teacher that looks twice: its answers at twice the size, brought to the student's grid.

A detector that was trained at one size finds more small objects in an enlarged picture, and fewer
large ones. Enlarging adds no information, so what the teacher finds there a student can learn from
the picture as it is. What it is worth: docs/decisions/shipped-model.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from yolox_trt.training.model_config import STRIDES
from yolox_trt.training.yolox import flatten_outputs

Levels = list[tuple[Tensor, Tensor, Tensor]]


def teacher_scores(flat: Tensor) -> Tensor:
    """Return (N, A) objectness x the surest class of raw outputs (N, A, 5 + C), in float32."""
    return flat[..., 4].float().sigmoid() * flat[..., 5:].float().sigmoid().amax(-1)


def on_half_the_grid(level: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Bring a level's (reg, obj, cls) logits of a picture of twice the size to the picture's grid.

    Args:
        level: (N, 4 | 1 | C, 2 h, 2 w), boxes in cells of the enlarged picture.

    Returns:
        (N, 4 | 1 | C, h, w): of each 2 x 2 cells the one with the largest objectness, with the same
        box in cells of the picture itself.
    """
    reg, obj, cls = level
    rows, columns = (torch.arange(side, device=reg.device) for side in reg.shape[2:])
    # A cell's corner is at i in the enlarged grid, and its block's at i // 2 in the other: a centre
    # x + i becomes (x + i) / 2, which lies i % 2 / 2 behind the block's corner.
    behind = torch.stack(
        ((columns % 2).expand(*reg.shape[2:]), (rows % 2)[:, None].expand(*reg.shape[2:]))
    )
    centres = (reg[:, :2] + behind) / 2
    sizes = reg[:, 2:] - math.log(2)
    cells = F.pixel_unshuffle(torch.cat((obj, centres, sizes, cls), 1), 2).unflatten(1, (-1, 4))
    best = cells[:, 0].argmax(1, keepdim=True)[:, None]
    obj, reg, cls = (
        cells.gather(2, best.expand(-1, cells.shape[1], -1, -1, -1))[:, :, 0]
        .split((1, 4, cls.shape[1]), 1)
    )  # fmt: skip
    return reg, obj, cls


def surer_answers(outputs: Tensor, images: Tensor, model: Callable[[Tensor], Levels]) -> Tensor:
    """Return outputs where each cell has the surer of a teacher's two answers.

    The last level, whose objects fill the picture, has the first answer alone.

    Args:
        outputs: the teacher's raw outputs (N, A, 5 + C) for the images.
        images: (N, 3, H, W).
        model: gives the teacher's raw levels.
    """
    enlarged = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
    levels = model(enlarged)[: len(STRIDES) - 1]
    fine = flatten_outputs([on_half_the_grid(level) for level in levels])
    coarse, last = outputs.split((fine.shape[1], outputs.shape[1] - fine.shape[1]), 1)
    surer = teacher_scores(fine) > teacher_scores(coarse)
    return torch.cat((torch.where(surer[..., None], fine, coarse), last), 1)
