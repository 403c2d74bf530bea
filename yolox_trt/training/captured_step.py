# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CapturedStep: a whole optimiser step as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from yolox_trt.training.ranks import ALONE, Ranks


class CapturedStep:
    """Records a step as a CUDA graph: a thousand small kernels, one launch.

    The warm-up steps run at a learning rate of zero.

    Args:
        step: makes the step for images, and returns its losses.
        images: like those of every step.
        optimiser: of the step, whose learning rates are tensors.
        ranks: processes that the step exchanges gradients with.
    """

    def __init__(
        self,
        step: Callable[[Tensor], Tensor],
        images: Tensor,
        optimiser: torch.optim.Optimizer,
        ranks: Ranks = ALONE,
    ) -> None:
        for group in optimiser.param_groups:
            group["lr"].fill_(0.0)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(images)
        torch.cuda.current_stream().wait_stream(side)
        optimiser.zero_grad(set_to_none=True)
        self._images = images.clone()
        self._graph = torch.cuda.CUDAGraph()
        # NCCL has threads of its own, whose calls would break the capture in the mode "global".
        mode = "global" if ranks.count == 1 else "thread_local"
        with torch.cuda.graph(self._graph, stream=side, capture_error_mode=mode):
            self._losses = step(self._images)

    def __call__(self, images: Tensor) -> Tensor:
        """Make a step; the losses that it returns are overwritten by the next one."""
        self._images.copy_(images)
        self._graph.replay()
        return self._losses
