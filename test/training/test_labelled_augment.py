# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes follow their pixels through augmentation."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.training.coco_labels import CocoLabels
from yolox_trt.training.image_store import ImageStore
from yolox_trt.training.labelled_augment import LabelledAugmenter
from yolox_trt.training.options import AugmentOptions


@pytest.mark.parametrize("mosaic", [False, True])
@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
def test_boxes_follow_their_pixels(labels: CocoLabels, mosaic: bool, size: tuple[int, int]) -> None:
    store = ImageStore.load(labels.paths, side=100, device="cpu")
    options = AugmentOptions(rotate_degrees=0.0, mosaic=1.0, colour=0.0)
    views = LabelledAugmenter(store, size, options, labels)
    views._colour = lambda x: x  # type: ignore[method-assign]
    checked = 0
    images, boxes, classes, _ = views.labelled_batch(6, mosaic=mosaic)
    assert images.shape == (6, 3, *size)
    for image, found, kinds in zip(images, boxes, classes, strict=True):
        assert len(found) == len(kinds)
        for x1, y1, x2, y2 in found.tolist():
            if min(x2 - x1, y2 - y1) < 8:
                continue
            inside = image[1, int(y1) + 2 : int(y2) - 2, int(x1) + 2 : int(x2) - 2]
            # The block's green is 200, the noise around it under 90, the padding 114.
            assert inside.min() > 150
            checked += 1
    assert checked > 3
