# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters and arithmetic against published figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.training.layers import watched
from yolox_trt.training.model_config import CONFIGS, ModelConfig
from yolox_trt.training.yolox import YOLOX

# YOLOX's model table: million parameters, GFLOPs with bias and activation, input side.
PUBLISHED = {
    "yolox_nano": (0.91, 1.08, 416),
    "yolox_tiny": (5.06, 6.45, 416),
    "yolox_s": (9.0, 26.8, 640),
    "yolox_m": (25.3, 73.8, 640),
    "yolox_l": (54.2, 155.6, 640),
    "yolox_x": (99.1, 281.9, 640),
}
# TIER IV (2023), eight classes, 960 x 608: GFLOPs of the convolutions, million parameters.
TIER_IV = {
    "yolox_tiny": (21.66, 5.04),
    "yolox_s": (38.07, 8.94),
    "yolox_m": (104.84, 25.28),
    "yolox_l": (221.37, 54.14),
    "yolox_x": (401.11, 98.97),
}


def network(config: ModelConfig) -> Any:
    """Make a network without its weights, which no figure here depends on."""
    with torch.device("meta"):
        return YOLOX(config)


def count(model: Any, size: tuple[int, int]) -> tuple[int, int, int]:
    """Count trained numbers, convolutions' multiply-accumulates, and operations on single numbers.

    Those are two an output of batch norm, one an output of an activation and of a bias. The model
    is run on the `meta` device: shapes alone, no arithmetic, so YOLOX-x takes no memory.
    """
    macs = pointwise = 0

    def add(module: Any, out: Any) -> None:
        nonlocal macs, pointwise
        if isinstance(module, torch.nn.Conv2d):
            macs += out.numel() * module.weight[0].numel()
            pointwise += out.numel() * (module.bias is not None)
        elif isinstance(module, torch.nn.BatchNorm2d):
            pointwise += 2 * out.numel()
        elif not list(module.children()) and "activation" in type(module).__module__:
            pointwise += out.numel()

    parameters = sum(p.numel() for p in model.parameters())
    with torch.no_grad(), watched(model.to("meta").eval().modules(), add):
        model(torch.zeros(1, 3, *size, device="meta"))
    return parameters, macs, pointwise


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_yolox_figures(name: str) -> None:
    parameters, gflops, side = PUBLISHED[name]
    found, macs, pointwise = count(network(CONFIGS[name]), (side, side))
    assert found / 1e6 == pytest.approx(parameters, rel=0.01)
    assert (2 * macs + pointwise) / 1e9 == pytest.approx(gflops, rel=0.01)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", TIER_IV)
def test_tier_iv_figures_with_eight_classes(name: str) -> None:
    gflops, parameters = TIER_IV[name]
    found, macs, _ = count(network(replace(CONFIGS[name], num_classes=8)), (608, 960))
    assert 2 * macs / 1e9 == pytest.approx(gflops, rel=0.01)
    assert found / 1e6 == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize("name", ["yolox_s_opt", "yolox_s_plus_opt"])
def test_opt_family_is_dla_ready(name: str) -> None:
    model = network(CONFIGS[name])
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    heads = {id(p) for h in ("cls", "reg", "obj") for p in getattr(model.head, f"{h}_preds")}
    assert all(m.out_channels % 32 == 0 for m in convs if id(m) not in heads)
    assert not any(isinstance(m, torch.nn.MaxPool2d | torch.nn.SiLU) for m in model.modules())


def test_one_convolution_by_hand() -> None:
    """The counting itself, which the figures above and those of docs/training.md rest on."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1, bias=True))
    assert count(model, (10, 12)) == (3 * 3 * 3 * 8 + 8, 5 * 6 * 3 * 3 * 3 * 8, 5 * 6 * 8)
