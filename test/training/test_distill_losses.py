# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What a student is compared by."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.training.distill_losses import output_loss


def test_output_loss_is_zero_for_the_teacher_and_positive_elsewhere() -> None:
    t = torch.randn(2, 30, 85)
    t[..., 4] += 2
    assert all(float(v) == pytest.approx(0, abs=1e-5) for v in output_loss(t, t))
    assert all(float(v) > 0 for v in output_loss(t + torch.randn_like(t), t))
