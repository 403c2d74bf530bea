# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Scenes that are drawn with their boxes and masks, and a tiny network that learns them.

`train_on_scenes()` takes some seconds and gives weights from which a test exports what it needs.
Background, blue boxes and red discs are the classes of the masks; boxes and discs those of
the detections.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

SIDE = 64
CLASSES = ("box", "disc")
MASK_CLASSES = ("background", "box", "disc")


@dataclass(frozen=True)
class Scene:
    """An image uint8 (H, W, 3), its mask uint8 (H, W), and its shapes: class, x1, y1, x2, y2."""

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    shapes: list[tuple[int, int, int, int, int]]


def draw_scene(seed: int, height: int = SIDE, width: int = SIDE) -> Scene:
    """Draw one box and one disc that do not touch, on noise."""
    rng = np.random.default_rng(seed)
    image = rng.integers(40, 100, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    half = width // 2
    left = int(rng.integers(0, 2)) * half
    w, h = (int(n) for n in rng.integers(width // 4, width // 3, 2))
    x = left + int(rng.integers(2, half - w - 1))
    y = int(rng.integers(2, height - h - 2))
    cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), (230, 60, 20), cv2.FILLED)
    cv2.rectangle(mask, (x, y), (x + w - 1, y + h - 1), 1, cv2.FILLED)
    radius = int(rng.integers(width // 9, width // 6))
    cx = half - left + int(rng.integers(radius + 1, half - radius - 1))
    cy = int(rng.integers(radius + 1, height - radius - 1))
    cv2.circle(image, (cx, cy), radius, (20, 40, 230), cv2.FILLED)
    cv2.circle(mask, (cx, cy), radius, 2, cv2.FILLED)
    disc = (1, cx - radius, cy - radius, cx + radius + 1, cy + radius + 1)
    return Scene(image, mask, [(0, x, y, x + w, y + h), disc])


def write_scenes(folder: Path, count: int = 24) -> None:
    """Write images/, masks/, instances.json and mask_labels.txt."""
    images, annotations = [], []
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        scene = draw_scene(i)
        cv2.imwrite(str(folder / "images" / f"{i:03d}.png"), scene.image)
        cv2.imwrite(str(folder / "masks" / f"{i:03d}.png"), scene.mask)
        images.append({"id": i, "file_name": f"{i:03d}.png", "height": SIDE, "width": SIDE})
        annotations += [
            {"image_id": i, "category_id": kind + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for kind, x1, y1, x2, y2 in scene.shapes
        ]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / "mask_labels.txt").write_text("\n".join(MASK_CLASSES))


def train_on_scenes(steps: int = 30) -> Any:
    """Train the segmentation head of a tiny network on scenes, and return it, folded.

    Its detection head stays as it was made, and finds nothing: SimOTA takes most of the time.
    """
    import torch

    from yolox_trt.training.masks import mask_loss
    from yolox_trt.training.model_config import ModelConfig
    from yolox_trt.training.weights import fold_batch_norm
    from yolox_trt.training.yolox import YOLOX

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = YOLOX(
        ModelConfig(
            "tiny", 0.1, 0.125, activation="relu6", stem="conv", pool="none", num_classes=2,
            input_size=(SIDE, SIDE), class_names=CLASSES, mask_class_names=MASK_CLASSES,
            mask_stride=2,
        )
    )  # fmt: skip
    scenes = [draw_scene(seed) for seed in range(16)]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([scene.mask for scene in scenes])).long()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(steps):
        chosen = torch.arange(8) + 8 * (step % 2)
        _, logits = model.with_masks(images[chosen].float())
        loss = mask_loss(logits, masks[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for module in model.modules():  # statistics of the weights as they have become
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model.with_masks(images.float())
    return fold_batch_norm(model).eval()
