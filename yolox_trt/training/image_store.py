# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""All training images decoded once and kept as uint8 in the memory of the training device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from yolox_trt.core.images import images_in, read_image
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.training.torch_device import check_room

PAD_VALUE = 114


def list_images(folders: Sequence[Path]) -> list[Path]:
    """Return every image file in the folders and below them, sorted folder by folder.

    Raises:
        ConfigurationError: a folder is missing or holds no image.
    """
    return [path for folder in folders for path in images_in(folder, "**/*")]


class ImageStore:
    """Images on square canvases, padded with 114 at the right and the bottom.

    Attributes:
        canvas: uint8 (M, 3, S, S), BGR.
        half: uint8 (M, 3, S/2, S/2), the same at half size, for views that shrink by more than two.
        sizes: float32 (M, 2), height and width in canvas pixels.
    """

    def __init__(self, canvas: Tensor, sizes: Tensor) -> None:
        self.canvas = canvas
        self.sizes = sizes
        self.half = torch.empty(
            (*canvas.shape[:2], canvas.shape[2] // 2, canvas.shape[3] // 2),
            dtype=torch.uint8,
            device=canvas.device,
        )
        for start in range(0, len(canvas), 256):
            part = canvas[start : start + 256].float()
            self.half[start : start + 256] = F.avg_pool2d(part, 2).round().to(torch.uint8)

    def __len__(self) -> int:
        return len(self.canvas)

    @classmethod
    def load(
        cls,
        paths: Sequence[Path],
        *,
        side: int,
        device: torch.device | str = "cpu",
        on_progress: Progress = no_progress,
    ) -> ImageStore:
        """Decode image files.

        Args:
            paths: the files.
            side: of the canvases in pixels; larger images are shrunk (antialiased) to it.
            device: where they are kept.
            on_progress: told of every image.

        Raises:
            FrameError: a file cannot be decoded.
            OutOfMemoryError: the canvases do not fit into memory.
        """
        needed = len(paths) * 3 * side**2 * 1.25  # with those at half size
        what = f"{len(paths)} images of {side}x{side} pixels"
        check_room(torch.device(device), needed, what, "use fewer images, or keep them smaller")
        canvas = torch.full(
            (len(paths), 3, side, side), PAD_VALUE, dtype=torch.uint8, device=device
        )
        sizes = torch.zeros(len(paths), 2)

        def decode(path: Path) -> Tensor:
            image = torch.from_numpy(read_image(path)).permute(2, 0, 1)
            h, w = image.shape[1:]
            scale = side / max(h, w)
            if scale < 1:
                size = (max(1, round(h * scale)), max(1, round(w * scale)))
                # As bytes: a sixth of the time that it takes in float32.
                image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
            return image

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for i, image in enumerate(pool.map(decode, paths)):
                on_progress("read images", i + 1, len(paths))
                h, w = image.shape[1:]
                canvas[i, :, :h, :w] = image.to(device)
                sizes[i, 0], sizes[i, 1] = h, w
        return cls(canvas, sizes.to(device))
