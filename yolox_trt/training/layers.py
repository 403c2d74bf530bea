# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The building blocks of the detectors: convolution with activation, pooling, CSP and ELAN blocks.

Attribute names (`conv`, `bn`, `act`, `dconv`, `pconv`, `conv1` ...) follow the
published YOLOX checkpoints, so that their state dictionaries load unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolox_trt.training.model_config import Activation, Separable

# The epsilon and momentum of every batch norm in the published YOLOX training.
BN_EPS = 1e-3
BN_MOMENTUM = 0.03


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


class ConvAct(nn.Module):
    """Convolution, batch norm (none when folded), activation: (N, Cin, H, W) to (N, Cout, H, W).

    Args:
        norm: False builds the folded form: the convolution has a bias and `bn` is the identity.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        act: nn.Module,
        norm: bool = True,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        pad = (kernel - 1) // 2 if padding is None else padding
        self.conv = nn.Conv2d(cin, cout, kernel, stride, pad, groups=groups, bias=not norm)
        self.bn: nn.Module = (
            nn.BatchNorm2d(cout, eps=BN_EPS, momentum=BN_MOMENTUM) if norm else nn.Identity()
        )
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class SeparableConvAct(nn.Module):
    """A k x k convolution per channel, then a 1 x 1 over channels, each with its activation.

    Args:
        full: make the k x k convolution a full one (all input channels to all input channels). It
            holds the depthwise form as the case where only the diagonal is non-zero, runs on matrix
            units (Tensor Cores, DLA), and quantises per output channel as any convolution does.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        stride: int = 1,
        *,
        full: bool,
        act: nn.Module,
        norm: bool,
    ) -> None:
        super().__init__()
        groups = 1 if full else cin
        self.dconv = ConvAct(cin, cin, kernel, stride, groups=groups, act=act, norm=norm)
        self.pconv = ConvAct(cin, cout, 1, 1, act=act, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pconv(self.dconv(x))
        return out


class BlockFactory:
    """Makes convolutions with a model's one choice of activation, norm and separable form."""

    def __init__(self, act: nn.Module, *, norm: bool = True, separable: Separable = "none") -> None:
        self.act = act
        self.norm = norm
        self.separable = separable

    def conv(
        self, cin: int, cout: int, kernel: int, stride: int = 1, *, padding: int | None = None
    ) -> ConvAct:
        """A plain convolution."""
        return ConvAct(cin, cout, kernel, stride, act=self.act, norm=self.norm, padding=padding)

    def spatial(self, cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Module:
        """A convolution that is separable where the model is (`nano`), plain elsewhere."""
        if self.separable == "none":
            return self.conv(cin, cout, kernel, stride)
        return SeparableConvAct(
            cin, cout, kernel, stride, full=self.separable == "full", act=self.act, norm=self.norm
        )


class Focus(nn.Module):
    """Space to depth by four strided slices, then a convolution: the published YOLOX stem.

    The DLA refuses the strided slices; `ConvStem` computes the same without them.
    """

    def __init__(self, make: BlockFactory, cin: int, cout: int, kernel: int) -> None:
        super().__init__()
        self.conv = make.conv(cin * 4, cout, kernel)

    def forward(self, x: Tensor) -> Tensor:
        top_left, top_right = x[..., ::2, ::2], x[..., ::2, 1::2]
        bottom_left, bottom_right = x[..., 1::2, ::2], x[..., 1::2, 1::2]
        out: Tensor = self.conv(torch.cat((top_left, bottom_left, top_right, bottom_right), 1))
        return out


class ConvStem(nn.Module):
    """One 6 x 6 convolution of stride 2, padding 2: equal to `Focus` with kernel 3."""

    def __init__(self, make: BlockFactory, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = make.conv(cin, cout, 6, 2, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Bottleneck(nn.Module):
    """1 x 1, then 3 x 3, with an optional residual sum."""

    def __init__(
        self, make: BlockFactory, cin: int, cout: int, *, shortcut: bool, ratio: float
    ) -> None:
        super().__init__()
        hidden = int(cout * ratio)
        self.conv1 = make.conv(cin, hidden, 1)
        self.conv2 = make.spatial(hidden, cout, 3)
        self.use_add = shortcut and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return y + x if self.use_add else y


class CSPLayer(nn.Module):
    """Cross-stage partial layer with three convolutions around `n` bottlenecks (C3)."""

    def __init__(self, make: BlockFactory, cin: int, cout: int, n: int, *, shortcut: bool) -> None:
        super().__init__()
        hidden = int(cout * 0.5)
        self.conv1 = make.conv(cin, hidden, 1)
        self.conv2 = make.conv(cin, hidden, 1)
        self.conv3 = make.conv(2 * hidden, cout, 1)
        self.m = nn.Sequential(
            *(Bottleneck(make, hidden, hidden, shortcut=shortcut, ratio=1.0) for _ in range(n))
        )

    def forward(self, x: Tensor) -> Tensor:
        # conv1 and conv2 run before m: ONNX files exported from YOLOX list them in this order.
        a, b = self.conv1(x), self.conv2(x)
        out: Tensor = self.conv3(torch.cat((self.m(a), b), 1))
        return out


class ELANLayer(nn.Module):
    """ELAN block in its C2f form: every bottleneck's output is kept and joined by one 1 x 1.

    All 3 x 3 convolutions run on `cout / 2` channels, which stay multiples of 32.
    """

    def __init__(self, make: BlockFactory, cin: int, cout: int, n: int, *, shortcut: bool) -> None:
        super().__init__()
        hidden = cout // 2
        # Two 1 x 1 instead of one and a Split: the DLA has no free channel split.
        self.conv1 = make.conv(cin, hidden, 1)
        self.conv2 = make.conv(cin, hidden, 1)
        self.m = nn.ModuleList(ThreeByThreePair(make, hidden, shortcut=shortcut) for _ in range(n))
        self.conv3 = make.conv((2 + n) * hidden, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.conv2(x), self.conv1(x)]
        for block in self.m:
            parts.append(block(parts[-1]))
        out: Tensor = self.conv3(torch.cat(parts, 1))
        return out


class ThreeByThreePair(nn.Module):
    """Two 3 x 3 convolutions with an optional residual sum, inside `ELANLayer`."""

    def __init__(self, make: BlockFactory, channels: int, *, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = make.conv(channels, channels, 3)
        self.conv2 = make.conv(channels, channels, 3)
        self.use_add = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return y + x if self.use_add else y


class SPPBottleneck(nn.Module):
    """Spatial pyramid pooling over 5, 9 and 13.

    Args:
        chained: three 5 x 5 pools in a row, which equal 5, 9 and 13 exactly (stride 1, padding
            -inf) and keep every kernel under the DLA's limit of 8; otherwise three parallel pools.
    """

    def __init__(self, make: BlockFactory, cin: int, cout: int, *, chained: bool) -> None:
        super().__init__()
        hidden = cin // 2
        self.conv1 = make.conv(cin, hidden, 1)
        self.chained = chained
        kernels = (5, 5, 5) if chained else (5, 9, 13)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in kernels)
        self.conv2 = make.conv(hidden * 4, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        parts = [x]
        for pool in self.m:
            parts.append(pool(parts[-1] if self.chained else x))
        out: Tensor = self.conv2(torch.cat(parts, 1))
        return out
