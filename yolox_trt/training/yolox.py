# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""YOLOX: CSPDarknet backbone, path-aggregation neck, decoupled anchor-free head.

Structure and channel counts: Z. Ge et al., "YOLOX: Exceeding YOLO Series in 2021" (arXiv
2107.08430)
and its published configurations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from yolox_trt.training.layers import (
    Activation,
    BlendedActivation,
    BlockFactory,
    ConvStem,
    CSPLayer,
    ELANLayer,
    Focus,
    Separable,
    SPPBottleneck,
    make_activation,
)

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class ModelConfig:
    """What a detector is made of.

    :param depth: multiple of the base numbers of bottlenecks (3, 9, 9, 3 in YOLOX).
    :param width: multiple of the base channels (64 at the stem to 1024 at stride 32).
    :param separable: ``depthwise`` for the published nano; ``full`` for its superset with
        full 3 x 3
        convolutions before the same 1 x 1; ``none`` elsewhere.
    :param stem: ``focus`` (published) or ``conv`` (the same computation as one 6 x 6 convolution).
    :param pool: ``parallel`` 5/9/13 (published), ``chained`` three 5 x 5 (equal), or ``none``.
    :param block: ``csp`` (published) or ``elan``.
    :param norm: batch norm after each convolution; ``False`` for the folded form.
    :param channel_multiple: channels are rounded up to this multiple; 1 rounds nothing.
    :param input_size: default (height, width) in pixels.
    :param class_names: one for each class, or none where they are unknown.
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
        """Channels for the base count, scaled by ``width`` and rounded up to the multiple."""
        scaled = int(base * self.width)
        return math.ceil(scaled / self.channel_multiple) * self.channel_multiple


class CSPDarknet(nn.Module):
    """The backbone: returns the features at strides 8, 16 and 32."""

    def __init__(self, config: ModelConfig, make: BlockFactory) -> None:
        super().__init__()
        c = [config.channels(64 * 2**i) for i in range(5)]
        n = max(round(config.depth * 3), 1)
        layer = ELANLayer if config.block == "elan" else CSPLayer
        self.stem: nn.Module = (
            Focus(make, 3, c[0], 3) if config.stem == "focus" else ConvStem(make, 3, c[0])
        )
        self.dark2 = nn.Sequential(
            make.spatial(c[0], c[1], 3, 2), layer(make, c[1], c[1], n, shortcut=True)
        )
        self.dark3 = nn.Sequential(
            make.spatial(c[1], c[2], 3, 2), layer(make, c[2], c[2], n * 3, shortcut=True)
        )
        self.dark4 = nn.Sequential(
            make.spatial(c[2], c[3], 3, 2), layer(make, c[3], c[3], n * 3, shortcut=True)
        )
        last: list[nn.Module] = [make.spatial(c[3], c[4], 3, 2)]
        if config.pool != "none":
            last.append(SPPBottleneck(make, c[4], c[4], chained=config.pool == "chained"))
        last.append(layer(make, c[4], c[4], n, shortcut=False))
        self.dark5 = nn.Sequential(*last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.dark2(self.stem(x))
        p3 = self.dark3(x)
        p4 = self.dark4(p3)
        return p3, p4, self.dark5(p4)


class YOLOPAFPN(nn.Module):
    """Backbone and path-aggregation neck: fused features at strides 8, 16 and 32."""

    def __init__(self, config: ModelConfig, make: BlockFactory) -> None:
        super().__init__()
        self.backbone = CSPDarknet(config, make)
        c3, c4, c5 = (config.channels(b) for b in (256, 512, 1024))
        n = round(3 * config.depth)
        layer = ELANLayer if config.block == "elan" else CSPLayer
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral_conv0 = make.conv(c5, c4, 1)
        self.C3_p4 = layer(make, 2 * c4, c4, n, shortcut=False)
        self.reduce_conv1 = make.conv(c4, c3, 1)
        self.C3_p3 = layer(make, 2 * c3, c3, n, shortcut=False)
        self.bu_conv2 = make.spatial(c3, c3, 3, 2)
        self.C3_n3 = layer(make, 2 * c3, c4, n, shortcut=False)
        self.bu_conv1 = make.spatial(c4, c4, 3, 2)
        self.C3_n4 = layer(make, 2 * c4, c5, n, shortcut=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x2, x1, x0 = self.backbone(x)
        lateral5 = self.lateral_conv0(x0)
        p4 = self.C3_p4(torch.cat((self.upsample(lateral5), x1), 1))
        lateral4 = self.reduce_conv1(p4)
        out3 = self.C3_p3(torch.cat((self.upsample(lateral4), x2), 1))
        out4 = self.C3_n3(torch.cat((self.bu_conv2(out3), lateral4), 1))
        out5 = self.C3_n4(torch.cat((self.bu_conv1(out4), lateral5), 1))
        return out3, out4, out5


class YOLOXHead(nn.Module):
    """Decoupled head: for each level (reg (N,4,h,w), obj (N,1,h,w), cls (N,C,h,w)), all raw logits.

    Box logits are (dx, dy, log w, log h) in units of the level's stride, from the cell's corner.
    """

    def __init__(self, config: ModelConfig, make: BlockFactory) -> None:
        super().__init__()
        hidden = config.channels(256)
        self.cls_convs = nn.ModuleList()
        self.reg_convs = nn.ModuleList()
        self.cls_preds = nn.ModuleList()
        self.reg_preds = nn.ModuleList()
        self.obj_preds = nn.ModuleList()
        self.stems = nn.ModuleList()
        for base in (256, 512, 1024):
            self.stems.append(make.conv(config.channels(base), hidden, 1))
            for branch in (self.cls_convs, self.reg_convs):
                branch.append(
                    nn.Sequential(make.spatial(hidden, hidden, 3), make.spatial(hidden, hidden, 3))
                )
            self.cls_preds.append(nn.Conv2d(hidden, config.num_classes, 1))
            self.reg_preds.append(nn.Conv2d(hidden, 4, 1))
            self.obj_preds.append(nn.Conv2d(hidden, 1, 1))
        # A prior of 1 % per class and anchor keeps the first steps' loss small (RetinaNet, 4.1).
        bias = -math.log((1 - 0.01) / 0.01)
        for pred in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(pred.bias, bias)

    def forward(self, features: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor, Tensor]]:
        outputs = []
        for i, x in enumerate(features):
            x = self.stems[i](x)
            cls_feat = self.cls_convs[i](x)
            cls = self.cls_preds[i](cls_feat)
            reg_feat = self.reg_convs[i](x)
            outputs.append((self.reg_preds[i](reg_feat), self.obj_preds[i](reg_feat), cls))
        return outputs


class YOLOX(nn.Module):
    """A whole detector; takes BGR images 0..255 as (N, 3, H, W) float, H and W multiples of 32.

    :ivar activation: the one activation module that every block shares.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.activation = make_activation(config.activation)
        make = BlockFactory(self.activation, norm=config.norm, separable=config.separable)
        self.backbone = YOLOPAFPN(config, make)
        self.head = YOLOXHead(config, make)

    def set_blend(self, value: float) -> None:
        """Set the share of SiLU in a model with ``activation="blend"``; no effect on others."""
        if isinstance(self.activation, BlendedActivation):
            self.activation.blend.fill_(value)

    def forward(self, images: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return (reg, obj, cls) raw logits for strides 8, 16 and 32."""
        out: list[tuple[Tensor, Tensor, Tensor]] = self.head(self.backbone(images))
        return out


def flatten_outputs(outputs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Join raw heads to (N, A, 5 + C), levels in order of stride, as YOLOX's ONNX files do."""
    return torch.cat([torch.cat(level, 1).flatten(2) for level in outputs], 2).transpose(1, 2)


def decode_outputs(flat: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Decode (N, A, 5 + C) logits at input ``size`` (height, width).

    :returns: boxes (N, A, 4) as x1 y1 x2 y2 in input pixels, scores (N, A, C) = objectness x class.
    """
    centres, strides = anchor_grid(size, flat.device)
    xy = (flat[..., :2] + centres) * strides
    wh = flat[..., 2:4].clamp(max=10.0).exp() * strides
    boxes = torch.cat((xy - wh / 2, xy + wh / 2), -1)
    return boxes, flat[..., 4:5].sigmoid() * flat[..., 5:].sigmoid()


def anchor_grid(size: tuple[int, int], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return cell corners (A, 2) in cells as x, y, and strides (A, 1) in pixels."""
    corners, strides = [], []
    for stride in STRIDES:
        h, w = size[0] // stride, size[1] // stride
        y, x = torch.meshgrid(
            torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij"
        )
        corners.append(torch.stack((x, y), -1).reshape(-1, 2).float())
        strides.append(torch.full((h * w, 1), float(stride), device=device))
    return torch.cat(corners), torch.cat(strides)


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
