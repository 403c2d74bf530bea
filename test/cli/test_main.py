# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The command yolox_trt: errors are one line, missing rooms say what is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from yolox_trt.cli import main as cli


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    for commands in cli.ROOMS.values():
        for command in commands:
            assert command in text


def test_an_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "/nowhere.onnx", "--coco", "/nowhere"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("yolox_trt evaluate: ")
    assert "expected" in lines[0]


def test_a_room_that_cannot_be_imported_shows_its_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rclpy", None)
    broken = {"no_such_package_for_ros.cli": ("replay", "demo")}
    monkeypatch.setattr(cli, "ROOMS", broken)
    assert cli.main([]) == 0
    assert "not available here: no_such_package_for_ros is missing" in capsys.readouterr().out
    assert cli.main(["replay", "some.bag", "--rate", "2"]) == 2
    assert "no_such_package_for_ros" in capsys.readouterr().err


def test_commands_named_here_are_the_ones_that_rooms_add() -> None:
    import argparse
    import importlib

    for room, commands in cli.ROOMS.items():
        try:
            module: ModuleType = importlib.import_module(room)
        except ImportError:
            continue
        parser = argparse.ArgumentParser()
        subparsers = parser.add_subparsers()
        module.add_parsers(subparsers)
        assert set(subparsers.choices) == set(commands), room


@pytest.mark.parametrize(
    "arguments",
    [
        ["detect", "x.png", "--batch", "0"],
        ["detect", "x.png", "--threads", "-1"],
        ["demo", "--duration", "-3"],
        ["demo", "--size", "0", "10"],
        ["publish", "x.png", "--loop", "-1"],
        ["publish", "x.png", "--size", "0", "0"],
        ["bench", "cameras", "--cameras", "0"],
        ["bench", "cameras", "--max-batch", "0"],
        ["bench", "cameras", "--size", "0", "10"],
        ["bench", "cameras", "--rate", "0"],
        ["bench", "ros", "--cameras", "0"],
        ["bench", "ros-transport", "--duration", "0"],
        ["bench", "cpu", "--seconds", "0"],
        ["bench", "executor", "--streams", "0"],
        ["bench", "executor", "--engine-ms", "-1"],
    ],
)
def test_numbers_out_of_range_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    option = next(each for each in reversed(arguments) if each.startswith("--"))
    assert f"argument {option}: " in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((64, 64, 3), np.uint8))
    blocked = tmp_path / "file"
    blocked.write_text("")
    arguments = ["detect", str(tmp_path / "image.png"), "--output", str(blocked / "out")]
    assert cli.main([*arguments, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert str(blocked / "out") in error


def test_an_unknown_class_is_answered_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((64, 64, 3), np.uint8))
    source = [str(tmp_path / "image.png"), "--no-images", "--device", "cpu"]
    assert cli.main(["detect", *source, "--class-score", "persn=0.4"]) == 2
    assert "did you mean person?" in capsys.readouterr().err
    assert cli.main(["detect", *source, "--class-score", "xyz=0.4"]) == 2
    assert "take one of person, bicycle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--score", "3"),
        ("--nms", "9"),
        ("--max-detections", "0"),
        ("--class-score", "0=1.5"),
        ("--labels", "nowhere.txt"),
        ("--device", "npu"),
    ],
)
def test_the_fix_is_an_option_of_the_command(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((64, 64, 3), np.uint8))
    source = [str(tmp_path / "image.png"), "--no-images", "--device", "cpu"]
    assert cli.main(["detect", *source, option, value]) == 2
    assert f"set `{option}`" in capsys.readouterr().err


def test_a_missing_requirement_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "yolox_trt.evaluation.detect", raising=False)
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert cli.main(["detect", "image.png"]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "'cv2' is missing" in error
    assert "pip install opencv-python-headless" in error
