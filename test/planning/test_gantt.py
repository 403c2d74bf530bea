# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Files of a timeline: traces that Perfetto opens, and pictures."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from support.executors import DLA0, GPU

from yolox_trt.core import ConfigurationError
from yolox_trt.engines.simulated import ConstantLatency
from yolox_trt.executor import StreamConfig
from yolox_trt.executor.timeline import Timeline
from yolox_trt.planning.gantt import dump_timeline
from yolox_trt.planning.simulation import CameraLoad, Outage, Simulation


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    """Two seconds of two devices, one of which fails on the way."""
    simulation = Simulation(
        [CameraLoad(config=StreamConfig(id=name), rate=60.0) for name in ("a", "b", "c")],
        {GPU: {"default": ConstantLatency(0.004)}, DLA0: {"default": ConstantLatency(0.01)}},
        outages=[Outage(GPU, 1.0, 1.5)],
        timeline_capacity=1000,
    )
    timeline = simulation.run(2.0).timeline
    assert timeline is not None
    return timeline


def test_a_trace_of_the_end(timeline: Timeline, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "trace.json"
    assert dump_timeline(timeline, path, 0.5) == [path]
    events = json.loads(path.read_text())["traceEvents"]
    calls = [e for e in events if e.get("cat") == "detect" and e["pid"] == 1]
    last = max(span.end for span in timeline.spans())
    assert len(calls) == len(timeline.spans(since=last - 0.5)) > 0


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_picture(timeline: Timeline, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"gantt{suffix}"
    assert dump_timeline(timeline, path, 2.0, devices=[GPU, DLA0]) == [path]
    data = path.read_bytes()
    assert len(data) > 10_000
    if suffix == ".svg":
        text = data.decode()
        assert "<svg" in text and "gpu: out of service" in text and "dla0" in text


@pytest.mark.parametrize("suffix", [".png", ".json"])
def test_a_full_disk_leaves_no_file(
    timeline: Timeline, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if suffix == ".png":
        pytest.importorskip("matplotlib")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        dump_timeline(timeline, tmp_path / f"timeline{suffix}", 1.0)
    assert not list(tmp_path.iterdir())


def test_no_suffix_writes_both(timeline: Timeline, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = dump_timeline(timeline, tmp_path / "run", 1.0)
    assert [f.name for f in files] == ["run.json", "run.png"]
    assert all(f.is_file() for f in files)


def test_what_is_refused(timeline: Timeline, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="suffix"):
        dump_timeline(timeline, tmp_path / "trace.txt")
    with pytest.raises(ConfigurationError, match="seconds"):
        dump_timeline(timeline, tmp_path / "trace.json", 0.0)


def test_an_empty_timeline_gives_valid_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = dump_timeline(Timeline(), tmp_path / "empty", devices=[GPU])
    assert json.loads(files[0].read_text())["traceEvents"]
    assert files[1].stat().st_size > 1000
