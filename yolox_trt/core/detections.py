# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Detections: the result of one frame, as a structure of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes of one image, best score first.

    Attributes:
        boxes: float32 (N, 4), x1 y1 x2 y2 in source pixels, clipped to the image (or its Roi).
        scores: float32 (N,), objectness x class probability, descending.
        class_ids: int32 (N,).
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or self.class_ids.shape != (count,):
            raise ValueError(
                f"boxes {self.boxes.shape}, scores {self.scores.shape}, class_ids "
                f"{self.class_ids.shape}; expected (N, 4), (N,), (N,)"
            )

    @classmethod
    def empty(cls) -> Detections:
        """Return a result with no detection."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(
        self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice
    ) -> Detections:
        """Return the selected detections, in the order of the index."""
        return Detections(self.boxes[index], self.scores[index], self.class_ids[index])
