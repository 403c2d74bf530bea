# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The soak in its short forms; `make soak` is the 30 minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest
from support.yolox_graphs import build_yolox

from yolox_trt.core import ConfigurationError
from yolox_trt.evaluation.bench.soak import Soak, SoakReport
from yolox_trt.executor import InferenceExecutor


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small YOLOX file."""
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(build_yolox(), str(path))
    return path


@pytest.mark.timeout(180)
@pytest.mark.slow
def test_half_a_minute(model: Path, tmp_path: Path) -> None:
    """Four cameras at 10 Hz, a fault every two seconds, in a process of its own."""
    figures = tmp_path / "soak.json"
    command = [sys.executable, "-m", "yolox_trt.cli", "soak", "--minutes", "0.5"]
    command += ["--fault-period", "2", "--model", str(model), "--json", str(figures)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(figures.read_text())
    # A machine that stalls at the end leaves some out.
    assert 4 * 10 * 20 < report["received"] <= 4 * (10 * 30 + 1)
    assert report["received"] == report["processed"] + sum(report["dropped"].values())
    assert report["errors"] >= 6
    # A restart may fail as well; in the end every device was back.
    assert 1 <= report["restarts"] <= report["errors"]
    assert report["late_results"] >= 1
    assert report["problems"] == []


def test_a_leak_is_found(model: Path) -> None:
    class Leaking(Soak):
        """Keeps a share of the process's first size at each look at the memory."""

        kept: list[bytes] = []  # noqa: RUF012
        share = psutil.Process().memory_info().rss // 10

        def _sample(self, now: float, executor: InferenceExecutor) -> None:
            self.kept.append(b"x" * self.share)
            super()._sample(now, executor)

    soak = Leaking(seconds=5.0, warm_up=0.4, fault_period=100.0, model=model)
    report = soak.run()
    Leaking.kept.clear()
    assert any("resident memory grew" in problem for problem in report.problems)


def samples_of_a_short_soak(
    *, descriptors: Sequence[float], threads: Sequence[float]
) -> list[tuple[float, float, float, float]]:
    """Return a look each second, with a memory that stays."""
    return [
        (float(second), 1e8, *both)
        for second, both in enumerate(zip(descriptors, threads, strict=True))
    ]


@pytest.mark.parametrize("what", ["descriptors", "threads"])
def test_what_grows_with_each_fault_is_a_leak(what: str) -> None:
    """One more with each of a short soak's faults, which come every two seconds."""
    steady, leaking = [30.0] * 16, [30.0 + second // 2 for second in range(16)]
    counts = {"descriptors": steady, "threads": steady, what: leaking}
    report = SoakReport(seconds=36.0)
    report.judge(samples_of_a_short_soak(**counts), warm_up=5.0)
    assert report.problems == [f"{what} leak: 33 became 37"]


@pytest.mark.parametrize("what", ["descriptors", "threads"])
def test_what_comes_once_or_for_a_moment_is_no_leak(what: str) -> None:
    """Two descriptors for a peer that was discovered late; a rebuild at the end."""
    steady, moving = [30.0] * 16, [30.0] * 9 + [32.0] * 6 + [40.0]
    counts = {"descriptors": steady, "threads": steady, what: moving}
    report = SoakReport(seconds=36.0)
    report.judge(samples_of_a_short_soak(**counts), warm_up=5.0)
    assert report.problems == []
    assert getattr(report, f"{what}_end") == 32.0


def test_a_lost_count_is_found(model: Path) -> None:
    class Forgetful(Soak):
        """Loses sight of each fifth result."""

        def _on_result(self, result: Any) -> None:
            if result.frame.stamp_ns % 5:
                super()._on_result(result)

    report = Forgetful(seconds=2.0, warm_up=1.9, fault_period=100.0, model=model).run()
    assert any("counted" in problem for problem in report.problems)


def test_lengths_are_checked(model: Path) -> None:
    with pytest.raises(ConfigurationError, match="warm_up"):
        Soak(seconds=5.0, warm_up=5.0, fault_period=1.0, model=model)
    with pytest.raises(ConfigurationError, match="rate"):
        Soak(seconds=5.0, warm_up=1.0, fault_period=1.0, rate=0.0, model=model)
