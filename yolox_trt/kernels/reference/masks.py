# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The definition of masks: from the output of a segmentation head to the class of source pixels.

1. The class of a cell is that of its largest logit, the first of equal ones; or the output itself,
   where the network ends in an ArgMax.
2. A source pixel takes the class of the cell that its centre lies in (nearest neighbour). The
   centre of column i of the Roi is at (i + 0.5) * resized_width / roi.width in the network's input,
   so its cell is floor((2 i + 1) * resized_width / (2 * roi.width * stride)), in whole numbers;
   rows likewise. Cells of the padding are never met.
3. Pixels outside the Roi are NO_CLASS.
4. Run-length encoding over the whole source image, row after row (core.mask.Mask).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import EngineError
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.mask import NO_CLASS, Mask
from yolox_trt.core.model_spec import SegmentationHead


def read_mask(
    head: SegmentationHead,
    outputs: Mapping[str, npt.NDArray[Any]],
    index: int,
    letterbox: Letterbox,
) -> Mask:
    """Return the Mask of one image of a batch.

    Args:
        head: the segmentation head.
        outputs: the network's outputs by name, first axis the batch.
        index: the image in the batch.
        letterbox: the image's geometry.

    Raises:
        EngineError: the output holds NaN, or a class that the head does not have.
    """
    roi = letterbox.roi
    rows = cells(roi.height, letterbox.resized_height, head.stride, letterbox.top)
    columns = cells(roi.width, letterbox.resized_width, head.stride, letterbox.left)
    # As many cells as the kernel looks at: what lies in the padding does not matter.
    height = -(-(letterbox.top + letterbox.resized_height) // head.stride)
    width = -(-(letterbox.left + letterbox.resized_width) // head.stride)
    classes = _classes(head, outputs[head.name][index][..., :height, :width])
    seen = classes.take(rows, 0).take(columns, 1)
    if seen.shape != (letterbox.source_height, letterbox.source_width):
        whole = np.full((letterbox.source_height, letterbox.source_width), NO_CLASS, np.uint8)
        whole[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width] = seen
        seen = whole
    return Mask.encode(seen)


def cells(size: int, resized: int, stride: int, first: int = 0) -> npt.NDArray[np.int64]:
    """Return the cell of each of `size` source pixels along an axis (step 2).

    Args:
        size: source pixels.
        resized: pixels of the input that carry them.
        stride: pixels of the input for each cell.
        first: pixels of the input before them.
    """
    return ((2 * np.arange(size) + 1) * resized + 2 * size * first) // (2 * size * stride)


def mask_fault(head: SegmentationHead) -> EngineError:
    """Make the error of an output that holds what no class follows from."""
    return EngineError(
        f"NaN or an unknown class in output '{head.name}' of the segmentation head",
        expected=f"numbers, and classes from 0 to {head.num_classes - 1}",
        fix="check the precision (a float16 overflow?) and the preprocessing of the model",
    )


def _classes(head: SegmentationHead, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Do step 1 on (C, h, w), (1, h, w) or (h, w); return uint8 (h, w)."""
    if head.has_argmax:
        found = values.reshape(values.shape[-2:])
        if not ((found >= 0) & (found < head.num_classes)).all():
            raise mask_fault(head)
        return found.astype(np.uint8)
    if values.dtype == np.float16:  # in which NumPy computes by converting each number
        values = values.astype(np.float32)
    # Channel by channel: several times faster than np.argmax over the first axis.
    best = np.array(values[0])
    classes = np.zeros(best.shape, np.uint8)
    for class_id in range(1, len(values)):
        np.putmask(classes, values[class_id] > best, np.uint8(class_id))
        np.maximum(best, values[class_id], out=best)
    if np.isnan(best).any():
        raise mask_fault(head)
    return classes
