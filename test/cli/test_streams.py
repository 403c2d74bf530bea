# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What becomes of a command whose standard streams take nothing, or not all letters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from support.frames import random_frame
from support.web import Server
from support.yolox_graphs import build_yolox

from yolox_trt.cli import main as cli
from yolox_trt.cli.commands.models import ModelsList
from yolox_trt.cli.output import Output

PROGRAM = f"{sys.executable} -m yolox_trt.cli"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(build_yolox(num_classes=5, metadata=True), path)
    return path


def shell(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in bash, whose status is the last one of a pipe that is not 0."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        env={**os.environ, "YOLOX_TRT_CACHE": str(folder), **variables},
    )


def detect(model: Path, *words: str) -> str:
    common = f"--model {model} --device cpu --threads 1 --no-images"
    return " ".join([PROGRAM, "detect", common, *words])


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    run = shell(f"{PROGRAM} models list | head -1", tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(run.stdout.splitlines()) == 1
    run = shell(f"{PROGRAM} detect --help | true", tmp_path)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("reader", ["| true", "2>&1 | true", ">&-", ">&- 2>&-"])
def test_the_work_is_done_where_nobody_reads(model: Path, tmp_path: Path, reader: str) -> None:
    pixels = np.array(random_frame("bgr8", 96, 144).rows)
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), pixels)
    words = ("a.png b.png c.png --score 0.05 --json out.json --csv out.csv -v", reader)
    run = shell(detect(model, *words), tmp_path)
    assert (run.returncode, run.stdout) == (0, "")
    assert "Traceback" not in run.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert {entry["file_name"] for entry in found} == {"a.png", "b.png", "c.png"}
    assert len((tmp_path / "out.csv").read_text().splitlines()) == len(found) + 1


def test_a_document_that_was_not_read_to_its_end_is_told(tmp_path: Path) -> None:
    run = shell(f"{PROGRAM} models list --json | true", tmp_path)
    assert (run.returncode, run.stderr) == (141, "")


def test_a_camera_ends_with_its_reader_and_what_it_wrote_is_whole(
    model: Path, tmp_path: Path
) -> None:
    with Server() as server:
        address = server.camera(np.array(random_frame("bgr8", 96, 144).rows))
        run = shell(detect(model, address, "--csv out.csv | head -1"), tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "out.csv").read_text().startswith("image,number,class")


def test_a_broken_socket_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(self: ModelsList, output: Output) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(ModelsList, "run", run)
    assert cli.main(["models", "list"]) == 2
    assert "Broken pipe" in capsys.readouterr().err


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    run = shell(f"{PROGRAM} models list > /dev/full", tmp_path)
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1 and "No space left" in run.stderr


def test_closed_streams_change_no_status(model: Path, tmp_path: Path) -> None:
    run = shell(detect(model, "nowhere.jpg", "2>&-"), tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    run = shell(detect(model, "nowhere.jpg", "<&- >&-"), tmp_path)
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 1


def test_letters_that_a_stream_does_not_have(model: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "木.png"), np.zeros((64, 64, 3), np.uint8))
    run = shell(detect(model, "木.png"), tmp_path, PYTHONIOENCODING="latin-1")
    assert (run.returncode, run.stderr) == (0, "")
    assert "\\u6728.png: " in run.stdout


def test_the_streams_are_as_they_were_afterwards() -> None:
    before = sys.stdout, sys.stderr, sys.stdout.errors
    assert cli.main(["models", "list"]) == 0
    assert (sys.stdout, sys.stderr, sys.stdout.errors) == before
