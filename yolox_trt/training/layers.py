# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The building blocks of the detectors: convolution with activation, pooling, CSP and ELAN blocks.

Attribute names (`conv`, `bn`, `act`, `dconv`, `pconv`, `conv1` ...) follow the
published YOLOX checkpoints, so that their state dictionaries load unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolox_trt.training.model_config import Activation, Separable

# The epsilon and momentum of every batch norm in the published YOLOX training.
BN_EPS = 1e-3
BN_MOMENTUM = 0.03

M = TypeVar("M", bound=nn.Module)


@contextmanager
def watched(modules: Iterable[M], on_output: Callable[[M, Tensor], None]) -> Iterator[None]:
    """Call `on_output(module, output)` whenever one of the modules has run, in a `with` block."""
    hooks = [m.register_forward_hook(lambda m, _, out: on_output(m, out)) for m in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class BlendedActivation(nn.Module):
    """`a * SiLU(x) + (1 - a) * ReLU6(x)`: with `a = 1` the teacher, with `a = 0` the student.

    One instance serves a whole model, so that one number moves every layer.

    Attributes:
        blend: `a`, a scalar buffer changed in place by the training schedule.
    """

    blend: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("blend", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        a = self.blend.to(x.dtype)
        return a * F.silu(x) + (1 - a) * F.relu6(x)


#: Activation modules by their names in a configuration.
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "blend": BlendedActivation,
}


@dataclass(frozen=True, eq=False)
class BlockStyle:
    """A model's one choice of activation, norm and separable form, which every block takes.

    Attributes:
        act: the activation module, shared by all blocks.
        norm: False builds folded convolutions: with a bias, and the identity for batch norm.
        separable: form of the 3 x 3 convolutions.
    """

    act: nn.Module
    norm: bool
    separable: Separable

    def spatial(self, cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Module:
        """A convolution that is separable where the model is (`nano`), plain elsewhere."""
        block = ConvAct if self.separable == "none" else SeparableConvAct
        return block(self, cin, cout, kernel, stride)


class ConvAct(nn.Sequential):
    """Convolution, batch norm (none when folded), activation: (N, Cin, H, W) to (N, Cout, H, W)."""

    def __init__(
        self,
        style: BlockStyle,
        cin: int,
        cout: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        pad, norm = (kernel - 1) // 2 if padding is None else padding, style.norm
        self.conv = nn.Conv2d(cin, cout, kernel, stride, pad, groups=groups, bias=not norm)
        self.bn: nn.Module = (
            nn.BatchNorm2d(cout, eps=BN_EPS, momentum=BN_MOMENTUM) if norm else nn.Identity()
        )
        self.act = style.act


class SeparableConvAct(nn.Sequential):
    """A k x k convolution per channel, then a 1 x 1 over channels, each with its activation.

    With the style's "full" the k x k convolution is a full one (all input channels to all input
    channels). It holds the depthwise form as the case where only the diagonal is non-zero, runs on
    matrix units (Tensor Cores, DLA), and quantises per output channel as any convolution does.
    """

    def __init__(
        self, style: BlockStyle, cin: int, cout: int, kernel: int, stride: int = 1
    ) -> None:
        super().__init__()
        groups = 1 if style.separable == "full" else cin
        self.dconv = ConvAct(style, cin, cin, kernel, stride, groups=groups)
        self.pconv = ConvAct(style, cin, cout, 1)


class Focus(nn.Module):
    """Space to depth by four strided slices, then a convolution: the published YOLOX stem.

    The DLA refuses the strided slices; `ConvStem` computes the same without them.
    """

    def __init__(self, style: BlockStyle, cin: int, cout: int, kernel: int) -> None:
        super().__init__()
        self.conv = ConvAct(style, cin * 4, cout, kernel)

    def forward(self, x: Tensor) -> Tensor:
        top_left, top_right = x[..., ::2, ::2], x[..., ::2, 1::2]
        bottom_left, bottom_right = x[..., 1::2, ::2], x[..., 1::2, 1::2]
        out: Tensor = self.conv(torch.cat((top_left, bottom_left, top_right, bottom_right), 1))
        return out


class ConvStem(nn.Sequential):
    """One 6 x 6 convolution of stride 2, padding 2: equal to `Focus` with kernel 3."""

    def __init__(self, style: BlockStyle, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = ConvAct(style, cin, cout, 6, 2, padding=2)


class Bottleneck(nn.Module):
    """`first` x `first`, then 3 x 3, with an optional residual sum; all of `channels`."""

    def __init__(self, style: BlockStyle, channels: int, first: int, *, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = ConvAct(style, channels, channels, first)
        self.conv2 = style.spatial(channels, channels, 3)
        self.use_add = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return y + x if self.use_add else y


class CSPLayer(nn.Module):
    """Cross-stage partial layer with three convolutions around `n` bottlenecks (C3)."""

    def __init__(self, style: BlockStyle, cin: int, cout: int, n: int, *, shortcut: bool) -> None:
        super().__init__()
        hidden = cout // 2
        self.conv1 = ConvAct(style, cin, hidden, 1)
        self.conv2 = ConvAct(style, cin, hidden, 1)
        self.conv3 = ConvAct(style, 2 * hidden, cout, 1)
        self.m = nn.Sequential(*(Bottleneck(style, hidden, 1, shortcut=shortcut) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        # conv1 and conv2 run before m: ONNX files exported from YOLOX list them in this order.
        a, b = self.conv1(x), self.conv2(x)
        out: Tensor = self.conv3(torch.cat((self.m(a), b), 1))
        return out


class ELANLayer(nn.Module):
    """ELAN block in its C2f form: every bottleneck's output is kept and joined by one 1 x 1.

    All 3 x 3 convolutions run on `cout / 2` channels, which stay multiples of 32.
    """

    def __init__(self, style: BlockStyle, cin: int, cout: int, n: int, *, shortcut: bool) -> None:
        super().__init__()
        hidden = cout // 2
        # Two 1 x 1 instead of one and a Split: the DLA has no free channel split.
        self.conv1 = ConvAct(style, cin, hidden, 1)
        self.conv2 = ConvAct(style, cin, hidden, 1)
        self.m = nn.ModuleList(Bottleneck(style, hidden, 3, shortcut=shortcut) for _ in range(n))
        self.conv3 = ConvAct(style, (2 + n) * hidden, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.conv2(x), self.conv1(x)]
        for block in self.m:
            parts.append(block(parts[-1]))
        out: Tensor = self.conv3(torch.cat(parts, 1))
        return out


class SPPBottleneck(nn.Module):
    """Spatial pyramid pooling over 5, 9 and 13.

    Args:
        chained: three 5 x 5 pools in a row, which equal 5, 9 and 13 exactly (stride 1, padding
            -inf) and keep every kernel under the DLA's limit of 8; otherwise three parallel pools.
    """

    def __init__(self, style: BlockStyle, cin: int, cout: int, *, chained: bool) -> None:
        super().__init__()
        hidden = cin // 2
        self.conv1 = ConvAct(style, cin, hidden, 1)
        self.chained = chained
        kernels = (5, 5, 5) if chained else (5, 9, 13)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in kernels)
        self.conv2 = ConvAct(style, hidden * 4, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.conv1(x)]
        for pool in self.m:
            parts.append(pool(parts[-1 if self.chained else 0]))
        out: Tensor = self.conv2(torch.cat(parts, 1))
        return out
