# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""All training images decoded once and kept as uint8 in the memory of the training device."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from yolox_trt.core.errors import ConfigurationError, FrameError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
PAD_VALUE = 114


def list_images(folders: Sequence[str | Path]) -> list[Path]:
    """Every image file below the folders, sorted.

    :raises ConfigurationError: when a folder is missing or holds no image.
    """
    found: list[Path] = []
    for folder in folders:
        root = Path(folder)
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise ConfigurationError(
                f"no image in {root}",
                expected=f"files ending in {', '.join(IMAGE_SUFFIXES)}",
                fix="give a folder with images",
            )
        found += files
    return found


def read_bgr(path: str | Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode one image file to uint8 (H, W, 3) BGR, with OpenCV or, where it is missing, Pillow.

    :raises FrameError: when the file cannot be decoded.
    """
    try:
        import cv2
    except ImportError:
        from PIL import Image

        with Image.open(path) as picture:
            rgb = np.asarray(picture.convert("RGB"))
        return np.ascontiguousarray(rgb[..., ::-1])
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FrameError(
            f"{path} cannot be decoded",
            expected="an image file",
            fix="remove it from the training folder",
        )
    return np.asarray(image, dtype=np.uint8)


class ImageStore:
    """Images on square canvases, padded with 114 at the right and the bottom.

    :ivar canvas: uint8 (M, 3, S, S), BGR.
    :ivar half: uint8 (M, 3, S/2, S/2), the same at half size, for views that shrink by more
        than two.
    :ivar sizes: float32 (M, 2), height and width in canvas pixels.
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
        cls, paths: Sequence[Path], *, side: int, device: torch.device | str, workers: int = 8
    ) -> ImageStore:
        """Decode files; images with a longer side than ``side`` are shrunk (antialiased) to it."""
        canvas = torch.full(
            (len(paths), 3, side, side), PAD_VALUE, dtype=torch.uint8, device=device
        )
        sizes = torch.zeros(len(paths), 2)

        def decode(path: Path) -> Tensor:
            image = torch.from_numpy(read_bgr(path)).permute(2, 0, 1)
            h, w = image.shape[1:]
            scale = side / max(h, w)
            if scale < 1:
                size = (max(1, round(h * scale)), max(1, round(w * scale)))
                small = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)
                image = small[0].round().clamp(0, 255).to(torch.uint8)
            return image

        with ThreadPoolExecutor(workers) as pool:
            for i, image in enumerate(pool.map(decode, paths)):
                h, w = image.shape[1:]
                canvas[i, :, :h, :w] = image.to(device)
                sizes[i, 0], sizes[i, 1] = h, w
        return cls(canvas, sizes.to(device))
