# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Masks by their definition, pixel by pixel, and against OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from yolox_trt.core import EngineError, Letterbox, Roi
from yolox_trt.core.mask import NO_CLASS
from yolox_trt.core.model_spec import SegmentationHead
from yolox_trt.kernels.reference.masks import cells, read_mask


@pytest.mark.parametrize(
    ("height", "width", "roi"),
    [(41, 77, None), (130, 60, None), (64, 96, None), (50, 80, Roi(7, 9, 31, 40))],
)
@pytest.mark.parametrize("stride", [1, 4])
def test_definition(height: int, width: int, roi: Roi | None, stride: int) -> None:
    head = SegmentationHead("mask", 6, stride, 64 // stride, 96 // stride)
    logits = np.random.default_rng(0).normal(size=(2, 6, head.height, head.width))
    letterbox = Letterbox.fit(height, width, 64, 96, roi)
    found = read_mask(head, {"mask": logits}, 1, letterbox).decode()
    part = letterbox.roi
    for y in range(height):
        for x in range(width):
            i, j = y - part.y, x - part.x
            expected = NO_CLASS
            if 0 <= i < part.height and 0 <= j < part.width:
                # The centre of the pixel, in cells.
                row = (i + 0.5) * letterbox.resized_height / part.height / stride
                column = (j + 0.5) * letterbox.resized_width / part.width / stride
                expected = int(logits[1, :, int(row + 1e-9), int(column + 1e-9)].argmax())
            assert found[y, x] == expected


@pytest.mark.parametrize(("size", "resized"), [(1920, 960), (333, 960), (960, 960), (7, 3)])
def test_cells_are_those_of_opencvs_exact_nearest_neighbour(size: int, resized: int) -> None:
    row = np.arange(resized, dtype=np.float32)[None]
    expected = cv2.resize(row, (size, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]
    ours = cells(size, resized, 1)
    # OpenCV steps in fixed point: it may differ where a centre lies on the edge of a cell.
    assert np.abs(ours - expected).max() <= 1
    assert (ours != expected).mean() < 0.01


def test_equal_logits_and_faults() -> None:
    head = SegmentationHead("mask", 3, 32, 2, 2)
    letterbox = Letterbox.fit(64, 64, 64, 64)
    logits = np.zeros((1, 3, 2, 2), np.float16)
    assert (read_mask(head, {"mask": logits}, 0, letterbox).decode() == 0).all()
    logits[0, :, 0, 0] = -np.inf
    logits[0, 2, 1, 1] = np.inf
    found = read_mask(head, {"mask": logits}, 0, letterbox).decode()
    assert (found[0, 0], found[63, 63]) == (0, 2)
    logits[0, 1, 1, 0] = np.nan
    with pytest.raises(EngineError, match="'mask' of the segmentation head"):
        read_mask(head, {"mask": logits}, 0, letterbox)
    argmax = SegmentationHead("mask", 3, 32, 2, 2, has_argmax=True)
    with pytest.raises(EngineError, match="classes from 0 to 2"):
        read_mask(argmax, {"mask": np.full((1, 2, 2), 3)}, 0, letterbox)
