# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What a command shows, and where its document goes."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from yolox_trt.cli.output import STANDARD_OUTPUT, Output
from yolox_trt.core.device import Device


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Figures:
    mean: float
    path: Path


def test_without_json_only_the_tables_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.table("Title", ("a",), [("1",)])
    output.json({"a": 1})
    assert capsys.readouterr().out == "Title\na\n-\n1\n\n"


def test_json_on_the_standard_output_is_alone_there(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(STANDARD_OUTPUT)
    output.table("Title", ("a",), [("1",)])
    output.print("text")
    output.json({"a": 1})
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def test_json_in_a_file_stands_beside_the_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    output = Output(path)
    output.print("text")
    output.json({"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    assert capsys.readouterr().out == f"text\nWrote {path}\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_document_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        Output(path).json({"a": Broken()})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_document_may_hold(capsys: pytest.CaptureFixture[str]) -> None:
    Output(STANDARD_OUTPUT).json(
        {
            Device("gpu"): Figures(math.nan, Path("a/b")),
            "devices": [Device("dla", 1)],
            "array": np.arange(3, dtype=np.float32),
            "none": None,
            "colour": Colour.RED,
            "infinite": np.float64(math.inf),
            "flag": np.bool_(True),
        }
    )
    assert json.loads(capsys.readouterr().out) == {
        "gpu": {"mean": None, "path": "a/b"},
        "devices": ["dla1"],
        "array": [0.0, 1.0, 2.0],
        "none": None,
        "colour": "red",
        "infinite": None,
        "flag": True,
    }


def test_lines_are_broken_in_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "word " * 30
    Output().print(text)
    assert len(capsys.readouterr().out.splitlines()) == 1
    monkeypatch.setattr(Output, "width", 80)
    Output().print(text)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_of_unknown_length_shows_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    with Output().progress() as progress:
        progress("drive", 113, None)
        progress("bag", 30, 120, "note")
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*\w", "", shown.getvalue()))
    assert any(re.match(r"drive\b.* 113 ", line) for line in lines), lines
    assert any(re.match(r"bag\b.* 25 % .*note", line) for line in lines), lines
    assert not any("?" in line for line in lines)


def test_a_log_tells_how_long_the_rest_will_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr("yolox_trt.cli.output.time.monotonic", lambda: clock[0])
    with Output().progress() as progress:
        for done in range(1, 6):
            progress("layers", done, 21, "note")
            clock[0] += 3.0
    assert capsys.readouterr().err == "layers: 24 %, 48 s left note\n"
