# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The command yolox_trt: errors are one line, missing rooms say what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolox_trt.cli import main as cli
from yolox_trt.cli.commands import COMMANDS


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command.name.partition(' ')[0]} " in text


def test_an_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "/nowhere.onnx", "--coco", "/nowhere"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("yolox_trt evaluate: ")
    assert "expected" in lines[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["detect", "x.png", "--batch", "0"],
        ["detect", "x.png", "--threads", "-1"],
        ["demo", "--duration", "-3"],
        ["demo", "--size", "0x10"],
        ["publish", "x.png", "--loop", "-1"],
        ["publish", "x.png", "--size", "0x0"],
        ["bench", "cameras", "--cameras", "0"],
        ["bench", "cameras", "--max-batch", "0"],
        ["bench", "cameras", "--size", "0x10"],
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
    assert cli.main(arguments) == 2
    option = next(each for each in reversed(arguments) if each.startswith("--"))
    assert option in capsys.readouterr().err


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
    assert f"set {option}" in capsys.readouterr().err


def test_a_missing_requirement_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert cli.main(["detect", "image.png"]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "'cv2'" in error
    assert "pip install opencv-python-headless" in error
