# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration, with smaller pictures and for a shorter time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from support.ros import Client, RosProcess

from yolox_trt.core.errors import ConfigurationError, YoloxTrtError
from yolox_trt.core.model_spec import METADATA_INPUT_SIZE
from yolox_trt.core.option import from_plain
from yolox_trt.core.shipped_files import default_model
from yolox_trt.engines import model_zoo

pytest.importorskip("skimage", reason="scikit-image carries the photographs")

from yolox_trt.ros.tools import demo
from yolox_trt.ros.tools.child_process import ChildProcess
from yolox_trt.ros.tools.demo import CAMERAS, photographs
from yolox_trt.ros.tools.demo_camera import MovingPicture
from yolox_trt.ros.tools.options import DemoOptions, model_file

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
    options = ["--duration", "3", "--rate", "2", "--size", "480x640", "--device", "cpu"]
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


def test_an_output_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 4242, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(demo, "OtherPrograms", lambda: pytest.fail("it begins"))
    with pytest.raises(ConfigurationError, match="of user"):
        demo.run_demo(DemoOptions(output=tmp_path), say=print, show=print)


def test_one_blind_camera_is_enough_to_fail(client: Client, tmp_path: Path) -> None:
    node = demo.DemoNode(["front", "rear"], tmp_path, context=client.context)
    try:
        node.views["front"].detections = node.views["rear"].detections = 5
        assert demo.problems(node, []) == []
        node.views["rear"].detections = 0
        assert demo.problems(node, []) == ["no detection by rear"]
    finally:
        node.destroy_node()


@pytest.fixture
def node(client: Client, tmp_path: Path) -> Iterator[demo.DemoNode]:
    """What shows two cameras of 10 Hz, from one of which nothing has come for the last second."""
    node = demo.DemoNode(["front", "rear"], tmp_path, context=client.context)
    node.views["front"].arrivals.extend(0.1 * i for i in range(21))
    node.views["rear"].arrivals.extend(0.2 * i for i in range(11))
    yield node
    node.destroy_node()


def test_figures_begin_when_all_cameras_are_there(node: demo.DemoNode) -> None:
    drops = {"dropped": "7", "lost_in_middleware": "1"}
    node.diagnostics["stream front"] = drops
    node.views["front"].latencies.append(3.0)
    assert [row["drops"] for row in node.rows()] == ["8", "0"]
    node.begin()
    assert [row["drops"] for row in node.rows()] == ["0", "0"]
    assert [(row["Hz"], row["ms p50/p99"]) for row in node.rows()] == [("", "")] * 2
    assert not node.views["front"].latencies
    node.diagnostics["stream front"] = drops | {"dropped": "9"}
    node.diagnostics["stream rear"] = {"dropped": "4"}
    assert [row["drops"] for row in node.rows()] == ["2", "4"]


def test_why_pictures_are_left_out(node: demo.DemoNode) -> None:
    node.diagnostics["device cpu"] = {"load": "0.97"}
    text = demo.shortfall(node, DemoOptions(), 0.02)
    assert text == (
        "15 of 20 pictures a second were detected in, the newest first; cpu had no time for more; "
        "fix: set --rate 7, or use a computer with an NVIDIA GPU"
    )
    text = demo.shortfall(node, DemoOptions(rate=10.0), 0.45)
    assert "other programs took 45% of this computer's" in text
    assert "fix: end other programs, or set --rate 7, or" in text
    node.diagnostics.clear()
    node.diagnostics["device gpu"] = {"load": "0.2"}
    text = demo.shortfall(node, DemoOptions(rate=10.0), math.nan)
    assert text.endswith("gpu was busy for 20%; fix: set --rate 7")
    # What the device did before the cameras were there is in its load, too.
    text = demo.shortfall(node, DemoOptions(duration=4.0), math.nan)
    assert text.endswith("the newest first; fix: set --rate 7")


def test_nothing_is_said_where_nearly_all_pictures_were_detected_in(node: demo.DemoNode) -> None:
    node.diagnostics["device cpu"] = {"load": "0.97"}
    assert demo.shortfall(node, DemoOptions(rate=7.8), 0.5) == ""
    assert demo.shortfall(node, DemoOptions(rate=8.0), 0.5) != ""


def test_the_network_sees_no_more_padding_than_it_must(small_model: Path, tmp_path: Path) -> None:
    options = DemoOptions(size=(240, 320))
    assert demo._input_size(options, small_model) == ""
    wishing = onnx.load(small_model)
    wishing.metadata_props.add(key=METADATA_INPUT_SIZE, value='"auto"')
    onnx.save(wishing, tmp_path / "wishing.onnx")
    assert demo._input_size(options, tmp_path / "wishing.onnx") == "64x96"
    upright = DemoOptions(size=(320, 160))
    assert demo._input_size(upright, tmp_path / "wishing.onnx") == "64x32"
    for size, expected in [((96, 64), "96x64"), ("auto", "auto"), ("model", "model")]:
        asked = DemoOptions(input_size=size)
        assert demo._input_size(asked, tmp_path / "wishing.onnx") == expected


def test_a_published_model_is_named_or_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = model_zoo.find("yolox-s")
    there = tmp_path / published.onnx.name
    fetched = []

    def fetch(model: model_zoo.ZooModel, **settings: object) -> dict[str, Path]:
        fetched.append(model.name)
        return {file.name: tmp_path / file.name for file in model.files}

    monkeypatch.setattr(model_zoo, "fetch", fetch)
    asked = from_plain(DemoOptions, {"model": "yolox_s"}).model
    assert not fetched, "only when it is used"
    assert model_file(asked) == there
    assert fetched == ["yolox-s"]
    there.touch()
    assert model_file(from_plain(DemoOptions, {"model": str(there)}).model) == there
    assert model_file(None) == default_model().resolve()
    with pytest.raises(ConfigurationError, match="did you mean yolox-s"):
        from_plain(DemoOptions, {"model": "yolox_sss"})


def test_a_camera_that_dies_is_named(tmp_path: Path) -> None:
    child = ChildProcess("yolox_trt.no_such_module", [], log=tmp_path / "child.log")
    with pytest.raises(YoloxTrtError, match=r"no_such_module ended with status 1: .*fix: see"):
        child.wait_for("what it never says", 60.0)


def test_photographs_are_there() -> None:
    assert all(path.is_file() for path in photographs().values())
