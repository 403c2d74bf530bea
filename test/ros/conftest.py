# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the ROS tests: a domain of their own, processes that are ended, a small model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: run `make venv`")

from support.ros import (
    Client,
    RosProcess,
    end_leftovers,
    free_domain,
    remove_orphans,
    shared_memory_files,
    write_parameters,
)
from support.yolox_graphs import build_yolox

#: Threshold at which the small model's random weights give some boxes in every image.
SMALL_THRESHOLD = 0.26


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLOX of 64x96 with random weights and 3 classes; its detections mean nothing."""
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(build_yolox(num_classes=3, metadata=True), path)
    return path


@pytest.fixture(scope="session", autouse=True)
def leave_no_shared_memory() -> Iterator[None]:
    """Remove what processes that the tests killed have left in /dev/shm."""
    before = shared_memory_files()
    yield
    remove_orphans(shared_memory_files() - before)


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> int:
    """A ROS domain for this test alone; children inherit it."""
    number = free_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    from yolox_trt.ros.middleware import transport_environment

    for name, value in transport_environment().items():
        if "PROFILES_FILE" in name:
            monkeypatch.setenv(name, value)
    return number


@pytest.fixture
def client(domain: int) -> Iterator[Client]:
    """A node in the test's process."""
    node = Client(domain)
    yield node
    node.close()


@pytest.fixture
def start(domain: int, tmp_path: Path) -> Iterator[Callable[..., RosProcess]]:
    """Start a Python process in the domain; what still runs at the end is killed."""
    started: list[RosProcess] = []

    def start_process(command: list[str], **environment: str) -> RosProcess:
        log = tmp_path / f"process{len(started)}.log"
        environment.setdefault("TMPDIR", str(tmp_path))
        started.append(RosProcess(command, log, environment))
        return started[-1]

    yield start_process
    end_leftovers(started)


@pytest.fixture
def start_cameras(
    start: Callable[..., RosProcess], tmp_path: Path, small_model: Path
) -> Callable[..., RosProcess]:
    """Start multi_camera with sections of parameters, and wait until it is active."""

    def start_multi_camera(
        sections: dict[str, dict[str, Any]], *, wait: str = "active:", **environment: str
    ) -> RosProcess:
        own = {
            "model": str(small_model),
            "devices": ["cpu"],
            "cpu_threads": 1,
            "diagnostics_period": 0.1,
        }
        sections = {**sections, "multi_camera": own | sections.get("multi_camera", {})}
        path = write_parameters(tmp_path / "parameters.yaml", sections)
        process = start(
            ["-m", "yolox_trt.ros.nodes.multi_camera", "--ros-args", "--params-file", str(path)],
            **environment,
        )
        if wait:
            process.wait_for(wait)
        return process

    return start_multi_camera
