# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The command yolox_trt: errors are one line, missing rooms say what is missing."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from yolox_trt import cli


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
