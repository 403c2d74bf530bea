# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes and classes of a COCO annotation file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from yolox_trt.core.coco import find_images, read_instances
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import options_of
from yolox_trt.training.options import TrainJob
from yolox_trt.training.ranks import Ranks


@dataclass(frozen=True)
class CocoLabels:
    """A labelled set of images.

    Attributes:
        paths: image files.
        boxes: for each image float32 (G, 4), x1 y1 x2 y2 in pixels of the annotated size.
        classes: for each image int64 (G,), index into `class_names`.
        sizes: annotated (height, width) of each image.
        class_names: in the order of the category ids.
    """

    paths: list[Path]
    boxes: list[Tensor]
    classes: list[Tensor]
    sizes: list[tuple[int, int]]
    class_names: list[str]

    @classmethod
    def load(cls, annotations: str | Path, images: str | Path) -> CocoLabels:
        """Read an `instances_*.json`; crowd regions and empty boxes are left out.

        Raises:
            ConfigurationError: when the file is no COCO annotation file, or an annotated image is
                not in the folder.
        """
        named = options_of(TrainJob)
        fix = ("give the path of such a file as ", named["annotations"])
        truth = read_instances(Path(annotations), sizes=True, fix=fix)
        categories = sorted(truth["categories"], key=lambda c: c["id"])
        index = {c["id"]: i for i, c in enumerate(categories)}
        boxes: dict[int, list[list[float]]] = {image["id"]: [] for image in truth["images"]}
        classes: dict[int, list[int]] = {image["id"]: [] for image in truth["images"]}
        for a in truth["annotations"]:
            x, y, w, h = a["bbox"]
            if a["category_id"] not in index:
                raise ConfigurationError(
                    f"an annotation of category {a['category_id']} in '{annotations}'",
                    expected=f"one of its categories: {', '.join(map(str, index))}",
                    fix="mend the label file",
                )
            if not a["iscrowd"] and w > 1 and h > 1 and a["image_id"] in boxes:
                boxes[a["image_id"]].append([x, y, x + w, y + h])
                classes[a["image_id"]].append(index[a["category_id"]])
        names = [image["file_name"] for image in truth["images"]]
        give = ("add the images, or give their folder as ", named["images"])
        return cls(
            find_images(names, [Path(images)], flat=True, fix=give),
            [torch.tensor(found, dtype=torch.float32).reshape(-1, 4) for found in boxes.values()],
            [torch.tensor(found, dtype=torch.int64) for found in classes.values()],
            [(image["height"], image["width"]) for image in truth["images"]],
            [c["name"] for c in categories],
        )

    def part(self, ranks: Ranks) -> CocoLabels:
        """Return the images of one of the processes of a run."""
        if ranks.count == 1:
            return self
        per_image = ("paths", "boxes", "classes", "sizes")
        return replace(self, **{name: ranks.part(getattr(self, name)) for name in per_image})
