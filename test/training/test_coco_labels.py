# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes and classes of COCO annotation files, and what is wrong with other files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.training.coco_labels import CocoLabels


def test_coco_labels_skip_crowds_and_number_classes(labels: CocoLabels) -> None:
    assert labels.class_names == ["ball", "block"]
    assert labels.boxes[0].tolist() == [[10, 12, 50, 42]]
    assert labels.classes[0].tolist() == [1]


def test_missing_image_is_named(labels: CocoLabels, pictures: Path) -> None:
    (pictures / "03.png").unlink()
    with pytest.raises(ConfigurationError, match=r"03\.png"):
        CocoLabels.load(pictures / "instances.json", pictures)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("not JSON", "not a COCO annotation file"),
        ('{"images": [], "annotations": []}', "no 'categories' in it"),
        ("[1, 2]", "not a COCO annotation file"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "`images` are empty"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "`categories` are empty"),
        ('{"images": [1], "annotations": [], "categories": []}', "not a COCO annotation file"),
    ],
)
def test_a_file_without_annotations_is_named(
    tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "labels.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=f"labels.json.*{message}.*`annotations`"):
        CocoLabels.load(path, tmp_path)


@pytest.mark.parametrize("folder", ["train/", "elsewhere/"])
def test_subfolders_of_file_names(labels: CocoLabels, pictures: Path, folder: str) -> None:
    """The image of that name in the subfolder, or in the folder itself where there is no other."""
    (pictures / "train").mkdir()
    (pictures / "train" / "00.png").write_bytes((pictures / "01.png").read_bytes())
    file = pictures / "instances.json"
    data = json.loads(file.read_text())
    data["images"][0]["file_name"] = f"{folder}00.png"
    file.write_text(json.dumps(data))
    expected = pictures / ("train/00.png" if folder == "train/" else "00.png")
    assert CocoLabels.load(file, pictures).paths[0] == expected
