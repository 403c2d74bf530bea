# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of cameras through ROS, with a small picture and for a short time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.ros import RosProcess

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]


def test_every_image_of_a_slow_camera_gives_a_result(
    start: Callable[..., RosProcess], small_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bench.json"
    options = ["--size", "64x96", "--rate", "10", "--duration", "1", "--warmup", "0"]
    options += [
        "--model",
        str(small_model),
        "--device",
        "cpu",
        "--json",
        str(output),
        "--compressed",
    ]
    process = start(["-m", "yolox_trt.cli", "bench", "ros", *options])
    assert process.process.wait(150) == 0, process.output
    document = json.loads(output.read_text())
    assert (document["settings"]["cameras"], document["settings"]["devices"]) == (1, ["cpu"])
    assert document["settings"]["compressed"] and document["settings"]["decoder"] == "cpu"
    (camera,) = document["cameras"]
    assert camera["DEVICE"] == "cpu"
    assert camera["MEAN_FRAME_RATE"] > 0
    assert document["cpu_percent"]["multi_camera"] > 0


@pytest.mark.slow
def test_one_process_against_one_for_each_camera(
    start: Callable[..., RosProcess], small_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bench.json"
    options = ["--size", "64x96", "--rate", "10", "--duration", "1", "--warmup", "0"]
    options += ["--model", str(small_model), "--device", "cpu", "--json", str(output)]
    options += ["--cameras", "2", "--max-batch", "2"]
    options += ["--without-ros"]  # with it, it is `bench ros` several times
    process = start(["-m", "yolox_trt.cli", "bench", "consolidation", *options])
    assert process.process.wait(170) == 0, process.output
    figures = json.loads(output.read_text())["figures"]
    ways = [(each["through"], each["form"]) for each in figures]
    assert ways == [("", "2"), ("", "1")]
    for each in figures:
        assert each["cameras"] == 2
        assert each["per_second"] > 0
        assert 0 < each["p50_ms"] <= each["worst_p99_ms"]
        assert each["cpu_percent"] > 0
    # Each process has an interpreter and an engine of its own.
    assert figures[0]["rss_mb"] > 1.5 * figures[1]["rss_mb"]
