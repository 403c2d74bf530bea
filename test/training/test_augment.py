# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Random views of stored images."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.training.augment import Augmenter
from yolox_trt.training.image_store import ImageStore, list_images
from yolox_trt.training.options import AugmentOptions


def test_shares_of_a_batch(pictures: Path) -> None:
    store = ImageStore.load(list_images([pictures]), side=64, device="cpu")
    # Half of three, twice, is rounded up to four.
    views = Augmenter(store, (64, 64), AugmentOptions(plain=0.5, mosaic=0.5)).batch(3)
    assert len(views) == 3


def test_views_of_another_shape_hold_the_whole_picture(pictures: Path) -> None:
    """A plain view is the letterbox of inference: one scale, the padding right or below."""
    store = ImageStore.load(list_images([pictures])[:1], side=100, device="cpu")
    (height, width) = store.sizes[0].tolist()
    assert (height, width) == (70, 100)
    views = Augmenter(store, (64, 64), AugmentOptions(plain=0.5, mosaic=0.25))
    for out, inside in (((32, 96), (32, 45)), ((96, 32), (22, 32)), ((64, 64), (44, 64))):
        assert views.batch(8, out).shape == (8, 3, *out)
        for view in views.plain(4, out):
            seen = (view - 114).abs().amax(0) > 20  # the noise is darker than the padding
            assert seen[: inside[0], : inside[1]].float().mean() > 0.9
            assert not seen[inside[0] + 2 :].any() and not seen[:, inside[1] + 2 :].any()
