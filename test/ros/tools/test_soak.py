# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The soak through ROS in a short form; `yolox_trt soak --ros` is the 30 minutes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.ros import RosProcess

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]


def test_half_a_minute(start: Callable[..., RosProcess], small_model: Path, tmp_path: Path) -> None:
    """What is no image, huge headers and engines that fail, between two ingest processes."""
    figures = tmp_path / "soak.json"
    command = ["-m", "yolox_trt.cli", "soak", "--ros", "--minutes", "0.6", "--fault-period", "2"]
    soak = start([*command, "--model", str(small_model), "--json", str(figures)])
    status = soak.process.wait(120)
    assert status == 0, soak.output
    report = json.loads(figures.read_text())
    assert report["problems"] == []
    assert report["faults"]["engine"] >= 2
    assert report["dropped"]["malformed"] >= 5
    assert report["received"] == report["processed"] + sum(report["dropped"].values())
