# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""YOLOX's training loss on labelled boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from yolox_trt.training.ranks import ALONE, Ranks
from yolox_trt.training.simota import assign, box_iou
from yolox_trt.training.yolox import anchor_grid, decode_outputs, flatten_outputs

# Weight of the box loss (YOLOX's published setting).
BOX_WEIGHT = 5.0


def detection_loss(
    outputs: list[tuple[Tensor, Tensor, Tensor]],
    boxes: Sequence[Tensor],
    classes: Sequence[Tensor],
    size: tuple[int, int],
    *,
    use_l1: bool = False,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Box (1 - IoU^2), objectness and class losses with SimOTA, per assigned anchor.

    Args:
        outputs: raw heads of N images.
        boxes: for each image (G, 4), x1 y1 x2 y2 in input pixels.
        classes: for each image int64 (G,).
        size: input (height, width).
        use_l1: add the L1 distance of the raw box logits, for the last epochs without mosaics.
        ranks: processes that have other images of the same batch.

    Returns:
        `total`, its parts `box`, `objectness`, `class`, `l1`, and `anchors`, their number.
    """
    flat = flatten_outputs(outputs).float()
    decoded, _ = decode_outputs(flat, size)
    corners, strides = anchor_grid(size, flat.device)
    centres = (corners + 0.5) * strides
    zero = flat.sum() * 0
    box_loss, class_loss, l1_loss = zero, zero, zero
    wanted_obj = torch.zeros_like(flat[..., 4])
    count = 0
    for i, (gt, labels) in enumerate(zip(boxes, classes, strict=True)):
        anchors, objects, iou = assign(
            decoded[i].detach(),
            flat[i, :, 4].detach(),
            flat[i, :, 5:].detach(),
            centres,
            strides[:, 0],
            gt,
            labels,
        )
        if len(anchors) == 0:
            continue
        count += len(anchors)
        wanted_obj[i, anchors] = 1.0
        target = gt[objects]
        box_loss = box_loss + (1 - box_iou(decoded[i, anchors], target).square()).sum()
        wanted_cls = F.one_hot(labels[objects], flat.shape[2] - 5).float()
        class_loss = class_loss + F.binary_cross_entropy_with_logits(
            flat[i, anchors, 5:], wanted_cls * iou[:, None], reduction="sum"
        )
        if use_l1:
            s = strides[anchors]
            middle = (target[:, :2] + target[:, 2:]) / 2
            side = (target[:, 2:] - target[:, :2]).clamp(min=1e-3)
            raw = torch.cat((middle / s - corners[anchors], (side / s).log()), 1)
            l1_loss = l1_loss + (flat[i, anchors, :4] - raw).abs().sum()
    objectness = F.binary_cross_entropy_with_logits(flat[..., 4], wanted_obj, reduction="sum")
    anchors_found = flat.new_tensor(float(count))
    n = ranks.normaliser(anchors_found)
    parts = {
        "box": BOX_WEIGHT * box_loss / n,
        "objectness": objectness / n,
        "class": class_loss / n,
        "l1": l1_loss / n,
    }
    total = torch.stack(list(parts.values())).sum()
    return {"total": total, **parts, "anchors": anchors_found}
