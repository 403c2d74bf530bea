# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A detector of bright spots: outputs `heat` (N, 1, h, w) and `sides` (N, 2, h, w)."""

from collections.abc import Mapping

import numpy as np

from yolox_trt.core.model_types import CustomDetector, Found, OutputShape, register


@register
class Spots(CustomDetector):
    """Every cell is a candidate: a score, and width and height in input pixels around it."""

    name = "spots"

    def num_classes(self, outputs: tuple[OutputShape, ...], size: tuple[int, int]) -> int | None:
        """Return 1 where the outputs are a heat map and two planes of sides, else None."""
        channels = {output.name: output.shape[1:2] for output in outputs}
        return 1 if channels == {"heat": (1,), "sides": (2,)} else None

    def decode(self, outputs: Mapping[str, np.ndarray], size: tuple[int, int]) -> Found:
        """Return a box for each cell."""
        heat, sides = outputs["heat"][0], outputs["sides"]
        rows, columns = heat.shape
        stride = np.array([size[1] / columns, size[0] / rows], np.float32)
        y, x = np.mgrid[:rows, :columns]
        middle = (np.stack([x, y], -1).reshape(-1, 2).astype(np.float32) + 0.5) * stride
        half = sides.reshape(2, -1).T.astype(np.float32) / 2
        boxes = np.concatenate([middle - half, middle + half], 1)
        scores = heat.reshape(-1).astype(np.float32)
        return Found(boxes, scores, np.zeros(len(scores), np.int32))
