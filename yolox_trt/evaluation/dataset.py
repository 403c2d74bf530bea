# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Dataset: images with ground truth in COCO's form, from COCO and BDD100K label files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from yolox_trt.core.coco import find_images, name_below, read_instances, read_label_file
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError
from yolox_trt.evaluation.options import DatasetOptions

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

_MEND = "mend the label file"
_NAME_CLASSES = "name the model's classes: yolox_trt optimize MODEL --labels FILE -o OUT"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and their ground truth.

    Attributes:
        images: the ground truth's id -> file, in the order of the label file.
        ground_truth: COCO's form: images, annotations (bbox x y width height), categories.
    """

    images: dict[int, Path]
    ground_truth: dict[str, Any]

    @property
    def category_names(self) -> dict[int, str]:
        """Category id -> name."""
        return {c["id"]: c["name"] for c in self.ground_truth["categories"]}

    def first(self, count: int) -> Dataset:
        """Return the first `count` images with their annotations."""
        images = dict(islice(self.images.items(), count))
        truth = dict(self.ground_truth)
        truth["images"] = [i for i in truth["images"] if i["id"] in images]
        truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in images]
        return Dataset(images, truth)

    def categories_of(
        self, class_names: Sequence[str], num_classes: int | None = None
    ) -> dict[int, int]:
        """Map a model's classes to the categories of the same name.

        Args:
            class_names: the model's classes. Empty where the model does not name them: then its
                classes are the categories in ascending order of ids, if there are as many.
            num_classes: how many classes the model has, None if unknown.

        Returns:
            class id -> category id; classes that the data set does not have are left out.

        Raises:
            ConfigurationError: not one class has a category, a class may be several, or the model
                names none and has another number of them.
        """
        if not class_names:
            if num_classes is not None and num_classes != len(self.category_names):
                raise ConfigurationError(
                    f"{num_classes} classes without names in the model, and "
                    f"{len(self.category_names)} categories in the data set",
                    expected="names, or as many classes as categories",
                    fix=_NAME_CLASSES,
                )
            return dict(enumerate(sorted(self.category_names)))
        found = {}
        for index, name in enumerate(class_names):
            category = self._category_named(name)
            if category is not None:
                found[index] = category
        if not found:
            raise ConfigurationError(
                f"classes {', '.join(class_names[:8])}, ... of the model",
                expected="categories of the data set: "
                + ", ".join(list(self.category_names.values())[:8]),
                fix=_NAME_CLASSES,
            )
        return found

    def _category_named(self, name: str) -> int | None:
        """Return the category of this name; of its synonyms only where none is so called."""
        for form in (str, _plain_name, normal_name):
            same = [id_ for id_, other in self.category_names.items() if form(other) == form(name)]
            if len(same) > 1:
                raise ConfigurationError(
                    f"categories {', '.join(f'{self.category_names[i]} (id {i})' for i in same)}, "
                    f"which all may be the model's class {name}",
                    expected="one category for a class",
                    fix=f"join them in the label file, or {_NAME_CLASSES}",
                )
            if same:
                return same[0]
        return None


def _plain_name(name: str) -> str:
    return name.strip().lower().replace("_", " ")


def normal_name(name: str) -> str:
    """Return a class name as it is compared: lower case, blanks, one of its synonyms."""
    name = _plain_name(name)
    return _SYNONYMS.get(name, name)


def label_files(options: DatasetOptions) -> list[Path]:
    """Return the label files that the options name, or that lie in the folders that they name."""
    if options.bdd100k is not None:
        folder = options.bdd100k
        return sorted(folder.glob("*.json")) if folder.is_dir() else [folder]
    if options.annotations is not None or options.coco is None:
        return [] if options.annotations is None else [options.annotations]
    patterns = ("instances_*.json", "annotations/instances_*.json")
    return sorted({file for pattern in patterns for file in options.coco.glob(pattern)})


def load_dataset(options: DatasetOptions) -> Dataset:
    """Read a labelled data set.

    BDD100K labels are read in both forms: one JSON list of {name, labels: [{category, box2d}]}
    (det_20, the 2018 release), and a folder with one JSON of {name, frames: [{objects: [...]}]}
    for each image. Boxes are x1 y1 x2 y2 in pixels; "other ..." categories and labels without
    box2d (lanes, drivable areas) are left out; labels with attribute `crowd` become COCO's
    iscrowd.

    Raises:
        ConfigurationError: no label file, several, one that is neither COCO's nor BDD100K's or
            lacks something, or missing images.
    """
    dataset = _load_coco(options) if options.bdd100k is None else _load_bdd100k(options)
    return dataset if options.limit is None else dataset.first(options.limit)


def _load_coco(options: DatasetOptions) -> Dataset:
    root, named, found = options.coco, options.named, label_files(options)
    if root is None and not found:
        raise ConfigurationError(
            "no labels",
            expected="a COCO folder, a COCO label file, or BDD100K labels",
            fix=("give ", named["coco"], " DIR, ", named["annotations"], " FILE, or ",
                 named["bdd100k"], " LABELS with ", named["images"], " DIR"),
        )  # fmt: skip
    if root is not None and len(found) != 1:
        listed = ", ".join(str(f.relative_to(root)) for f in found) or "none"
        raise ConfigurationError(
            f"label files in '{root}': {listed}",
            expected="one instances_*.json, in the folder or its annotations/",
            fix=("name it with ", named["annotations"], " FILE"),
        )
    (annotations,) = found
    fix = ("give COCO's instances_*.json with ", named["annotations"],
           ", or BDD100K labels with ", named["bdd100k"])  # fmt: skip
    truth = read_instances(annotations, fix=fix)
    base, subset = root or annotations.parent, annotations.stem.removeprefix("instances_")
    beside = [base / "images", base / subset, base / "images" / subset, base]
    return _with_images(truth, [options.images] if options.images else beside, options)


def _load_bdd100k(options: DatasetOptions) -> Dataset:
    named = options.named
    if options.images is None:
        raise ConfigurationError(
            (named["bdd100k"], " alone"),
            expected="the folder of its images, too",
            fix=("give ", named["images"], " DIR"),
        )
    frames: list[dict[str, Any]] = []
    for file in label_files(options):
        content = read_label_file(file, fix=("give its path with ", named["bdd100k"]))
        with ConfigurationError.instead_of(
            FILE_ERRORS,
            f"'{file}'",
            expected="BDD100K labels: a list of {name, labels}, or {name, frames}",
            fix=("give BDD100K's det_*.json, or ", named["coco"], " for COCO labels"),
        ):
            frames += _bdd_frames(content)
    categories = [{"id": i, "name": name} for i, name in enumerate(BDD100K_CLASSES, start=1)]
    by_synonym = {normal_name(name): i for i, name in enumerate(BDD100K_CLASSES, start=1)}
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    for image_id, frame in enumerate(frames, start=1):
        truth["images"].append({"id": image_id, "file_name": frame["name"]})
        for index, label in enumerate(frame["labels"]):
            with ConfigurationError.instead_of(
                FILE_ERRORS,
                f"label {index} of image {frame['name']}",
                expected="a category, and a box2d with x1, y1, x2, y2 in pixels",
                fix=_MEND,
            ):
                annotation = _bdd_annotation(label, by_synonym)
            if annotation is not None:
                number = len(truth["annotations"]) + 1
                truth["annotations"].append({"id": number, "image_id": image_id, **annotation})
    return _with_images(truth, [options.images], options)


def _bdd_annotation(label: dict[str, Any], categories: dict[str, int]) -> dict[str, Any] | None:
    """Return a label in COCO's form, None for what is no box of a category."""
    box = label.get("box2d")
    category = categories.get(normal_name(label["category"]))
    if category is None or box is None:
        return None
    x1, y1, x2, y2 = (float(box[key]) for key in ("x1", "y1", "x2", "y2"))
    bbox, area = [x1, y1, x2 - x1, y2 - y1], (x2 - x1) * (y2 - y1)
    if not all(map(math.isfinite, (*bbox, area))):
        raise ValueError(f"bbox {bbox}, area {area}")
    return {
        "category_id": category,
        "bbox": bbox,
        "area": area,
        "iscrowd": int(bool((label.get("attributes") or {}).get("crowd"))),
    }


def _bdd_frames(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return [
            {"name": name_below(frame["name"]), "labels": list(frame.get("labels") or ())}
            for frame in content
        ]
    name = name_below(content["name"])
    name = name if Path(name).suffix else f"{name}.jpg"
    return [{"name": name, "labels": list(content["frames"][0]["objects"])}]


def _with_images(
    truth: dict[str, Any], folders: Sequence[Path], options: DatasetOptions
) -> Dataset:
    fix = ("name their folder with ", options.named["images"], " DIR")
    paths = find_images([image["file_name"] for image in truth["images"]], folders, fix=fix)
    ids = (image["id"] for image in truth["images"])
    return Dataset(dict(zip(ids, paths, strict=True)), truth)
