# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests.

Every folder of test/ is a package, so that two rooms may each have a test_cache.py; all but
`packaging`, which would hide the library of that name from everything that test/ is on the path of.
What several test modules share is in the package `support`, which is found because of that path.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from yolox_trt.core.memory import keep_for_good

sys.path.insert(0, str(Path(__file__).parent))


#: What a failed test's error must not say if it is to run again: it hung.
HUNG = r"Timeout .* from pytest-timeout"


def pytest_configure(config: pytest.Config) -> None:
    """Keep every process of the tests away from other ROS graphs, and able to be interrupted."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(10 + os.getpid() % 90))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_LOCALHOST_ONLY"] = "1"  # the same for Humble, which knows no other
    # A shell that starts a job in the background lets it ignore SIGINT, and children inherit that:
    # nodes would never stop.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # So does nohup with SIGHUP, whose tests send it.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # How long an example takes is up to the machine; it does not make the example fail.
    settings.register_profile(
        "yolox_trt", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("yolox_trt")
    config.option.rerun_show_tracebacks = True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests for several processes, give those of ROS a second run, leave out samples.

    A second run, because a machine that stalls is no defect (docs/decisions/tests.md).
    """
    if hasattr(config, "workerinput"):
        _spread_what_waits(items)
    if config.pluginmanager.hasplugin("rerunfailures"):
        for item in items:
            # Some talk to a node of their own, and start no process.
            if item.get_closest_marker("ros") or "domain" in item.fixturenames:  # type: ignore[attr-defined]
                item.add_marker(pytest.mark.flaky(reruns=1, rerun_except=HUNG))
    tests: dict[tuple[str, int], list[pytest.Item]] = {}
    for item in items:
        if marker := item.get_closest_marker("sampled"):
            test = item.nodeid.partition("[")[0]
            tests.setdefault((test, marker.args[0]), []).append(item)
    for (_, step), cases in tests.items():
        _leave_a_sample(cases, step)


def _file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _spread_what_waits(items: list[pytest.Item]) -> None:
    """Spread the files of the room ros evenly among the others, and begin with its soak.

    Their tests wait for other processes; where all of pytest's run them at a time, cores idle.
    """
    files = dict.fromkeys(_file_of(item) for item in items)
    waiting = [file for file in files if "/ros/" in file]
    computing = [file for file in files if "/ros/" not in file]
    places = {
        file: -1.0 if file.endswith("ros/tools/test_soak.py") else (index + 0.5) / len(group)
        for group in (waiting, computing)
        for index, file in enumerate(group)
    }
    items.sort(key=lambda item: places[_file_of(item)])


def _leave_a_sample(cases: list[pytest.Item], step: int) -> None:
    """Mark the cases of a test as slow, all but each step-th.

    Where parameters are combined with each other, each value of each stays in some case.
    """
    combined = len(list(cases[0].iter_markers("parametrize"))) > 1
    values = [
        {(name, id(value)) for name, value in case.callspec.params.items()}  # type: ignore[attr-defined]
        for case in cases
    ]
    seen = set().union(*values[::step])
    for i, case in enumerate(cases):
        if i % step:
            if combined and not values[i] <= seen:
                seen |= values[i]
            else:
                case.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Leave what was imported out of the collector's sight (docs/decisions/tests.md)."""
    keep_for_good()


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
