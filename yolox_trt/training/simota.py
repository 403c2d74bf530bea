# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""SimOTA: which anchors learn which object.

Z. Ge et al., "YOLOX: Exceeding YOLO Series in 2021" (arXiv 2107.08430), section 2.1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Half the side of the centre region, in strides; candidates lie in a box or in its centre region.
CENTRE_RADIUS = 2.5
IOU_WEIGHT = 3.0
TOP_CANDIDATES = 10
# Makes anchors outside the box or its centre region a last resort.
OUTSIDE_COST = 1e5


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Overlap of boxes (..., 4), x1 y1 x2 y2, whose leading dimensions are broadcast."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (a, b))
    return inter / (area_a + area_b - inter).clamp(min=1e-9)


@torch.no_grad()
def assign(
    boxes: Tensor,
    obj: Tensor,
    cls: Tensor,
    centres: Tensor,
    strides: Tensor,
    gt_boxes: Tensor,
    gt_classes: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Assign anchors to the objects of one image.

    Args:
        boxes: predicted boxes (A, 4), x1 y1 x2 y2 in input pixels.
        obj: objectness logits (A,).
        cls: class logits (A, C).
        centres: anchor centres (A, 2) in input pixels.
        strides: (A,) in pixels.
        gt_boxes: objects (G, 4), x1 y1 x2 y2 in input pixels.
        gt_classes: int64 (G,).

    Returns:
        anchors that learn an object, int64 (F,); the object of each, int64 (F,); the present
        overlap of their boxes with it, float (F,).
    """
    if len(gt_boxes) == 0:
        none = torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return none, none, boxes.new_zeros(0)
    x, y = centres[:, 0][None], centres[:, 1][None]
    in_box = (
        (x > gt_boxes[:, :1])
        & (x < gt_boxes[:, 2:3])
        & (y > gt_boxes[:, 1:2])
        & (y < gt_boxes[:, 3:])
    )
    middle = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2
    reach = CENTRE_RADIUS * strides[None]
    in_centre = ((x - middle[:, :1]).abs() < reach) & ((y - middle[:, 1:]).abs() < reach)
    candidates = (in_box | in_centre).any(0).nonzero()[:, 0]
    both = (in_box & in_centre)[:, candidates]

    iou = box_iou(gt_boxes[:, None], boxes[candidates])
    # Joint probability; the square root keeps its scale that of one factor.
    joint = (cls[candidates].float().sigmoid() * obj[candidates, None].float().sigmoid()).sqrt()
    wanted = F.one_hot(gt_classes, cls.shape[1]).float()
    p = joint.clamp(1e-7, 1 - 1e-7)
    # BCE of (G, N, C) summed over classes, without building it.
    class_cost = -(wanted @ p.log().T) - ((1 - wanted) @ (1 - p).log().T)
    cost = class_cost - IOU_WEIGHT * (iou + 1e-8).log() + OUTSIDE_COST * (~both)

    top = iou.topk(min(TOP_CANDIDATES, iou.shape[1]), 1).values.sum(1).int().clamp(min=1)
    matching = torch.zeros_like(cost, dtype=torch.bool)
    for g, k in enumerate(top.tolist()):
        matching[g, cost[g].topk(min(k, cost.shape[1]), largest=False).indices] = True
    contested = matching.sum(0) > 1
    if contested.any():
        best = cost[:, contested].argmin(0)
        matching[:, contested] = False
        matching[best, contested.nonzero()[:, 0]] = True
    objects, local = matching.nonzero(as_tuple=True)
    return candidates[local], objects, iou[objects, local]
