# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The average of the weights."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.training.schedule import WeightAverage


def test_weight_average_lags_behind_and_arrives() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1))
    model[0].weight.data.fill_(0.0)
    average = WeightAverage(model, 0.5)
    model[0].weight.data.fill_(1.0)
    model[1].running_mean.fill_(1.0)
    model[1].num_batches_tracked.fill_(7)
    average.update_parameters(model)
    copy = average.module
    # The first update takes nine tenths of the new weights, whatever the decay.
    assert float(copy[0].weight) == pytest.approx(0.9)
    assert float(copy[1].running_mean) == pytest.approx(0.9)
    assert int(copy[1].num_batches_tracked) == 7 and not copy.training
    for _ in range(30):
        average.update_parameters(model)
    assert float(copy[0].weight) == pytest.approx(1.0, abs=1e-3)
