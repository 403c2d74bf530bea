# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Networks of other shapes than YOLOX, with random weights: PyTorch and its exporter.

    from support.networks import export, small, Yolov5, EfficientDet, PspEncoder

    model = small("yolov5")                                # the same one at each call
    model = export(Yolov5(width=8), (64, 96))              # an onnx.ModelProto
    PYTHONPATH=.:test python -m support.networks efficientdet d0.onnx      # one of FULL

Written from the published descriptions of the blocks: CSP bottlenecks, SPPF and a head with anchors
(YOLOv5, models/yolov5s.yaml); MBConv with squeeze-excitation and a BiFPN (EfficientDet,
arXiv:1911.09070); a dilated ResNet with pyramid pooling (PSPNet, arXiv:1612.01105). Weights are
random, so that detections and classes mean nothing.
"""

from __future__ import annotations

import functools
import io
import itertools
import sys
import warnings
from collections.abc import Callable, Sequence

import onnx
import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)  # as many as the tests run beside each other

ANCHORS = ((10, 13, 16, 30, 33, 23), (30, 61, 62, 45, 59, 119), (116, 90, 156, 198, 373, 326))


def export(
    network: nn.Module,
    size: tuple[int, int] = (64, 64),
    *,
    opset: int = 13,
    outputs: Sequence[str] = (),
    batch: int | None = 1,
) -> onnx.ModelProto:
    """Return a network as ONNX.

    Args:
        network: takes (N, 3, H, W).
        size: (height, width) of the input.
        opset: version of the operators.
        outputs: their names; the exporter's where there are none.
        batch: images in one run; None leaves it open.
    """
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            settle(network, size),
            (torch.zeros(batch or 1, 3, *size),),
            file,
            input_names=["images"],
            output_names=list(outputs) or None,
            opset_version=opset,
            dynamic_axes=None if batch else {n: {0: "batch"} for n in ("images", *outputs)},
            dynamo=False,
        )
    return onnx.load_from_string(file.getvalue())


@functools.cache
def small(name: str) -> onnx.ModelProto:
    """Return the smallest form of one of NETWORKS; it must not be changed."""
    make, size = NETWORKS[name]
    return export(make(), size)


def settle(network: nn.Module, size: tuple[int, int], seed: int = 0) -> nn.Module:
    """Give batch norms the statistics of random images, so that activations keep their size."""
    network.train()
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(4, 3, 8, 8, generator=generator)
    network(F.interpolate(coarse, size, mode="nearest"))
    return network.eval()


class Conv(nn.Sequential):
    """Convolution, batch norm and an activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        act: nn.Module | None = None,
    ) -> None:
        padding = kernel // 2 * dilation
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
            nn.BatchNorm2d(outputs, momentum=None),
            nn.SiLU() if act is None else act,
        )


