# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Dataset: images with ground truth in COCO's form, from COCO and BDD100K label files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolox_trt.core.errors import ConfigurationError

#: Other names of a class, so that a model trained on one data set is measured on another one.
_SYNONYMS: dict[str, str] = {
    "pedestrian": "person",
    "motor": "motorcycle",
    "motorbike": "motorcycle",
    "bike": "bicycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "pottedplant": "potted plant",
}

#: Classes of BDD100K detection, in the order of its own COCO conversion (ids from 1).
BDD100K_CLASSES: tuple[str, ...] = (
    "pedestrian",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
    "traffic light",
    "traffic sign",
)


@dataclass(frozen=True)
class DatasetImage:
    """One image of a Dataset.

    Attributes:
        image_id: the ground truth's id.
        path: the file.
    """

    image_id: int
    path: Path


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and their ground truth.

    Attributes:
        images: in the order of the label file.
        ground_truth: COCO's form: images, annotations (bbox x y width height), categories.
    """

    images: tuple[DatasetImage, ...]
    ground_truth: dict[str, Any]

    @property
    def category_names(self) -> dict[int, str]:
        """Category id -> name."""
        return {c["id"]: c["name"] for c in self.ground_truth["categories"]}

    def first(self, count: int) -> Dataset:
        """Return the first `count` images with their annotations."""
        images = self.images[:count]
        ids = {image.image_id for image in images}
        truth = dict(self.ground_truth)
        truth["images"] = [i for i in truth["images"] if i["id"] in ids]
        truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in ids]
        return Dataset(images, truth)

    def categories_of(self, class_names: Sequence[str]) -> dict[int, int]:
        """Map a model's classes to the categories of the same name.

        Args:
            class_names: the model's classes. Empty where the model does not name them: then its
                classes are the categories in ascending order of ids, if there are as many.

        Returns:
            class id -> category id; classes that the data set does not have are left out.

        Raises:
            ConfigurationError: not one class has a category.
        """
        if not class_names:
            return dict(enumerate(sorted(self.category_names)))
        by_name = {normal_name(name): id_ for id_, name in self.category_names.items()}
        found = {
            index: by_name[normal_name(name)]
            for index, name in enumerate(class_names)
            if normal_name(name) in by_name
        }
        if not found:
            raise ConfigurationError(
                f"classes {', '.join(class_names[:8])}, ... of the model",
                expected="categories of the data set: "
                + ", ".join(list(self.category_names.values())[:8]),
                fix="name the model's classes with --labels FILE",
            )
        return found


def normal_name(name: str) -> str:
    """Return a class name as it is compared: lower case, blanks, one of its synonyms."""
    name = name.strip().lower().replace("_", " ")
    return _SYNONYMS.get(name, name)


def load_coco(
    folder: str | Path | None = None,
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> Dataset:
    """Read a COCO data set.

    Args:
        folder: holds instances_*.json (itself, or in annotations/) and the images (in images/,
            val2017/, train2017/ or itself).
        annotations: the label file, where the folder has none or several.
        images: the folder of the images, likewise.

    Raises:
        ConfigurationError: no label file, several, one that is not COCO's, or missing images.
    """
    root = Path(folder) if folder is not None else None
    if annotations is None:
        if root is None:
            raise ConfigurationError(
                "no labels",
                expected="a COCO folder, a COCO label file, or BDD100K labels",
                fix="give --coco DIR, --annotations FILE, or --bdd100k LABELS with --images DIR",
            )
        found = sorted({*root.glob("instances_*.json"), *root.glob("annotations/instances_*.json")})
        if len(found) != 1:
            listed = ", ".join(str(f.relative_to(root)) for f in found) or "none"
            raise ConfigurationError(
                f"label files in '{root}': {listed}",
                expected="one instances_*.json, in the folder or its annotations/",
                fix="name it with --annotations FILE",
            )
        annotations = found[0]
    truth = _read_json(annotations)
    if not isinstance(truth, dict) or not {"images", "annotations", "categories"} <= truth.keys():
        raise ConfigurationError(
            f"'{annotations}'",
            expected="COCO instances: an object with images, annotations, categories",
            fix="give COCO's instances_*.json, or --bdd100k for BDD100K labels",
        )
    base = root or Path(annotations).parent
    candidates = [Path(images)] if images is not None else []
    if images is None:
        subset = Path(annotations).stem.removeprefix("instances_")
        candidates = [base / "images", base / subset, base / "images" / subset, base]
    names = [image["file_name"] for image in truth["images"]]
    where = _folder_of(candidates, names)
    entries = tuple(
        DatasetImage(int(image["id"]), where / image["file_name"]) for image in truth["images"]
    )
    return Dataset(entries, truth)


def load_bdd100k(labels: str | Path, images: str | Path) -> Dataset:
    """Read BDD100K detection labels.

    Both forms are read: one JSON list of {name, labels: [{category, box2d}]} (det_20, the 2018
    release), and a folder with one JSON of {name, frames: [{objects: [...]}]} for each image.
    Boxes are x1 y1 x2 y2 in pixels; "other ..." categories and labels without box2d (lanes,
    drivable areas) are left out; labels with attribute `crowd` become COCO's iscrowd.

    Args:
        labels: the JSON file or folder.
        images: the folder of the images.

    Raises:
        ConfigurationError: labels that have neither form, or missing images.
    """
    path = Path(labels)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    frames: list[dict[str, Any]] = []
    for file in files:
        content = _read_json(file)
        try:
            frames += _bdd_frames(content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"'{file}'",
                expected="BDD100K labels: a list of {name, labels}, or {name, frames}",
                fix="give BDD100K's det_*.json, or --coco for COCO labels",
            ) from error
    ids = {name: i + 1 for i, name in enumerate(BDD100K_CLASSES)}
    by_synonym = {normal_name(name): id_ for name, id_ in ids.items()}
    truth: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for name, i in ids.items()],
    }
    where = _folder_of([Path(images)], [frame["name"] for frame in frames])
    entries = []
    for image_id, frame in enumerate(frames, start=1):
        truth["images"].append({"id": image_id, "file_name": frame["name"]})
        entries.append(DatasetImage(image_id, where / frame["name"]))
        for label in frame.get("labels") or ():
            category = by_synonym.get(normal_name(label["category"]))
            box = label.get("box2d")
            if category is None or box is None:
                continue
            width, height = box["x2"] - box["x1"], box["y2"] - box["y1"]
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [box["x1"], box["y1"], width, height],
                    "area": width * height,
                    "iscrowd": int(bool((label.get("attributes") or {}).get("crowd"))),
                }
            )
    return Dataset(tuple(entries), truth)


def _bdd_frames(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return [{"name": frame["name"], "labels": frame.get("labels")} for frame in content]
    name = content["name"]
    name = name if Path(name).suffix else f"{name}.jpg"
    return [{"name": name, "labels": content["frames"][0]["objects"]}]


def _read_json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"label file '{path}' that cannot be read ({error})",
            expected="a JSON file",
            fix="give its path with --annotations FILE or --bdd100k LABELS",
        ) from error


def _folder_of(candidates: Sequence[Path], names: Sequence[str]) -> Path:
    """Return the first folder that holds the images; name what is missing if none does."""
    if not names:
        raise ConfigurationError(
            "a label file without images",
            expected="at least one image",
            fix="give another with --annotations FILE or --bdd100k LABELS",
        )
    for folder in candidates:
        if (folder / names[0]).is_file():
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                raise ConfigurationError(
                    f"{len(missing)} of {len(names)} images missing in '{folder}' "
                    f"({missing[0]}, ...)",
                    expected="all images of the label file",
                    fix="name their folder with --images DIR",
                )
            return folder
    raise ConfigurationError(
        f"no image {names[0]} in {', '.join(map(str, candidates))}",
        expected="the images of the label file",
        fix="name their folder with --images DIR",
    )
