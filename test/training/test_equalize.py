# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Equalisation leaves the function alone and fills 0..6."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.core.errors import ModelError
from yolox_trt.training.equalize import equalize, pairs
from yolox_trt.training.model_config import CONFIGS
from yolox_trt.training.weights import rewrite
from yolox_trt.training.yolox import YOLOX, flatten_outputs


@pytest.mark.parametrize("form", ["full", "depthwise"])
def test_function_is_unchanged_and_channels_are_filled(teacher: Any, form: str) -> None:
    config = replace(CONFIGS["yolox_nano"].dla_ready(), norm=False, separable=form)
    model = rewrite(teacher, config).eval()
    x = torch.rand(2, 3, 96, 96) * 255
    with torch.no_grad():
        before = flatten_outputs(model(x))
        factors = equalize(model, [x], target=4.5)
        after = flatten_outputs(model(x))
    assert (after - before).abs().max() < 2e-3
    assert max(factors.values()) > 2
    for conv in model.modules():
        if isinstance(conv, torch.nn.Conv2d) and conv.groups > 1:
            # An INT8 bias is stored in units of its channel's weight scale.
            empty = conv.weight.abs().amax((1, 2, 3)) == 0
            assert (conv.bias[empty] == 0).all()

    peaks = []
    for producer, _ in pairs(model):
        producer.register_forward_hook(lambda _m, _i, out: peaks.append(out.amax((0, 2, 3))))
    with torch.no_grad():
        model(x)
    peak = torch.cat(peaks)
    low = (peak > 0) & (peak < 4.49)
    # Only channels that would need more than the largest factor stay low.
    assert low.float().mean() < 0.05


def test_batch_norm_must_be_folded_first() -> None:
    with pytest.raises(ModelError, match="fold_batch_norm"):
        equalize(YOLOX(CONFIGS["yolox_nano"].dla_ready()), [])