class Bottleneck(nn.Module):
    """1 x 1 and 3 x 3 with a shortcut."""

    def __init__(self, channels: int, *, shortcut: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(Conv(channels, channels), Conv(channels, channels, 3))
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return x + y if self.shortcut else y


class C3(nn.Module):
    """CSP block: bottlenecks on one half, joined with the other."""

    def __init__(self, inputs: int, outputs: int, count: int = 1, *, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.one, self.two = Conv(inputs, half), Conv(inputs, half)
        self.three = Conv(outputs, outputs)
        self.body = nn.Sequential(*(Bottleneck(half, shortcut=shortcut) for _ in range(count)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.three(torch.cat((self.body(self.one(x)), self.two(x)), 1))


class Sppf(nn.Module):
    """Three 5 x 5 pools in a row, joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = Conv(channels, channels // 2), Conv(channels * 2, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = [self.one(x)]
        for _ in range(3):
            steps.append(F.max_pool2d(steps[-1], 5, 1, 2))
        return self.two(torch.cat(steps, 1))


class Yolov5(nn.Module):
    """YOLOv5's backbone, neck and head with anchors; one output (N, A, 5 + C), decoded.

    Args:
        width: channels of the stem; 32 is YOLOv5s.
        classes: C.
    """

    def __init__(self, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        w = [width * 2**i for i in range(5)]
        self.stem = nn.Sequential(
            nn.Conv2d(3, w[0], 6, 2, 2, bias=False), nn.BatchNorm2d(w[0], momentum=None), nn.SiLU()
        )
        self.stages = nn.ModuleList(
            nn.Sequential(Conv(a, b, 3, 2), C3(b, b, count))
            for (a, b), count in zip(itertools.pairwise(w), (1, 2, 3, 1), strict=True)
        )
        self.spp = Sppf(w[4])
        self.up1, self.up2 = Conv(w[4], w[3]), Conv(w[3], w[2])
        self.top1, self.top2 = C3(w[4], w[3], shortcut=False), C3(w[3], w[2], shortcut=False)
        self.down1, self.down2 = Conv(w[2], w[2], 3, 2), Conv(w[3], w[3], 3, 2)
        self.out1, self.out2 = C3(w[3], w[3], shortcut=False), C3(w[4], w[4], shortcut=False)
        self.classes = classes
        self.heads = nn.ModuleList(nn.Conv2d(c, 3 * (5 + classes), 1) for c in w[2:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stages[0](self.stem(x))
        p3 = self.stages[1](x)
        p4 = self.stages[2](p3)
        u1 = self.up1(self.spp(self.stages[3](p4)))
        u2 = self.up2(self.top1(torch.cat((F.interpolate(u1, scale_factor=2.0), p4), 1)))
        n3 = self.top2(torch.cat((F.interpolate(u2, scale_factor=2.0), p3), 1))
        n4 = self.out1(torch.cat((self.down1(n3), u2), 1))
        n5 = self.out2(torch.cat((self.down2(n4), u1), 1))
        raw = [head(p) for head, p in zip(self.heads, (n3, n4, n5), strict=True)]
        return torch.cat([self._level(i, x) for i, x in enumerate(raw)], 1)

    def _level(self, index: int, x: torch.Tensor) -> torch.Tensor:
        n, _, h, w = x.shape
        x = x.view(n, 3, 5 + self.classes, h, w).permute(0, 1, 3, 4, 2).sigmoid()
        y, x0 = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        grid = torch.stack((x0, y), 2).expand(1, 3, h, w, 2).float() - 0.5
        anchors = torch.tensor(ANCHORS[index]).float().view(1, 3, 1, 1, 2)
        centre = (x[..., :2] * 2 + grid) * (8 * 2**index)
        extent = (x[..., 2:4] * 2) ** 2 * anchors
        return torch.cat((centre, extent, x[..., 4:]), 4).view(n, -1, 5 + self.classes)


class MBConv(nn.Module):
    """Inverted bottleneck with squeeze-excitation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.expand = Conv(inputs, wide) if expand > 1 else nn.Identity()
        self.depthwise = Conv(wide, wide, kernel, stride, groups=wide)
        squeezed = max(1, inputs // 4)
        self.reduce, self.excite = nn.Conv2d(wide, squeezed, 1), nn.Conv2d(squeezed, wide, 1)
        self.project = Conv(wide, outputs, act=nn.Identity())
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(self.expand(x))
        gate = self.excite(F.silu(self.reduce(F.adaptive_avg_pool2d(y, 1)))).sigmoid()
        y = self.project(y * gate)
        return x + y if self.residual else y


class Separable(nn.Sequential):
    """Depthwise 3 x 3, pointwise and batch norm."""

    def __init__(self, channels: int, outputs: int | None = None) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False),
            nn.Conv2d(channels, outputs or channels, 1),
        )


class BiFpn(nn.Module):
    """One layer of weighted fusion, top-down and bottom-up, over five levels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(Separable(channels), nn.BatchNorm2d(channels, momentum=None))
            for _ in range(8)
        )
        joined = (2,) * 4 + (3,) * 3 + (2,)
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(n)) for n in joined)

    def _fuse(self, index: int, *levels: torch.Tensor) -> torch.Tensor:
        weights = F.relu(self.weights[index])
        weights = weights / (weights.sum() + 1e-4)
        terms = (w * x for w, x in zip(weights, levels, strict=True))
        return self.convs[index](F.silu(sum(terms)))

    def forward(self, levels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        down = [levels[4]]
        for i, level in enumerate(reversed(levels[:4])):
            up = F.interpolate(down[-1], size=level.shape[2:], mode="nearest")
            down.append(self._fuse(i, level, up))
        down.reverse()
        result = [down[0]]
        for i in range(1, 5):
            pooled = F.max_pool2d(result[-1], 3, 2, 1)
            fused = (levels[i], down[i], pooled) if i < 4 else (levels[i], pooled)
            result.append(self._fuse(3 + i, *fused))
        return result


class EfficientDet(nn.Module):
    """EfficientNet, BiFPN and heads: regression (N, A, 4) and classification (N, A, C).

    Args:
        channels: of the BiFPN; 64 is D0.
        width: of the backbone's stem; 32 is EfficientNet-B0.
        repeats: blocks of each stage, BiFPN layers, and convolutions of the heads; D0 has
            ((1, 2, 2, 3, 3, 4, 1), 3, 3).
        classes: C; 90 in COCO.
    """

    def __init__(
        self,
        channels: int = 8,
        width: int = 8,
        repeats: tuple[Sequence[int], int, int] = ((1,) * 7, 1, 1),
        classes: int = 3,
    ) -> None:
        super().__init__()
        blocks, layers, depth = repeats
        # B0: channels in units of its stem's 32, kernel, stride, expansion.
        plan = ((16, 3, 1, 1), (24, 3, 2, 6), (40, 5, 2, 6), (80, 3, 2, 6), (112, 5, 1, 6),
                (192, 5, 2, 6), (320, 3, 1, 6))  # fmt: skip
        self.stem, inputs = Conv(3, width, 3, 2), width
        stages, self.taps = [], {2: 0, 4: 1, 6: 2}
        for (c, kernel, stride, expand), count in zip(plan, blocks, strict=True):
            outputs = max(4, c * width // 32)
            body = [MBConv(inputs, outputs, kernel, stride, expand)]
            body += [MBConv(outputs, outputs, kernel, 1, expand) for _ in range(count - 1)]
            stages.append(nn.Sequential(*body))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        taps = [max(4, plan[i][0] * width // 32) for i in self.taps]
        lateral = [Conv(c, channels, act=nn.Identity()) for c in (*taps, taps[-1])]
        self.lateral = nn.ModuleList(lateral)
        self.fpn = nn.ModuleList(BiFpn(channels) for _ in range(layers))
        self.box, self.score = (
            nn.Sequential(*(_head_layer(channels) for _ in range(depth)), Separable(channels, n))
            for n in (9 * 4, 9 * classes)
        )
        self.classes = classes

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, found = self.stem(x), []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.taps:
                found.append(x)
        levels = [conv(p) for conv, p in zip(self.lateral, (*found, found[-1]), strict=True)]
        levels[3] = F.max_pool2d(levels[3], 3, 2, 1)
        levels.append(F.max_pool2d(levels[3], 3, 2, 1))
        for layer in self.fpn:
            levels = layer(levels)
        boxes = [_flat(self.box(p), 4) for p in levels]
        scores = [_flat(self.score(p), self.classes) for p in levels]
        return torch.cat(boxes, 1), torch.cat(scores, 1).sigmoid()


def _head_layer(channels: int) -> nn.Module:
    return nn.Sequential(Separable(channels), nn.BatchNorm2d(channels, momentum=None), nn.SiLU())


def _flat(x: torch.Tensor, columns: int) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, columns)


class Residual(nn.Module):
    """ResNet's bottleneck, dilated."""

    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        relu = nn.ReLU
        self.body = nn.Sequential(
            Conv(inputs, width, act=relu()),
            Conv(width, width, 3, stride, dilation=dilation, act=relu()),
            Conv(width, width * 4, act=nn.Identity()),
        )
        same = stride == 1 and inputs == width * 4
        self.skip = nn.Identity() if same else Conv(inputs, width * 4, 1, stride, act=nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.skip(x))


class PspEncoder(nn.Module):
    """PSPNet: a dilated ResNet, pyramid pooling, and logits (N, C, H, W) of the input's size.

    Args:
        width: of the first stage; 64 is ResNet-50.
        blocks: of each stage; ResNet-50 has (3, 4, 6, 3).
        classes: C; 19 in Cityscapes.
        bins: cells along each side of the pooled maps.
    """

    def __init__(
        self,
        width: int = 8,
        blocks: Sequence[int] = (1, 1, 1, 1),
        classes: int = 5,
        bins: Sequence[int] = (1, 2, 3, 6),
    ) -> None:
        super().__init__()
        relu = nn.ReLU
        self.stem = nn.Sequential(
            Conv(3, width, 3, 2, act=relu()), Conv(width, width, 3, act=relu())
        )
        inputs, stages = width, []
        plan = zip(blocks, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
        for i, (count, stride, dilation) in enumerate(plan):
            for j in range(count):
                stages.append(Residual(inputs, width * 2**i, stride if j == 0 else 1, dilation))
                inputs = width * 2**i * 4
        self.stages, self.bins = nn.Sequential(*stages), bins
        branch = inputs // 4
        self.branches = nn.ModuleList(Conv(inputs, branch, act=relu()) for _ in bins)
        self.last = nn.Sequential(
            Conv(inputs + branch * len(bins), branch, 3, act=relu()), nn.Conv2d(branch, classes, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[2:]
        x = self.stages(F.max_pool2d(self.stem(x), 3, 2, 1))
        maps = [x]
        for bins, branch in zip(self.bins, self.branches, strict=True):
            pooled = branch(F.adaptive_avg_pool2d(x, bins))
            maps.append(F.interpolate(pooled, x.shape[2:], mode="bilinear", align_corners=False))
        logits = self.last(torch.cat(maps, 1))
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)


#: Forms of the published sizes: YOLOv5s, EfficientDet-D0, PSPNet on ResNet-50 for Cityscapes.
FULL: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "efficientdet": (lambda: EfficientDet(64, 32, ((1, 2, 2, 3, 3, 4, 1), 3, 3), 90), (512, 512)),
    "psp": (lambda: PspEncoder(64, (3, 4, 6, 3), 19), (473, 473)),
    "yolov5": (lambda: Yolov5(32, 80), (640, 640)),
}
#: Smallest forms, with the size of their input.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "efficientdet": (EfficientDet, (128, 128)),
    "psp": (PspEncoder, (96, 96)),
    "yolov5": (Yolov5, (64, 96)),
}

if __name__ == "__main__":
    make, side = FULL[sys.argv[1]]
    torch.manual_seed(0)
    onnx.save(export(make(), side, opset=17), sys.argv[2])
