# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Detections: the result of one frame, as a structure of arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.mask import Mask


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes of one image, best score first.

    Attributes:
        boxes: float32 (N, 4), x1 y1 x2 y2 in source pixels, clipped to the image (or its Roi).
        scores: float32 (N,), objectness x class probability, descending.
        class_ids: int32 (N,).
        track_ids: int32 (N,), from 1 on, 0 where a detection belongs to no track yet; None where
            nothing is tracked.
        mask: class of each pixel of the image, where the model has a segmentation head and
            PostprocessOptions.masks asks for it.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
    track_ids: npt.NDArray[np.int32] | None = None
    mask: Mask | None = None

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or self.class_ids.shape != (count,):
            raise ValueError(
                f"boxes {self.boxes.shape}, scores {self.scores.shape}, class_ids "
                f"{self.class_ids.shape}; expected (N, 4), (N,), (N,)"
            )
        if self.track_ids is not None and self.track_ids.shape != (count,):
            raise ValueError(f"track_ids {self.track_ids.shape}; expected ({count},)")

    @classmethod
    def empty(cls) -> Detections:
        """Return a result with no detection."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))

    def enlarged(self, factor: int, height: int, width: int) -> Detections:
        """Return the detections of an image `factor` times as large, clipped to it.

        Args:
            factor: pixels of the larger image, along each axis, for one of the smaller.
            height: rows of the larger image, the last of which may be incomplete.
            width: columns of the larger image.
        """
        most = np.array([width, height] * 2, np.float32)
        return replace(self, boxes=np.minimum(self.boxes * np.float32(factor), most))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(
        self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice
    ) -> Detections:
        """Return the selected detections, in the order of the index, with the whole mask."""
        of_each = ("boxes", "scores", "class_ids", "track_ids")
        chosen: Any = {
            name: part if (part := getattr(self, name)) is None else part[index] for name in of_each
        }
        return replace(self, **chosen)


def iou_matrix(
    boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the IoU of each box with each of the others.

    Args:
        boxes: float32 (N, 4), x1 y1 x2 y2.
        others: float32 (M, 4).

    Returns:
        float32 (N, M), 0 to 1; 0 for boxes without an area.
    """
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas, other_areas = (
        np.diff(b.reshape(-1, 2, 2), axis=1).prod(axis=(1, 2)) for b in (boxes, others)
    )
    union = areas[:, None] + other_areas - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))
