# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The command yolox_trt: errors are one line, missing rooms say what is missing."""

from __future__ import annotations

import os
import subprocess
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


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("detcet a.jpg", "yolox_trt: unknown command detcet; fix: did you mean yolox_trt detect?"),
        (
            "cache lst",
            "yolox_trt cache: unknown command lst; fix: did you mean yolox_trt cache list?",
        ),
        ("xyz", "yolox_trt: unknown command xyz; fix: see `yolox_trt --help`"),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str], words: str, answer: str
) -> None:
    assert cli.main(words.split()) == 2
    assert capsys.readouterr().err == f"{answer}\n"


def test_help_ends_with_first_steps_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    _, found, steps = capsys.readouterr().out.partition("\nfirst steps:\n\n")
    assert found
    words = [line.split()[:2] for line in steps.splitlines() if line]
    assert [program for program, _ in words] == ["yolox_trt"] * len(words)
    assert {word for _, word in words} - {command.name for command in COMMANDS} == {"COMMAND"}


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
    assert f"'{blocked}', which is a file" in error  # the part of the path that is in the way


def test_an_unknown_class_is_answered_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((64, 64, 3), np.uint8))
    source = [str(tmp_path / "image.png"), "--no-images", "--device", "cpu"]
    assert cli.main(["detect", *source, "--class-score", "persn=0.4"]) == 2
    assert "did you mean person?" in capsys.readouterr().err
    assert cli.main(["detect", *source, "--class-score", "xyz=0.4"]) == 2
    assert "expected one of person, bicycle" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("words", "package", "command"),
    [
        ("detect image.png", "cv2", "pip install opencv-python-headless"),
        ("train --annotations a.json --images a -o b", "torch", "pip install torch"),
        ("evaluate --coco nowhere", "pycocotools", "pip install pycocotools"),
        ("up", "rclpy", "source /opt/ros/$ROS_DISTRO/setup.bash"),
    ],
)
def test_a_missing_package_is_one_line_that_tells_how_to_install_it(
    words: str,
    package: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert f"'{package}'" in error and command in error


def complete(line: str) -> list[str]:
    """Return what a shell is told for a command line with the cursor at its end."""
    ask = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": "/dev/stdout",
    }
    environment = {**os.environ, **ask, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    answer = subprocess.run(
        [sys.executable, "-m", "yolox_trt.cli"], env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    return [word.strip() for word in answer.stdout.split("\n")]


def test_a_shell_completes_commands_options_and_values() -> None:
    assert complete("yolox_trt dist") == ["distill"]
    assert "--head" in complete("yolox_trt optimize m.onnx --h")
    assert set(complete("yolox_trt build m.onnx --precision ")) >= {"fp16", "int8"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_shells_own_code(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["completion", shell]) == 0
    code = capsys.readouterr().out
    assert "yolox_trt" in code
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=code, text=True, check=True)
