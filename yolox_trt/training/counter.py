# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters and arithmetic of a PyTorch model, counted without running it on data.

Conventions, which differ between publications, are kept apart:

- `gflops`: two operations a multiply-accumulate of the convolutions, 2 H W Cin K K Cout / groups
  / 1e9 (TIER IV, "DNN inference optimisation for edge AI", 2023). The published YOLOX figures add
  one operation an output element for bias or batch norm and activation: `gflops_with_pointwise`.
- `parameters`: all trained numbers, batch norm's scale and shift included (as published).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yolox_trt.training.layers import BlendedActivation

_ACTIVATIONS = (nn.SiLU, nn.ReLU, nn.ReLU6, BlendedActivation)


@dataclass(frozen=True)
class ModelCost:
    """What one image costs.

    Attributes:
        parameters: trained numbers.
        convolution_macs: multiply-accumulates of all convolutions.
        pointwise: outputs of batch norm (two operations each), activations and biases.
    """

    parameters: int
    convolution_macs: int
    pointwise: int

    @property
    def gflops(self) -> float:
        """Convolutions alone, two operations a multiply-accumulate, in 1e9."""
        return 2 * self.convolution_macs / 1e9

    @property
    def gflops_with_pointwise(self) -> float:
        """Convolutions and the operations on single elements, in 1e9."""
        return (2 * self.convolution_macs + self.pointwise) / 1e9


def count(model: nn.Module, size: tuple[int, int]) -> ModelCost:
    """Count a model for one image of `size` (height, width) in pixels.

    Runs the model on the `meta` device: shapes alone, no arithmetic, so YOLOX-x takes no memory.
    """
    import copy

    shadow = copy.deepcopy(model).to("meta").eval()
    macs = 0
    pointwise = 0

    def convolution(module: nn.Module, _inputs: object, out: Tensor) -> None:
        nonlocal macs, pointwise
        assert isinstance(module, nn.Conv2d)
        macs += out.numel() * module.weight[0].numel()
        if module.bias is not None:
            pointwise += out.numel()

    def elementwise(factor: int):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, _inputs: object, out: Tensor) -> None:
            nonlocal pointwise
            pointwise += factor * out.numel()

        return hook

    for module in shadow.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(convolution)
        elif isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(elementwise(2))
        elif isinstance(module, _ACTIVATIONS):
            module.register_forward_hook(elementwise(1))
    with torch.no_grad():
        shadow(torch.zeros(1, 3, *size, device="meta"))
    return ModelCost(sum(p.numel() for p in model.parameters()), macs, pointwise)
