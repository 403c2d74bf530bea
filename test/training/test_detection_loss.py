# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The loss on labelled boxes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.training.detection_loss import detection_loss
from yolox_trt.training.model_config import CONFIGS
from yolox_trt.training.yolox import YOLOX


def test_image_without_objects_has_objectness_loss_only() -> None:
    model = YOLOX(CONFIGS["yolox_nano"].dla_ready()).eval()
    none = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)]
    parts = detection_loss(model(torch.zeros(1, 3, 64, 64)), *none, (64, 64))
    assert parts["objectness"] > 0
    assert parts["box"] == parts["class"] == 0
    parts["total"].backward()
