# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Label files of COCO and BDD100K, and the mapping of classes to categories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from yolox_trt.core import ConfigurationError
from yolox_trt.core.coco import read_instances
from yolox_trt.core.labels import COCO_CATEGORY_IDS, COCO_CLASSES
from yolox_trt.evaluation.dataset import Dataset, load_dataset
from yolox_trt.evaluation.options import DatasetOptions

COCO: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [2, 3, 10, 8], "area": 80, "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 3, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 0},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
}


def write_images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((20, 30, 3), np.uint8))


@pytest.mark.parametrize("labels", ["instances_val2017.json", "annotations/instances_val2017.json"])
@pytest.mark.parametrize("images", ["images", "val2017", "."])
def test_coco_folders(tmp_path: Path, labels: str, images: str) -> None:
    (tmp_path / labels).parent.mkdir(exist_ok=True)
    (tmp_path / labels).write_text(json.dumps(COCO))
    write_images(tmp_path / images, "a.png", "b.png")
    dataset = load_dataset(DatasetOptions(coco=tmp_path))
    assert list(dataset.images) == [7, 9]
    assert all(path.is_file() for path in dataset.images.values())
    assert [a["id"] for a in dataset.first(1).ground_truth["annotations"]] == [1]


def test_coco_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"label files in .*: none"):
        load_dataset(DatasetOptions(coco=tmp_path))
    (tmp_path / "instances_a.json").write_text(json.dumps(COCO))
    with pytest.raises(ConfigurationError, match=r"2 of 2 images missing.*a\.png"):
        load_dataset(DatasetOptions(coco=tmp_path))
    write_images(tmp_path / "images", "a.png")
    with pytest.raises(ConfigurationError, match=r"1 of 2 images missing.*b\.png"):
        load_dataset(DatasetOptions(coco=tmp_path))
    (tmp_path / "instances_b.json").write_text("[]")
    with pytest.raises(ConfigurationError, match=r"instances_a\.json, instances_b\.json"):
        load_dataset(DatasetOptions(coco=tmp_path))
    with pytest.raises(ConfigurationError, match="COCO instances"):
        load_dataset(DatasetOptions(coco=tmp_path, annotations=tmp_path / "instances_b.json"))


def test_categories_by_name(tmp_path: Path) -> None:
    (tmp_path / "instances_a.json").write_text(json.dumps(COCO))
    write_images(tmp_path / "images", "a.png", "b.png")
    dataset = load_dataset(DatasetOptions(coco=tmp_path))
    assert dataset.categories_of(COCO_CLASSES) == {0: 1, 2: 3}
    assert dataset.categories_of(["Car", "tree", "pedestrian"]) == {0: 3, 2: 1}
    assert dataset.categories_of([]) == {0: 1, 1: 3}
    with pytest.raises(ConfigurationError, match="--labels"):
        dataset.categories_of(["tree"])


def test_coco_ids(data_dir: Path) -> None:
    dataset = load_dataset(DatasetOptions(coco=data_dir / "coco_mini_val79"))
    assert len(dataset.images) == 79
    assert dataset.categories_of(COCO_CLASSES) == dict(enumerate(COCO_CATEGORY_IDS))


LABELS = [
    {"category": "person", "box2d": {"x1": 1, "y1": 2, "x2": 11, "y2": 7}},
    {"category": "bike", "box2d": {"x1": 0, "y1": 0, "x2": 4, "y2": 4}},
    {
        "category": "car",
        "box2d": {"x1": 5, "y1": 5, "x2": 9, "y2": 9},
        "attributes": {"crowd": True},
    },
    {"category": "lane/single white", "poly2d": []},
    {"category": "other vehicle", "box2d": {"x1": 0, "y1": 0, "x2": 4, "y2": 4}},
]


@pytest.mark.parametrize("form", ["list", "folder"])
def test_bdd100k(tmp_path: Path, form: str) -> None:
    write_images(tmp_path / "images", "a.jpg", "b.jpg")
    if form == "list":
        labels = tmp_path / "det_val.json"
        labels.write_text(json.dumps([{"name": "a.jpg", "labels": LABELS}, {"name": "b.jpg"}]))
    else:
        labels = tmp_path / "labels"
        labels.mkdir()
        for name, objects in (("a", LABELS), ("b", [])):
            content = {"name": name, "frames": [{"objects": objects}]}
            (labels / f"{name}.json").write_text(json.dumps(content))
    dataset = load_dataset(DatasetOptions(bdd100k=labels, images=tmp_path / "images"))
    assert [path.name for path in dataset.images.values()] == ["a.jpg", "b.jpg"]
    found = [
        (dataset.category_names[a["category_id"]], a["bbox"], a["area"], a["iscrowd"])
        for a in dataset.ground_truth["annotations"]
    ]
    assert found == [
        ("pedestrian", [1, 2, 10, 5], 50, 0),
        ("bicycle", [0, 0, 4, 4], 16, 0),
        ("car", [5, 5, 4, 4], 16, 1),
    ]
    assert dataset.categories_of(COCO_CLASSES)[0] == 1
    with pytest.raises(ConfigurationError, match="BDD100K labels"):
        bad = tmp_path / "bad.json"
        bad.write_text("[1, 2]")
        load_dataset(DatasetOptions(bdd100k=bad, images=tmp_path / "images"))


