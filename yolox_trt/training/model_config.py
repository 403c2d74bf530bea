# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ModelConfig: what a detector is made of, and the configurations that have names.

No PyTorch here, so that options and help that name a configuration are there without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Activation = Literal["silu", "relu", "relu6", "blend"]
Separable = Literal["none", "depthwise", "full"]

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class ModelConfig:
    """What a detector is made of.

    Attributes:
        depth: multiple of the base numbers of bottlenecks (3, 9, 9, 3 in YOLOX).
        width: multiple of the base channels (64 at the stem to 1024 at stride 32).
        separable: "depthwise" for the published nano; "full" for its superset with full 3 x 3
            convolutions before the same 1 x 1; "none" elsewhere.
        stem: "focus" (published) or "conv" (the same computation as one 6 x 6 convolution).
        pool: "parallel" 5/9/13 (published), "chained" three 5 x 5 (equal), or "none".
        block: "csp" (published) or "elan".
        norm: batch norm after each convolution; False for the folded form.
        channel_multiple: channels are rounded up to this multiple; 1 rounds nothing.
        input_size: default (height, width) in pixels.
        class_names: one for each class, or none where they are unknown.
        mask_class_names: one for each class of the segmentation head; none without such a head.
        mask_stride: input pixels for each cell of the segmentation head: 1, 2, 4 or 8.
    """

    name: str
    depth: float
    width: float
    separable: Separable = "none"
    activation: Activation = "silu"
    stem: Literal["focus", "conv"] = "focus"
    pool: Literal["parallel", "chained", "none"] = "parallel"
    block: Literal["csp", "elan"] = "csp"
    norm: bool = True
    num_classes: int = 80
    channel_multiple: int = 1
    input_size: tuple[int, int] = (640, 640)
    class_names: tuple[str, ...] = ()
    mask_class_names: tuple[str, ...] = ()
    mask_stride: int = 4

    def dla_ready(self) -> ModelConfig:
        """The same network without what a DLA refuses: conv stem, chained pools, ReLU6."""
        return replace(
            self,
            name=self.name if self.activation == "relu6" else f"{self.name}_relu6",
            stem="conv",
            pool="none" if self.pool == "none" else "chained",
            activation="relu6",
        )

    def channels(self, base: int) -> int:
        """Channels for the base count, scaled by `width` and rounded up to the multiple."""
        scaled = int(base * self.width)
        return math.ceil(scaled / self.channel_multiple) * self.channel_multiple


_OPT = {
    "activation": "relu6",
    "stem": "conv",
    "pool": "none",
    "block": "elan",
    "channel_multiple": 32,
}

CONFIGS: dict[str, ModelConfig] = {
    c.name: c
    for c in (
        ModelConfig("yolox_nano", 0.33, 0.25, separable="depthwise", input_size=(416, 416)),
        ModelConfig("yolox_tiny", 0.33, 0.375, input_size=(416, 416)),
        ModelConfig("yolox_s", 0.33, 0.5),
        ModelConfig("yolox_m", 0.67, 0.75),
        ModelConfig("yolox_l", 1.0, 1.0),
        ModelConfig("yolox_x", 1.33, 1.25),
        # The DLA-ready family of TIER IV, "DNN inference optimisation for edge AI" (2023): strided
        # stem, ReLU6, ELAN blocks, no SPP, channels in multiples of 32. Block details are ours,
        # chosen to meet the published arithmetic; see docs/training.md for both figures.
        ModelConfig("yolox_s_opt", 0.33, 0.5, input_size=(608, 960), **_OPT),  # type: ignore[arg-type]
        ModelConfig("yolox_s_plus_opt", 0.67, 0.5, input_size=(960, 960), **_OPT),  # type: ignore[arg-type]
    )
}
