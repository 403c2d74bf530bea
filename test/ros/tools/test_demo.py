# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration, with smaller pictures and for a shorter time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.ros import Client, RosProcess

from yolox_trt.core.errors import ConfigurationError, YoloxTrtError
from yolox_trt.core.shipped_files import default_model

pytest.importorskip("skimage", reason="scikit-image carries the photographs")

from yolox_trt.ros.tools import demo
from yolox_trt.ros.tools.child_process import ChildProcess
from yolox_trt.ros.tools.demo import CAMERAS, photographs
from yolox_trt.ros.tools.demo_camera import MovingPicture

Start = Callable[..., RosProcess]


def test_pictures_move_and_keep_the_whole_photograph() -> None:
    photograph = np.full((300, 451, 3), 200, np.uint8)
    picture = MovingPicture(photograph, 240, 360)
    canvas = np.empty((240, 360, 3), np.uint8)
    shares, seen = [], set()
    for index in range(160):
        picture.draw(index / 10, canvas)
        shares.append(np.count_nonzero(canvas > 195) / canvas.size)
        seen.add(canvas.tobytes())
    # The photograph takes as much of the picture as its window lets it, and is never cut off.
    assert min(shares) > 0.6
    assert max(shares) < 1.0
    assert len(seen) > 100


@pytest.mark.ros
@pytest.mark.timeout(240, method="signal")
def test_demo_sees_something_in_every_camera(start: Start, domain: int, tmp_path: Path) -> None:
    try:
        default_model()
    except ConfigurationError:
        pytest.skip("no model is shipped")
    output = tmp_path / "out"
    options = ["--duration", "3", "--rate", "5", "--size", "480x640", "--device", "cpu"]
    process = start(["-m", "yolox_trt.cli", "demo", *options, "--output", str(output)])
    assert process.process.wait(150) == 0, process.output
    assert "every camera detected something" in process.output
    for name in CAMERAS:
        assert name in process.output
        assert "PUBLISHED" in (output / f"{name}.log").read_text()
    pictures = list(output.glob("*.jpg"))
    assert pictures
    shown = cv2.imread(str(pictures[0]))
    assert shown.shape == (480, 640, 3)


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.timeout(240, method="signal")
def test_demo_fails_when_a_camera_sees_nothing(
    start: Start, domain: int, tmp_path: Path, small_model: Path
) -> None:
    options = ["--duration", "1", "--rate", "5", "--size", "240x320", "--device", "cpu"]
    options += ["--model", str(small_model), "--score", "1.0", "--output", str(tmp_path / "out")]
    process = start(["-m", "yolox_trt.cli", "demo", *options])
    assert process.process.wait(150) == 1, process.output
    assert "no detection by astronaut, chelsea, coffee, motorcycle" in process.output


def test_one_blind_camera_is_enough_to_fail(client: Client, tmp_path: Path) -> None:
    node = demo.DemoNode(["front", "rear"], tmp_path, context=client.context)
    try:
        node.views["front"].detections = node.views["rear"].detections = 5
        assert demo.problems(node, []) == []
        node.views["rear"].detections = 0
        assert demo.problems(node, []) == ["no detection by rear"]
    finally:
        node.destroy_node()


def test_a_camera_that_dies_is_named(tmp_path: Path) -> None:
    child = ChildProcess("yolox_trt.no_such_module", [], log=tmp_path / "child.log")
    with pytest.raises(YoloxTrtError, match=r"no_such_module ended with status 1: .*fix: see"):
        child.wait_for("what it never says", 60.0)


def test_photographs_are_there() -> None:
    assert all(path.is_file() for path in photographs().values())
