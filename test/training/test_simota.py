# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Overlap, and which anchors learn which object."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.training.simota import assign, box_iou
from yolox_trt.training.yolox import anchor_grid


def test_iou_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 10, 10]])
    b = torch.tensor([[5.0, 0, 15, 10], [20, 20, 30, 30], [0, 0, 10, 10]])
    assert box_iou(a, b).tolist() == pytest.approx([50 / 150, 0, 1])


def test_simota_takes_the_best_anchors_and_gives_each_one_object() -> None:
    corners, strides = anchor_grid((64, 64))
    centres = (corners + 0.5) * strides
    gt = torch.tensor([[8.0, 8, 40, 40], [10.0, 10, 42, 42], [44, 44, 60, 60]])
    kinds = torch.tensor([0, 1, 1])
    boxes = torch.cat((centres - 12, centres + 12), 1)
    # One anchor predicts the first object exactly, with its class.
    exact = int(((centres - torch.tensor([24.0, 24.0])).abs().sum(1)).argmin())
    boxes[exact] = gt[0]
    obj = torch.full((len(boxes),), -2.0)
    cls = torch.full((len(boxes), 2), -2.0)
    obj[exact], cls[exact, 0] = 4.0, 4.0
    anchors, objects, iou = assign(boxes, obj, cls, centres, strides[:, 0], gt, kinds)
    assert len(anchors.unique()) == len(anchors)
    assert set(objects.tolist()) == {0, 1, 2}
    where = (anchors == exact).nonzero()[0, 0]
    assert int(objects[where]) == 0
    assert float(iou[where]) == pytest.approx(1.0, abs=1e-5)
