# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Random views of stored images, made on the training device in batches.

Teacher and student see the same view, so any distortion is allowed: the teacher answers for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from yolox_trt.training.image_store import PAD_VALUE, ImageStore
from yolox_trt.training.options import AugmentOptions


def uniform(n: int, low: float, high: float, device: torch.device) -> Tensor:
    """`n` uniform random numbers."""
    return torch.empty(n, device=device).uniform_(low, high)


class Augmenter:
    """Makes batches of views, float32 (N, 3, H, W) BGR 0..255.

    Args:
        store: the images.
        size: (height, width) of the views in pixels, where a batch is asked for no other.
        options: how they vary.
    """

    def __init__(self, store: ImageStore, size: tuple[int, int], options: AugmentOptions) -> None:
        self.store = store
        self.size = size
        self.options = options
        self.device = store.canvas.device
        self._recolour: Callable[[Tensor], Tensor] = self._colour
        # ITU-R BT.601 luma of B, G, R.
        self._luma = torch.tensor([0.114, 0.587, 0.299], device=self.device)[None, :, None, None]

    def compile(self) -> None:
        """Compile the change of colours: a score of passes over a batch become two or three."""
        self._recolour = torch.compile(self._colour, dynamic=False)

    def _sample(
        self,
        source: Tensor,
        index: Tensor,
        out: tuple[int, int],
        matrix: Tensor,
        shift: Tensor,
        *,
        pad: int = PAD_VALUE,
        mode: str = "bilinear",
    ) -> Tensor:
        """Warp to (height, width) `out`: input pixel = matrix @ output pixel + shift.

        Both are in pixels, the input's those of `source`.
        """
        side = source.shape[-1]
        rows, columns = (torch.arange(length, device=self.device) + 0.5 for length in out)
        # Written out, since a product of matrices with two columns is slow on any device.
        m = matrix[..., None, None] * (2 / side)
        offset = (shift * (2 / side) - 1)[..., None, None]
        x, y = columns[None, None, :], rows[None, :, None]
        grid = torch.stack([m[:, i, 0] * x + m[:, i, 1] * y + offset[:, i] for i in (0, 1)], -1)
        pixels = source[index].float() - pad
        return F.grid_sample(pixels, grid, mode, align_corners=False) + pad

    def _random_affine(
        self,
        index: Tensor,
        out: tuple[int, int],
        scale: tuple[float, float],
        side_ratio: float,
    ) -> tuple[Tensor, Tensor]:
        n, o, dev = len(index), self.options, self.device
        size = self.store.sizes[index] * side_ratio
        # Numbers, not a tensor from the host: that would wait for all that the device has to do.
        fit = torch.minimum(out[0] / size[:, 0], out[1] / size[:, 1])
        s = fit * uniform(n, math.log(scale[0]), math.log(scale[1]), dev).exp()
        aspect = uniform(n, -o.aspect, o.aspect, dev).mul(0.5).exp()
        angle = uniform(n, -o.rotate_degrees, o.rotate_degrees, dev).mul(math.pi / 180)
        # Half of the views are not rotated: an axis-aligned box is what the network must learn.
        angle = angle * (torch.rand(n, device=dev) < 0.5)
        flip = torch.where(torch.rand(n, device=dev) < 0.5, -1.0, 1.0)
        cos, sin = angle.cos(), angle.sin()
        sx, sy = s * aspect, s / aspect
        matrix = torch.stack(
            (
                torch.stack((flip * cos / sx, flip * -sin / sx), -1),
                torch.stack((sin / sy, cos / sy), -1),
            ),
            1,
        )
        # The same fraction of the image and of the view fall together, so that a large image is
        # cropped within its borders and a small one is placed within the view.
        u = torch.rand(n, 2, device=dev)
        inner = u * size.flip(1)
        across = torch.where(flip < 0, 1 - u[:, 0], u[:, 0])
        placed = torch.stack((across * out[1], u[:, 1] * out[0]), -1)
        shift = inner - (matrix @ placed[..., None])[..., 0]
        return matrix, shift

    def plain(self, n: int, out: tuple[int, int] | None = None) -> Tensor:
        """`n` whole images as at inference, some mirrored; `out` is (height, width)."""
        out = out or self.size
        index = torch.randint(len(self.store), (n,), device=self.device)
        size = self.store.sizes[index]
        inverse = torch.maximum(size[:, 0] / out[0], size[:, 1] / out[1])
        flip = torch.where(torch.rand(n, device=self.device) < 0.5, -1.0, 1.0)
        matrix = torch.diag_embed(torch.stack((flip * inverse, inverse), -1))
        across = torch.where(flip < 0, size[:, 1], 0.0)
        shift = torch.stack((across, torch.zeros_like(across)), -1)
        return self._sample(self.store.canvas, index, out, matrix, shift)

    def _single(self, n: int, out: tuple[int, int]) -> Tensor:
        index = torch.randint(len(self.store), (n,), device=self.device)
        matrix, shift = self._random_affine(index, out, self.options.scale, 1.0)
        return self._sample(self.store.canvas, index, out, matrix, shift)

    def _mosaic(self, n: int, out: tuple[int, int]) -> Tensor:
        """2 x 2 tiles, then a cyclic shift, so that the seams lie anywhere."""
        tile = rows, columns = out[0] // 2, out[1] // 2
        low, high = self.options.mosaic_scale
        parts = []
        # Tiles that shrink much come from the half-size copy, against aliasing.
        for count, source, ratio, scale in (
            (n // 2, self.store.half, 0.5, (low, 1.1)),
            (n - n // 2, self.store.canvas, 1.0, (0.9, high)),
        ):
            index = torch.randint(len(self.store), (4 * count,), device=self.device)
            matrix, shift = self._random_affine(index, tile, scale, ratio)
            parts.append(self._sample(source, index, tile, matrix, shift))
        tiles = torch.cat(parts)
        tiles = tiles[torch.randperm(len(tiles), device=self.device)].view(n, 2, 2, 3, *tile)
        whole = tiles.permute(0, 3, 1, 4, 2, 5).reshape(n, 3, 2 * rows, 2 * columns)
        dx, dy = (int(torch.randint(-side // 2, side // 2 + 1, ())) for side in (columns, rows))
        return whole.roll((dy, dx), (2, 3))

    def _colour(self, x: Tensor) -> Tensor:
        n, dev, k = len(x), self.device, self.options.colour

        def amount(low: float, high: float) -> Tensor:
            return uniform(n, low, high, dev)[:, None, None, None]

        grey = (x * self._luma).sum(1, keepdim=True)
        saturation = torch.where(amount(0, 1) < 0.06, 0.0, 1 + k * amount(-0.5, 0.5))
        x = grey + (x - grey) * saturation
        x = x * (1 + k * torch.empty(n, 3, 1, 1, device=dev).uniform_(-0.12, 0.12))
        mean = x.mean((1, 2, 3), keepdim=True)
        x = (x - mean) * (1 + k * amount(-0.35, 0.35)) + mean * (1 + k * amount(-0.35, 0.35))
        blur = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        # Between a blur (positive) and a sharpening (negative) of the image.
        x = x + (blur - x) * torch.where(amount(0, 1) < 0.3, amount(-0.6, 1.0), 0.0)
        x = x + torch.randn_like(x) * torch.where(amount(0, 1) < 0.3, amount(0, 10.0), 0.0)
        return x.clamp(0, 255)

    @torch.no_grad()
    def batch(self, n: int, out: tuple[int, int] | None = None) -> Tensor:
        """A batch of `n` views of (height, width) `out`, in random order of kinds."""
        o, out = self.options, out or self.size
        plain = round(n * o.plain)
        # Two shares that fill the batch may both be rounded up.
        mosaic = min(round(n * o.mosaic), n - plain)
        parts = []
        if plain:
            parts.append(self.plain(plain, out))
        rest = []
        if mosaic:
            rest.append(self._mosaic(mosaic, out))
        if n - plain - mosaic:
            rest.append(self._single(n - plain - mosaic, out))
        if rest:
            views = torch.cat(rest)
            mixed = round(len(views) * o.mixup)
            views = views[torch.randperm(len(views), device=self.device)]
            if mixed:
                share = uniform(mixed, 0.3, 0.9, self.device)[:, None, None, None]
                views[:mixed] = views[:mixed] * share + views[-mixed:] * (1 - share)
            parts.append(self._recolour(views))
        return torch.cat(parts)