BOX = {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("part", "entries", "message"),
    [
        ("images", None, "images = None.*a list"),
        ("images", [{"id": 7}], r"images\[0\] of .*file_name.*expected an id and a file_name"),
        ("images", [*COCO["images"], COCO["images"][0]], "2 images with id 7"),
        ("categories", [{"id": 1}], r"categories\[0\] of .*name"),
        ("annotations", [{"image_id": 7, "category_id": 1}], r"annotations\[0\] of .*bbox"),
        ("annotations", [{"image_id": 7, "category_id": 1, "bbox": [1, 2]}], "width, height"),
        ("annotations", [{**BOX, "bbox": [1, 2, 3, "nan"]}], r"annotations\[0\] of .*nan"),
        ("annotations", [{**BOX, "area": "inf"}], r"annotations\[0\] of .*inf"),
        ("annotations", [{**BOX, "area": float("nan")}], "NaN, which is no number of JSON"),
        ("images", [{"id": 1, "file_name": "../../a.png"}], "'../../a.png' leads out of"),
        ("images", [{"id": 1, "file_name": "/etc/passwd"}], "'/etc/passwd' leads out of"),
    ],
)
def test_incomplete_coco_labels(tmp_path: Path, part: str, entries: Any, message: str) -> None:
    path = tmp_path / "instances_a.json"
    path.write_text(json.dumps({**COCO, part: entries}))
    with pytest.raises(ConfigurationError, match=message):
        load_dataset(DatasetOptions(annotations=path))


def test_what_label_tools_leave_out(tmp_path: Path) -> None:
    """No area and no iscrowd, and ids as text."""
    write_images(tmp_path, "a.png")
    truth = {
        "images": [{"id": "7", "file_name": "a.png"}],
        "annotations": [{"image_id": "7", "category_id": "1", "bbox": [2, 3, 10, 8]}],
        "categories": [{"id": "1", "name": "person"}],
    }
    (tmp_path / "instances_a.json").write_text(json.dumps(truth))
    dataset = load_dataset(DatasetOptions(coco=tmp_path))
    (annotation,) = dataset.first(1).ground_truth["annotations"]
    assert (annotation["area"], annotation["iscrowd"], annotation["image_id"]) == (80, 0, 7)
    assert dataset.categories_of(["person"]) == {0: 1}


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("annotations", {"iscrowd": 1e27}),
        ("annotations", {"iscrowd": 2}),
        ("annotations", {"image_id": 10**19}),
        ("annotations", {"category_id": 2**64 - 1}),
        ("categories", {"id": 2**63}),
        ("images", {"id": 1e300}),
        ("images", {"width": 10**19}),
        ("images", {"height": 0}),
    ],
)
def test_numbers_that_no_label_has(tmp_path: Path, part: str, change: dict[str, Any]) -> None:
    """They are told before any image is looked at."""
    truth: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a.png", "height": 4, "width": 5}],
        "annotations": [{"image_id": 7, "category_id": 1, "bbox": [2, 3, 10, 8]}],
        "categories": [{"id": 1, "name": "person"}],
    }
    truth[part][0] |= change
    path = tmp_path / "instances_a.json"
    path.write_text(json.dumps(truth))
    with pytest.raises(ConfigurationError, match=rf"{part}\[0\] of .* which is not from"):
        read_instances(path, sizes=True, fix="mend it")


@pytest.mark.parametrize(
    "label",
    [
        {"box2d": {}},
        {"category": "car", "box2d": {"x1": 1, "y1": 2, "x2": 3}},
        {"category": "car", "box2d": {"x1": 1, "y1": 2, "x2": 3, "y2": "nan"}},
        {"category": "car", "box2d": {"x1": -1e308, "y1": 2, "x2": 1e308, "y2": 3}},
    ],
)
def test_incomplete_bdd100k_labels(tmp_path: Path, label: dict[str, Any]) -> None:
    write_images(tmp_path, "a.jpg")
    labels = tmp_path / "det.json"
    labels.write_text(json.dumps([{"name": "a.jpg", "labels": [LABELS[0], label]}]))
    with pytest.raises(ConfigurationError, match=r"label 1 of image a\.jpg.*mend the label file"):
        load_dataset(DatasetOptions(bdd100k=labels, images=tmp_path))


def named(*names: str) -> Dataset:
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    return Dataset({}, {"images": [], "annotations": [], "categories": categories})


def test_classes_without_names_are_the_categories_only_if_there_are_as_many() -> None:
    assert named("a", "b").categories_of([], 2) == {0: 1, 1: 2}
    with pytest.raises(ConfigurationError, match=r"80 classes .* 2 categories.*--labels"):
        named("a", "b").categories_of([], 80)


def test_a_category_of_the_same_name_goes_before_a_synonym() -> None:
    dataset = named("pedestrian", "person")
    assert dataset.categories_of(["person"]) == {0: 2}
    assert dataset.categories_of(["person", "pedestrian"]) == {0: 2, 1: 1}
    with pytest.raises(ConfigurationError, match=r"motor \(id 1\), motorbike \(id 2\).*motorcycle"):
        named("motor", "motorbike").categories_of(["motorcycle"])
    with pytest.raises(ConfigurationError, match="one category for a class"):
        named("car", "car").categories_of(["car"])
