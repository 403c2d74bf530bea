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
    views = Augmenter(store, 64, AugmentOptions(plain=0.5, mosaic=0.5)).batch(3)
    assert len(views) == 3
