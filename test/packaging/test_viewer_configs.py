# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The configurations of RViz, Foxglove and diagnostic_aggregator name what the nodes publish."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml


def cameras(repository: Path) -> list[str]:
    document = yaml.safe_load((repository / "config" / "multi_camera.yaml").read_text())
    return list(document["/**/multi_camera"]["ros__parameters"]["cameras"])


def test_foxglove_shows_every_camera_with_its_boxes(repository: Path) -> None:
    layout = json.loads((repository / "config" / "foxglove_layout.json").read_text())
    panels = layout["configById"]
    for camera in cameras(repository):
        panel = panels[f"Image!{camera}"]["imageMode"]
        assert panel["imageTopic"] == f"/{camera}/image_raw"
        assert list(panel["annotations"]) == [f"/{camera}/image_annotations"]
    shown = re.findall(r'"(\w+!\w+)"', json.dumps(layout["layout"]))
    assert sorted(shown) == sorted(panels)


def test_rviz_shows_every_camera(repository: Path) -> None:
    document = yaml.safe_load((repository / "config" / "yolox_trt.rviz").read_text())
    topics = [each["Topic"]["Value"] for each in document["Visualization Manager"]["Displays"]]
    assert topics == [f"/{camera}/annotated" for camera in cameras(repository)]


def test_the_aggregator_takes_every_entry_once(repository: Path) -> None:
    document = yaml.safe_load((repository / "config" / "diagnostic_aggregator.yaml").read_text())
    group = document["analyzers"]["ros__parameters"]["yolox_trt"]["analyzers"]
    for entry in ("executor", "stream front", "device dla0"):
        for node in ("multi_camera", "car/multi_camera"):
            name = f"{node}: {entry}"
            taken = [a["regex"] for a in group.values() if re.fullmatch(a["regex"][0], name)]
            assert len(taken) == 1, name
