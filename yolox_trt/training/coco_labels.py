# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes and classes of a COCO annotation file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import options_of
from yolox_trt.training.options import TrainJob

_EXPECTED = "JSON with `images`, `annotations` and `categories`, such as instances_train2017.json"


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
        try:
            data = json.loads(Path(annotations).read_text(encoding="utf-8"))
            return cls._from_dict(data, annotations, Path(images))
        except OSError as error:
            raise ConfigurationError(
                f"'{annotations}' cannot be read ({error.strerror or error})",
                expected=_EXPECTED,
                fix=("give the path of such a file as ", options_of(TrainJob)["annotations"]),
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, ConfigurationError):
                raise
            missing = f"no {error} in it" if isinstance(error, KeyError) else str(error)
            raise ConfigurationError(
                f"'{annotations}' that is not a COCO annotation file ({missing})",
                expected=_EXPECTED,
                fix=("give the path of such a file as ", options_of(TrainJob)["annotations"]),
            ) from error

    @classmethod
    def _from_dict(cls, data: Any, annotations: str | Path, images: Path) -> CocoLabels:
        categories = sorted(data["categories"], key=lambda c: c["id"])
        index = {c["id"]: i for i, c in enumerate(categories)}
        by_image: dict[int, list[tuple[list[float], int]]] = {i["id"]: [] for i in data["images"]}
        for a in data["annotations"]:
            x, y, w, h = (float(v) for v in a["bbox"])
            if not all(map(math.isfinite, (x, y, w, h))):
                raise ValueError(f"bbox {a['bbox']}")
            if not a.get("iscrowd") and w > 1 and h > 1 and a["image_id"] in by_image:
                by_image[a["image_id"]].append(([x, y, x + w, y + h], index[a["category_id"]]))
        for part, entries in (("images", by_image), ("categories", categories)):
            if not entries:
                raise ValueError(f"its `{part}` are empty")
        paths, boxes, classes, sizes = [], [], [], []
        for image in data["images"]:
            path = images / image["file_name"]
            if not path.is_file():
                # Some label files name the folder of the whole set, which `images` is already.
                path = images / path.name
            if not path.is_file():
                raise ConfigurationError(
                    f"no image {path}",
                    expected=f"every image that {annotations} names",
                    fix="add the image, or give the folder that holds it",
                )
            items = by_image[image["id"]]
            paths.append(path)
            boxes.append(torch.tensor([b for b, _ in items], dtype=torch.float32).reshape(-1, 4))
            classes.append(torch.tensor([c for _, c in items], dtype=torch.int64))
            sizes.append((int(image["height"]), int(image["width"])))
        return cls(paths, boxes, classes, sizes, [c["name"] for c in categories])
