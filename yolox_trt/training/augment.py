# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Random views of stored images, made on the training device in batches.

Teacher and student see the same view, so any distortion is allowed: the teacher answers for it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from yolox_trt.training.image_store import PAD_VALUE, ImageStore
from yolox_trt.training.options import AugmentOptions


def uniform(n: int, low: float, high: float, device: torch.device) -> Tensor:
    """`n` uniform random numbers."""
    return torch.empty(n, device=device).uniform_(low, high)


class Augmenter:
    """Makes batches of `size` x `size` views, float32 (N, 3, size, size) BGR 0..255."""

    def __init__(self, store: ImageStore, size: int, options: AugmentOptions) -> None:
        self.store = store
        self.size = size
        self.options = options
        self.device = store.canvas.device
        # ITU-R BT.601 luma of B, G, R.
        self._luma = torch.tensor([0.114, 0.587, 0.299], device=self.device)[None, :, None, None]

    def _sample(
        self, source: Tensor, index: Tensor, out: int, matrix: Tensor, shift: Tensor
    ) -> Tensor:
        """Warp: input pixel = matrix @ output pixel + shift, in pixels of `source`."""
        side = source.shape[-1]
        position = torch.arange(out, device=self.device) + 0.5
        # Written out, since a product of matrices with two columns is slow on any device.
        m = matrix[..., None, None] * (2 / side)
        offset = (shift * (2 / side) - 1)[..., None, None]
        x, y = position[None, None, :], position[None, :, None]
        grid = torch.stack([m[:, i, 0] * x + m[:, i, 1] * y + offset[:, i] for i in (0, 1)], -1)
        pixels = source[index].float() - PAD_VALUE
        return F.grid_sample(pixels, grid, align_corners=False) + PAD_VALUE

    def _random_affine(
        self, index: Tensor, out: int, scale: tuple[float, float], side_ratio: float
    ) -> tuple[Tensor, Tensor]:
        n, o, dev = len(index), self.options, self.device
        size = self.store.sizes[index] * side_ratio
        fit = out / size.amax(1)
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
        u_out = torch.stack((torch.where(flip < 0, 1 - u[:, 0], u[:, 0]), u[:, 1]), -1)
        shift = inner - (matrix @ (u_out * out)[..., None])[..., 0]
        return matrix, shift

    def plain(self, n: int) -> Tensor:
        """`n` whole images as at inference, some mirrored."""
        index = torch.randint(len(self.store), (n,), device=self.device)
        size = self.store.sizes[index]
        inverse = size.amax(1) / self.size
        flip = torch.where(torch.rand(n, device=self.device) < 0.5, -1.0, 1.0)
        matrix = torch.diag_embed(torch.stack((flip * inverse, inverse), -1))
        across = torch.where(flip < 0, size[:, 1], 0.0)
        shift = torch.stack((across, torch.zeros_like(across)), -1)
        return self._sample(self.store.canvas, index, self.size, matrix, shift)

    def _single(self, n: int) -> Tensor:
        index = torch.randint(len(self.store), (n,), device=self.device)
        matrix, shift = self._random_affine(index, self.size, self.options.scale, 1.0)
        return self._sample(self.store.canvas, index, self.size, matrix, shift)

    def _mosaic(self, n: int) -> Tensor:
        """2 x 2 tiles, then a cyclic shift, so that the seams lie anywhere."""
        tile = self.size // 2
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
        tiles = tiles[torch.randperm(len(tiles), device=self.device)].view(n, 2, 2, 3, tile, tile)
        whole = tiles.permute(0, 3, 1, 4, 2, 5).reshape(n, 3, 2 * tile, 2 * tile)
        dx, dy = torch.randint(-tile // 2, tile // 2 + 1, (2,)).tolist()
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
    def batch(self, n: int) -> Tensor:
        """A batch of `n` views, in random order of kinds."""
        o = self.options
        plain = round(n * o.plain)
        # Two shares that fill the batch may both be rounded up.
        mosaic = min(round(n * o.mosaic), n - plain)
        parts = []
        if plain:
            parts.append(self.plain(plain))
        rest = []
        if mosaic:
            rest.append(self._mosaic(mosaic))
        if n - plain - mosaic:
            rest.append(self._single(n - plain - mosaic))
        if rest:
            views = torch.cat(rest)
            mixed = round(len(views) * o.mixup)
            views = views[torch.randperm(len(views), device=self.device)]
            if mixed:
                share = uniform(mixed, 0.3, 0.9, self.device)[:, None, None, None]
                views[:mixed] = views[:mixed] * share + views[-mixed:] * (1 - share)
            parts.append(self._colour(views))
        return torch.cat(parts)
