# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Images that are lost because one thread receives them all: what /diagnostics says of it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from support.executors import GPU, Recorder, frame, simulated
from support.ros import stream_snapshot

from yolox_trt.executor import DropReason, InferenceExecutor, StreamConfig
from yolox_trt.ros.nodes import diagnostics
from yolox_trt.ros.nodes.camera_counters import CameraCounters

pytestmark = pytest.mark.ros


def compute() -> None:
    """Take 0.1 s of processor time, which is longer by the clock where other processes run."""
    end = time.thread_time() + 0.1
    while time.thread_time() < end:
        pass


@pytest.mark.parametrize("work", [compute, lambda: time.sleep(0.1)])
def test_the_load_is_processor_time_by_elapsed_time(work: Callable[[], None]) -> None:
    load = diagnostics.ReceiverLoad()
    before = np.array((time.thread_time(), time.monotonic()))
    load.read()
    begin = np.array((time.thread_time(), time.monotonic()))
    work()
    least = np.array((time.thread_time(), time.monotonic())) - begin
    share = load.read()
    most = np.array((time.thread_time(), time.monotonic())) - before
    assert least[0] / most[1] <= share <= most[0] / least[1]


def test_the_load_is_that_of_the_reading_thread() -> None:
    load = diagnostics.ReceiverLoad()
    assert math.isnan(load.read())
    assert load.read() >= 0.0
    others: list[float] = []
    thread = threading.Thread(target=lambda: others.append(load.read()))
    thread.start()
    thread.join()
    assert math.isnan(others[0])
    assert math.isnan(load.read())


@pytest.mark.parametrize(
    ("load", "lost", "advised"),
    [(0.9, 3, True), (0.9, 0, False), (0.3, 3, False), (math.nan, 3, False)],
)
def test_the_advice_needs_losses_and_a_busy_thread(load: float, lost: int, advised: bool) -> None:
    assert ("ingest_processes" in diagnostics.receiver_advice(load, lost)) == advised


def test_only_losses_for_want_of_time_count() -> None:
    report = diagnostics.StreamReport()
    dropped = {"overflow": 2, "stale": 1, "rate": 8, "malformed": 16, "failed": 32}
    stream = stream_snapshot(
        "front", dropped={reason: dropped.get(reason.value, 0) for reason in DropReason}
    )

    def make() -> DiagnosticStatus:
        return report.make("stream front", "/front", CameraCounters(lost=4), stream, 0.0)

    assert "2 overflow, 1 stale, " in make().message
    assert report.lost == 7
    make()
    assert report.lost == 0


@pytest.mark.parametrize("ingest", [False, True])
def test_the_executors_entry_gives_the_advice(ingest: bool) -> None:
    executor = InferenceExecutor([simulated(GPU)])
    executor.start()
    assert executor.wait_started(30.0)
    pool: Any = SimpleNamespace(count=1, faults={}, restarts=0)
    entry = diagnostics.executor_status(
        "multi_camera: executor",
        executor.snapshot(),
        cameras=2,
        lost=7,
        load=0.75,
        ingest=pool if ingest else None,
    )
    assert executor.close()
    values = {value.key: value.value for value in entry.values}
    assert values["receiver_load"] == "0.75"
    if ingest:
        assert (entry.level, entry.message) == (diagnostics.OK, "running")
    else:
        assert entry.level == diagnostics.WARN
        assert entry.message.startswith("7 images lost since the last report, while receiving")
        assert "75% of a core" in entry.message


def test_texts_of_an_entry_are_clean_and_short() -> None:
    text = "\x1b[31mred\n" + "x" * 1_000_000
    entry = diagnostics.status(text, text, DiagnosticStatus.OK, text, {text: text, "rate": 1.5})
    texts = [entry.name, entry.hardware_id, entry.message, entry.values[0].key]
    for each in (*texts, entry.values[0].value):
        assert each.startswith(r"\x1b[31mred\nxxx")
        assert each.endswith("(1000009 characters)")
        assert len(each) < 3000
    assert entry.values[1].value == "1.5"


def test_a_device_tells_what_is_implausible() -> None:
    """What a misunderstood network gives is no failure: it must be seen all the same."""
    detector, recorder = simulated(GPU), Recorder()
    detector.plausibility.found = "scores above 1; set model_type or box_format"
    with InferenceExecutor([detector]) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result)
        before = executor.snapshot().devices[GPU]
        executor.submit(frame("a"))
        assert recorder.wait(lambda: len(recorder.results["a"]) == 1)
        after = executor.snapshot().devices[GPU]
    assert diagnostics.device_status("multi_camera", GPU, before).level == diagnostics.OK
    entry = diagnostics.device_status("multi_camera", GPU, after)
    assert entry.level == diagnostics.WARN
    assert entry.message.endswith(": scores above 1; set model_type or box_format")
