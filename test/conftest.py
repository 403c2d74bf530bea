# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests.

Every folder of test/ is a package, so that two rooms may each have a test_cache.py. What several
test modules share is in the package `support`, which is found because test/ is on the path.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure() -> None:
    """Keep every process of the tests away from other ROS graphs, and able to be interrupted."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(10 + os.getpid() % 90))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_LOCALHOST_ONLY"] = "1"  # the same for Humble, which knows no other
    # A shell that starts a job in the background lets it ignore SIGINT, and children inherit that:
    # nodes would never stop.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long an example takes is up to the machine; it does not make the example fail.
    settings.register_profile(
        "yolox_trt", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("yolox_trt")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the soak: it sleeps for a minute, while other processes run what computes."""
    items.sort(key=lambda item: "/test_soak.py::" not in item.nodeid)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with models, images and annotations (YOLOX_TRT_DATA); the test skips without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("YOLOX_TRT_DATA", default))
    if not path.is_dir():
        pytest.skip("no data folder: set YOLOX_TRT_DATA")
    return path
