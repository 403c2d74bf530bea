# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The average of the weights."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.training.ema import WeightAverage


def test_weight_average_lags_behind_and_arrives() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = WeightAverage(model, 0.5)
    model.weight.data.fill_(1.0)
    average.update()
    first = float(average.model.weight)
    assert 0.4 < first < 1.0
    for _ in range(30):
        average.update()
    assert float(average.model.weight) == pytest.approx(1.0, abs=1e-3)
