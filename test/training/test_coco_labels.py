# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes and classes of COCO annotation files, and what is wrong with other files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.training.coco_labels import CocoLabels


def test_coco_labels_skip_crowds_and_number_classes(labels: CocoLabels) -> None:
    assert labels.class_names == ["ball", "block"]
    assert labels.boxes[0].tolist() == [[10, 12, 50, 42]]
    assert labels.classes[0].tolist() == [1]


def test_missing_image_is_named(labels: CocoLabels, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"00\.png"):
        CocoLabels.load(pictures / "instances.json", tmp_path)


IMAGE = '{"id": 1, "file_name": "a.png", "height": 9, "width": 9}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file.*`annotations`"),
        ("not JSON", "cannot be read.*`annotations`"),
        ('{"images": [], "annotations": []}', "with images, categories, .*`annotations`"),
        ("[1, 2]", "COCO instances.*`annotations`"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', r"images = \[\]"),
        (f'{{"images": [{IMAGE}], "annotations": [], "categories": []}}', r"categories = \[\]"),
        ('{"images": [1], "annotations": [], "categories": []}', r"images\[0\]"),
        (
            f'{{"images": [{IMAGE}], "categories": [{{"id": 1, "name": "a"}}], "annotations": '
            '[{"image_id": 1, "category_id": 2, "bbox": [1, 1, 5, 5]}]}',
            "category 2",
        ),
        (
            f'{{"images": [{IMAGE}], "categories": [{{"id": 1, "name": "a"}}], "annotations": '
            '[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, NaN]}]}',
            r"NaN, which is no number",
        ),
    ],
)
def test_a_file_without_annotations_is_named(
    tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "labels.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        CocoLabels.load(path, tmp_path)


@pytest.mark.parametrize("folder", ["train/", "elsewhere/"])
def test_subfolders_of_file_names(
    labels: CocoLabels, pictures: Path, tmp_path: Path, folder: str
) -> None:
    """The image of that name in the subfolder, or in the folder itself where there is no other."""
    pictures = shutil.copytree(pictures, tmp_path / "copy")
    (pictures / "train").mkdir()
    (pictures / "train" / "00.png").write_bytes((pictures / "01.png").read_bytes())
    file = pictures / "instances.json"
    data = json.loads(file.read_text())
    data["images"][0]["file_name"] = f"{folder}00.png"
    file.write_text(json.dumps(data))
    expected = pictures / ("train/00.png" if folder == "train/" else "00.png")
    assert CocoLabels.load(file, pictures).paths[0] == expected
