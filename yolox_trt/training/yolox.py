# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""YOLOX: CSPDarknet backbone, path-aggregation neck, decoupled anchor-free head.

Structure and channel counts: Z. Ge et al., "YOLOX: Exceeding YOLO Series in 2021" (arXiv
2107.08430) and its published configurations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from yolox_trt.training.layers import (
    ACTIVATIONS,
    BlendedActivation,
    BlockStyle,
    ConvAct,
    ConvStem,
    CSPLayer,
    ELANLayer,
    Focus,
    SPPBottleneck,
)
from yolox_trt.training.model_config import STRIDES, ModelConfig


class CSPDarknet(nn.Module):
    """The backbone: returns the features at strides 8, 16 and 32."""

    def __init__(self, config: ModelConfig, style: BlockStyle) -> None:
        super().__init__()
        c = [config.channels(64 * 2**i) for i in range(5)]
        n = max(round(config.depth * 3), 1)
        layer = ELANLayer if config.block == "elan" else CSPLayer

        def stage(i: int, repeats: int, *, last: bool = False) -> nn.Sequential:
            blocks: list[nn.Module] = [style.spatial(c[i], c[i + 1], 3, 2)]
            if last and config.pool != "none":
                chained = config.pool == "chained"
                blocks.append(SPPBottleneck(style, c[i + 1], c[i + 1], chained=chained))
            blocks.append(layer(style, c[i + 1], c[i + 1], repeats, shortcut=not last))
            return nn.Sequential(*blocks)

        self.stem: nn.Module = (
            Focus(style, 3, c[0], 3) if config.stem == "focus" else ConvStem(style, 3, c[0])
        )
        self.dark2, self.dark3, self.dark4 = stage(0, n), stage(1, n * 3), stage(2, n * 3)
        self.dark5 = stage(3, n, last=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.dark2(self.stem(x))
        p3 = self.dark3(x)
        p4 = self.dark4(p3)
        return p3, p4, self.dark5(p4)


class YOLOPAFPN(nn.Module):
    """Backbone and path-aggregation neck: fused features at strides 8, 16 and 32."""

    def __init__(self, config: ModelConfig, style: BlockStyle) -> None:
        super().__init__()
        self.backbone = CSPDarknet(config, style)
        c3, c4, c5 = (config.channels(b) for b in (256, 512, 1024))
        n = round(3 * config.depth)
        layer = ELANLayer if config.block == "elan" else CSPLayer
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral_conv0 = ConvAct(style, c5, c4, 1)
        self.C3_p4 = layer(style, 2 * c4, c4, n, shortcut=False)
        self.reduce_conv1 = ConvAct(style, c4, c3, 1)
        self.C3_p3 = layer(style, 2 * c3, c3, n, shortcut=False)
        self.bu_conv2 = style.spatial(c3, c3, 3, 2)
        self.C3_n3 = layer(style, 2 * c3, c4, n, shortcut=False)
        self.bu_conv1 = style.spatial(c4, c4, 3, 2)
        self.C3_n4 = layer(style, 2 * c4, c5, n, shortcut=False)

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

    def __init__(self, config: ModelConfig, style: BlockStyle) -> None:
        super().__init__()
        hidden = config.channels(256)
        self.cls_convs = nn.ModuleList()
        self.reg_convs = nn.ModuleList()
        self.cls_preds = nn.ModuleList()
        self.reg_preds = nn.ModuleList()
        self.obj_preds = nn.ModuleList()
        self.stems = nn.ModuleList()
        for base in (256, 512, 1024):
            self.stems.append(ConvAct(style, config.channels(base), hidden, 1))
            for branch in (self.cls_convs, self.reg_convs):
                pair = (style.spatial(hidden, hidden, 3) for _ in range(2))
                branch.append(nn.Sequential(*pair))
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


class MaskHead(nn.Sequential):
    """The class of each cell of a grid: (N, C, H / stride, W / stride) logits.

    It stands on the features of stride 8, which nearest-neighbour upsampling and a 3 x 3
    convolution each time enlarge by two, as the neck does: operators that a DLA runs.
    """

    def __init__(self, config: ModelConfig, style: BlockStyle) -> None:
        channels = config.channels(256)
        layers: list[nn.Module] = [style.spatial(channels, channels, 3)]
        for _ in range(round(math.log2(8 / config.mask_stride))):
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
            layers.append(style.spatial(channels, channels := max(channels // 2, 8), 3))
        super().__init__(*layers, nn.Conv2d(channels, len(config.mask_class_names), 1))


class YOLOX(nn.Module):
    """A whole detector; takes BGR images 0..255 as (N, 3, H, W) float, H and W multiples of 32.

    Attributes:
        activation: the one activation module that every block shares.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.activation = ACTIVATIONS[config.activation]()
        style = BlockStyle(self.activation, config.norm, config.separable)
        self.backbone = YOLOPAFPN(config, style)
        self.head = YOLOXHead(config, style)
        self.mask_head = MaskHead(config, style) if config.mask_class_names else None

    def set_blend(self, value: float) -> None:
        """Set the share of SiLU in a model with `activation="blend"`; no effect on others."""
        if isinstance(self.activation, BlendedActivation):
            self.activation.blend.fill_(value)

    def forward(self, images: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return (reg, obj, cls) raw logits for strides 8, 16 and 32."""
        out: list[tuple[Tensor, Tensor, Tensor]] = self.head(self.backbone(images))
        return out

    def with_masks(
        self, images: Tensor
    ) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor | None]:
        """Return what forward() does and the segmentation head's logits, None without one."""
        features = self.backbone(images)
        return self.head(features), self.mask_head(features[0]) if self.mask_head else None


def flatten_outputs(outputs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Join raw heads to (N, A, 5 + C), levels in order of stride, as YOLOX's ONNX files do."""
    return torch.cat([torch.cat(level, 1).flatten(2) for level in outputs], 2).transpose(1, 2)


def decode_outputs(flat: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Decode (N, A, 5 + C) logits at input `size` (height, width).

    Returns:
        boxes (N, A, 4) as x1 y1 x2 y2 in input pixels, scores (N, A, C) = objectness x class.
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
