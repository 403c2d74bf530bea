# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The anchors of EfficientDet, as its published models were trained with them."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

#: Input pixels of a cell, of each level.
ANCHOR_STRIDES = (8, 16, 32, 64, 128)
#: Side of the smallest anchor in grid cells, octaves, and width and height of each shape.
_SCALE = 4.0
_OCTAVES = (0.0, 1 / 3, 2 / 3)
_SHAPES = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))


@cache
def efficientdet_anchors(height: int, width: int) -> npt.NDArray[np.float32]:
    """Return the anchors of an input, level by level, cell by cell, nine a cell.

    As in https://github.com/google/automl, efficientdet/tf2/anchors.py: boxes of the levels 3 to 7
    around the middles of their cells, with anchor_scale 4 (EfficientDet-D0 to D6).

    Args:
        height: rows of the input in pixels.
        width: columns of the input in pixels.

    Returns:
        float32 (A, 4): centre x y, width, height in input pixels. It is shared: do not write.
    """
    anchors = []
    for stride in ANCHOR_STRIDES:
        sizes = [
            (_SCALE * stride * 2**octave * wide, _SCALE * stride * 2**octave * high)
            for octave in _OCTAVES
            for wide, high in _SHAPES
        ]
        y, x = np.mgrid[stride / 2 : height : stride, stride / 2 : width : stride]
        level = np.empty((*x.shape, len(sizes), 4))
        level[..., 0], level[..., 1] = x[..., None], y[..., None]
        level[..., 2:] = sizes
        anchors.append(level.reshape(-1, 4))
    return np.concatenate(anchors).astype(np.float32)
