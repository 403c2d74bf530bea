# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`bench cameras` counts every frame that it submits, as a result or as missed."""

from __future__ import annotations

import json
from pathlib import Path

from yolox_trt.cli.main import main


def test_every_frame_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = ["bench", "cameras", "--device", "gpu", "--engine", "simulated", "--seconds", "1"]
    command += ["--cameras", "2", "--rate", "10", "--size", "64x96"]
    command += ["--overlap", "yes", "--overlap", "no"]
    assert main([*command, "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert [figure["overlap"] for figure in figures] == ["yes", "no"]
    for figure in figures:
        assert 18 <= figure["expected"] <= 21
        # A simulated GPU serves 20 frames a second with ease; a loaded machine may lose one.
        assert 0 <= figure["missed"] <= 2
        assert figure["per_second"] == figure["expected"] - figure["missed"]
        assert 0 < figure["p50_ms"] <= figure["p99_ms"]
        assert figure["frames_per_call"] == 1.0
