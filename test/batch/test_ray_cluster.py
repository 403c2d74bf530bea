# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Ray: what cannot be reached is told; on a real cluster of two nodes, nothing is lost or twice."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from yolox_trt import __version__
from yolox_trt.cli.main import main

pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray[data]'")

#: Seconds for a cluster of two nodes and seven runs.
TIMEOUT = 600


def refusal(drives: Path, tmp_path: Path, address: str, capsys) -> str:
    words = ["batch", "detect", str(drives), "--ray", address, "-o", str(tmp_path / "out")]
    assert main(words) == 2
    return capsys.readouterr().err


def test_an_address_without_a_cluster_is_named_within_ten_seconds(
    drives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        begin = time.monotonic()
        text = refusal(drives, tmp_path, address, capsys)
        assert time.monotonic() - begin < 15
        assert f"no Ray cluster at {address}" in text and "ray start --head --port 6379" in text


@pytest.mark.parametrize("address", ["nowhere", "http://x:1", "ray://x", "x:y"])
def test_what_is_no_address_is_refused(
    address: str, drives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refusal(drives, tmp_path, address, capsys)
    assert "expected local, auto, HOST:PORT or ray://HOST:PORT" in text


@pytest.fixture(scope="module")
def cases(drives: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    if not os.environ.get("YOLOX_TRT_RAY_TESTS"):
        pytest.skip("a cluster of two nodes takes minutes: set YOLOX_TRT_RAY_TESTS=1")
    script = Path(__file__).parent / "ray_cases.py"
    folder = tmp_path_factory.mktemp("ray")
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(model), str(drives)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.timeout(TIMEOUT + 60)
@pytest.mark.parametrize(
    "case", ["workers", "decoders", "worker_dies", "interrupted", "full_disk", "node_killed"]
)
def test_the_files_are_those_of_a_run_in_one_process(cases: dict, case: str) -> None:
    assert cases[case].get("same"), cases[case]
    assert cases[case]["frames"] == cases["frames"]
    assert all("broken" in part for part in cases[case]["failed"])


def test_a_part_whose_worker_dies_each_time_fails_alone(cases: dict) -> None:
    found = cases["worker_dies_always"]
    (victim,) = (part for part in found["failed"] if "broken" not in part)
    assert "its worker died" in found["failed"][victim]
    assert found["missing"] == [f"{victim}.parquet"]
    assert 0 < cases["deaths"] <= 2 * 3  # two turns, in each of which Ray tries it three times


def test_another_version_on_the_cluster_is_named(cases: dict) -> None:
    assert f"yolox_trt {__version__} on the cluster, 0.0 here" in cases["other_version"]


def test_the_faults_came_in_the_middle(cases: dict) -> None:
    assert 0 < cases["interrupted_left"] < cases["parts"]
    assert "No space left" in cases["full_disk_error"]
