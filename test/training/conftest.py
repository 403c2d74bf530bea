# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the training tests; everything here skips where PyTorch is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    if torch is not None:
        torch.manual_seed(0)
        # The images are tiny: more threads only wait for each other.
        torch.set_num_threads(1)


@pytest.fixture
def small_nano(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make "yolox_nano" a network with the fewest layers and an eighth of its channels."""
    from dataclasses import replace

    from yolox_trt.training.model_config import CONFIGS

    small = replace(CONFIGS["yolox_nano"], depth=0.0, width=0.03125)
    monkeypatch.setitem(CONFIGS, small.name, small)


@pytest.fixture(scope="session")
def teacher_path(data_dir: Path) -> Path:
    """The published YOLOX-nano as ONNX."""
    path = data_dir / "models" / "yolox_nano.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    return path


@pytest.fixture(scope="session")
def teacher(teacher_path: Path) -> Any:
    """The published YOLOX-nano in our modules."""
    from yolox_trt.training.weights import load_teacher

    return load_teacher(teacher_path)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six images of coloured boxes on noise, to be read only."""
    import cv2
    import numpy as np

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(6):
        image = rng.integers(0, 90, (70 + 4 * i, 100, 3), dtype=np.uint8)
        x, y = 10 + 5 * i, 12 + 3 * i
        image[y : y + 30, x : x + 40] = (40, 200, 30 * i)
        cv2.imwrite(str(folder / f"{i:02d}.png"), image)
    return folder


@pytest.fixture(scope="session")
def labels(pictures: Path) -> Any:
    """The boxes of these images, as a COCO file beside them has them."""
    from yolox_trt.training.coco_labels import CocoLabels

    images, annotations = [], []
    for i in range(6):
        images.append({"id": i, "file_name": f"{i:02d}.png", "height": 70 + 4 * i, "width": 100})
        box = [10 + 5 * i, 12 + 3 * i, 40, 30]
        annotations.append({"id": i, "image_id": i, "category_id": 7, "bbox": box, "iscrowd": 0})
    annotations.append(
        {"id": 9, "image_id": 0, "category_id": 7, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    )
    file = pictures / "instances.json"
    categories = [{"id": 3, "name": "ball"}, {"id": 7, "name": "block"}]
    file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return CocoLabels.load(file, pictures)
