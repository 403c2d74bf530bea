# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Ray: what cannot be reached is told; on a real cluster of two nodes, nothing is lost or twice."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from yolox_trt import __version__
from yolox_trt.batch import ray_cluster
from yolox_trt.cli.main import main

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray[data]'")

#: Seconds for two clusters of two nodes and all runs, beside other work.
TIMEOUT = 1500


def on_a_cluster(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that may be the one that waits for all runs."""
    return pytest.mark.slow(pytest.mark.timeout(TIMEOUT + 60)(test))


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
    script = Path(__file__).parent / "ray_cases.py"
    folder = tmp_path_factory.mktemp("ray")
    paths = [str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(model), str(drives)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@on_a_cluster
@pytest.mark.parametrize(
    "case",
    [
        "workers",
        "decoders",
        "worker_dies",
        "no_memory",
        "memory_monitor",
        "interrupted",
        "full_disk",
        "node_killed",
    ],
)
def test_the_files_are_those_of_a_run_in_one_process(cases: dict, case: str) -> None:
    if case == "memory_monitor" and "memory" in cases:
        pytest.skip(f"too little memory to take some: {cases['memory']}")
    assert cases[case].get("same"), cases[case]
    assert cases[case]["frames"] == cases["frames"]
    assert all("broken" in part for part in cases[case]["failed"])


@on_a_cluster
@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("worker_dies_always", "its worker died"),
        ("memory_monitor_always", "its worker died"),
        ("no_memory_always", "no memory for an image of 4729x4729 pixels"),
    ],
)
def test_a_part_whose_worker_has_too_little_each_time_fails_alone(
    cases: dict, case: str, said: str
) -> None:
    if case == "memory_monitor_always" and "memory" in cases:
        pytest.skip(f"too little memory to take some: {cases['memory']}")
    found = cases[case]
    (victim,) = (part for part in found["failed"] if "broken" not in part)
    assert said in found["failed"][victim]
    assert found["missing"] == [f"{victim}.parquet"]
    assert 0 < found["deaths"] <= 2 * 3  # two turns, in each of which Ray tries it three times


@on_a_cluster
def test_other_versions_on_the_cluster_are_named(cases: dict) -> None:
    assert f"yolox_trt {__version__} on the cluster, 0.0 here" in cases["other ray_cluster"]
    for case, here in (("other ray", "Ray: 2.1.0"), ("other sys", "Python: 3.9.1")):
        assert f"Ray: {ray.__version__} Python: {platform.python_version()}" in cases[case]
        assert here in cases[case] and "install them on one side" in cases[case]


@on_a_cluster
def test_the_faults_came_in_the_middle(cases: dict) -> None:
    assert 0 < cases["interrupted_left"] < cases["parts"]
    assert "No space left" in cases["full_disk_error"]
    assert cases["worker_dies"]["deaths"] == cases["no_memory"]["deaths"] == 1
    # Its part failed once, and was tried again.
    assert cases["no_memory"]["attempts"] > cases["worker_dies"]["attempts"]


@on_a_cluster
def test_each_worker_takes_the_gpu_that_ray_shows_it(cases: dict) -> None:
    assert cases["gpu_each"]["seen"] == ["0 gpu 1", "1 gpu 1"]
    assert sorted({each[0] for each in cases["gpus_shared"]["seen"]}) == ["0", "1"]
    for case in ("gpu_each", "gpus_shared"):
        assert cases[case]["frames"] == cases["frames"]


@on_a_cluster
def test_a_gpu_that_does_not_serve_is_told_and_not_replaced_by_the_cpu(cases: dict) -> None:
    assert "MissingDependencyError" in cases["gpu_without_engine"]["raised"]
    assert "gpu on a Ray cluster without GPUs" in cases["no_gpu"]
    assert "--num-gpus N" in cases["no_gpu"]


@pytest.mark.parametrize(
    ("gpus", "workers", "share"), [(0, 3, 0), (2, 1, 1), (2, 2, 1), (2, 3, 0.5), (2, 6, 0.3333)]
)
def test_gpus_are_shared_evenly(gpus: int, workers: int, share: float) -> None:
    assert ray_cluster._share(gpus, workers) == share
