# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Masks of the training images, and the loss of a segmentation head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import torch
from torch import Tensor
from torch.nn import functional as F

from yolox_trt.core.mask import NO_CLASS
from yolox_trt.core.mask_files import read_mask_file
from yolox_trt.training.image_store import ImageStore
from yolox_trt.training.ranks import ALONE, Ranks


def load_masks(images: Sequence[Path], folder: Path, store: ImageStore, num_classes: int) -> Tensor:
    """Read the masks of stored images.

    Args:
        images: the image files, in the order of the store; a mask has its image's name, as PNG.
        folder: where the masks are.
        store: the images, whose sizes on the canvas the masks get (nearest neighbour).
        num_classes: classes of the masks.

    Returns:
        uint8 (M, 1, S, S) on the store's device, NO_CLASS in the padding.

    Raises:
        ConfigurationError: a mask is missing, or holds something else than classes.
    """
    side = store.canvas.shape[-1]
    masks = torch.full((len(images), 1, side, side), NO_CLASS, dtype=torch.uint8)
    for index, image in enumerate(images):
        classes = read_mask_file(folder / f"{image.stem}.png", num_classes)
        height, width = (int(n) for n in store.sizes[index].tolist())
        small = cv2.resize(classes, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        masks[index, 0, :height, :width] = torch.from_numpy(small)
    return masks.to(store.canvas.device)


def mask_loss(logits: Tensor, masks: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """Cross entropy of each cell with the class of the pixel at its centre.

    Args:
        logits: (N, C, H / stride, W / stride).
        masks: int64 (N, H, W); cells of NO_CLASS do not count.
        ranks: processes that have other images of the same batch.
    """
    stride = masks.shape[-1] // logits.shape[-1]
    wanted = masks[:, stride // 2 :: stride, stride // 2 :: stride]
    losses = F.cross_entropy(logits, wanted, ignore_index=NO_CLASS, reduction="sum")
    return losses / ranks.normaliser((wanted != NO_CLASS).sum())
