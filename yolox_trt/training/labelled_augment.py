# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Random views with their boxes and masks: affine maps and 2 x 2 mosaics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from yolox_trt.core.mask import NO_CLASS
from yolox_trt.training.augment import Augmenter
from yolox_trt.training.coco_labels import CocoLabels
from yolox_trt.training.image_store import ImageStore
from yolox_trt.training.options import AugmentOptions

# A box that a crop leaves less than this share of, or smaller than this side in pixels, is dropped.
LEAST_VISIBLE = 0.3
LEAST_SIDE = 2.0


class LabelledBatch(NamedTuple):
    """Views with their labels.

    Attributes:
        images: float32 (N, 3, S, S).
        boxes: for each image float32 (G, 4), x1 y1 x2 y2 in pixels.
        classes: for each image int64 (G,).
        masks: int64 (N, S, S), the class of each pixel or NO_CLASS; None without masks.
    """

    images: Tensor
    boxes: list[Tensor]
    classes: list[Tensor]
    masks: Tensor | None


class LabelledAugmenter(Augmenter):
    """An `Augmenter` that carries boxes and masks along.

    Args:
        labels: of the images in `store`, in the same order.
        masks: uint8 (M, 1, S, S), as `masks.load_masks` gives them; None for none.
    """

    def __init__(
        self,
        store: ImageStore,
        size: tuple[int, int],
        options: AugmentOptions,
        labels: CocoLabels,
        masks: Tensor | None = None,
    ) -> None:
        super().__init__(store, size, options)
        self.masks = masks
        self.classes = [c.to(self.device) for c in labels.classes]
        # Annotated pixels to canvas pixels (the store may have shrunk the image).
        self.boxes = []
        for i, boxes in enumerate(labels.boxes):
            height, width = labels.sizes[i]
            h, w = store.sizes[i].tolist()
            scale = torch.tensor([w / width, h / height] * 2)
            self.boxes.append((boxes * scale).to(self.device))

    def map_boxes(
        self, index: int, matrix: Tensor, shift: Tensor, out: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Boxes of one image after the warp, clipped to (height, width) out, and their classes."""
        boxes = self.boxes[index]
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2)
        moved = (corners - shift) @ torch.linalg.inv(matrix).T
        whole = torch.cat((moved.amin(1), moved.amax(1)), 1)
        clipped = whole.clamp(min=0).minimum(whole.new_tensor([out[1], out[0]] * 2))
        side = clipped[:, 2:] - clipped[:, :2]
        share = side.prod(1) / (whole[:, 2:] - whole[:, :2]).prod(1).clamp(min=1e-6)
        keep = (share > LEAST_VISIBLE) & (side.amin(1) > LEAST_SIDE)
        return clipped[keep], self.classes[index][keep]

    @torch.no_grad()
    def labelled_batch(self, n: int, *, mosaic: bool = True) -> LabelledBatch:
        """Return random views.

        Args:
            n: number of images.
            mosaic: make the options' share of mosaics; False for the last epochs.
        """
        count = round(n * self.options.mosaic) if mosaic else 0
        images, boxes, classes, masks = [], [], [], []
        for k in range(n):
            tiles = 2 if k < count else 1
            out = self.size[0] // tiles, self.size[1] // tiles
            found, kinds = [], []
            scale = self.options.mosaic_scale if tiles == 2 else self.options.scale
            index = torch.randint(len(self.store), (tiles * tiles,), device=self.device)
            matrix, shift = self._random_affine(index, out, scale, 1.0)
            views = self._sample(self.store.canvas, index, out, matrix, shift)
            for t, i in enumerate(index.tolist()):
                b, c = self.map_boxes(i, matrix[t], shift[t], out)
                corner = [t % tiles * out[1], t // tiles * out[0]]
                offset = torch.tensor(corner * 2, device=self.device)
                found.append(b + offset)
                kinds.append(c)
            images.append(_joined(views, tiles))
            if self.masks is not None:
                seen = self._sample(
                    self.masks, index, out, matrix, shift, pad=NO_CLASS, mode="nearest"
                )
                masks.append(_joined(seen, tiles)[0].round().long())
            boxes.append(torch.cat(found))
            classes.append(torch.cat(kinds))
        return LabelledBatch(
            *(self._colour(torch.stack(images)), boxes, classes),
            torch.stack(masks) if masks else None,
        )


def _joined(views: Tensor, tiles: int) -> Tensor:
    """Join (tiles ** 2, C, H, W), row after row, to (C, tiles * H, tiles * W)."""
    rows = [torch.cat(list(views[r * tiles : (r + 1) * tiles]), 2) for r in range(tiles)]
    return torch.cat(rows, 1)
