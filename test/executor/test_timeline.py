# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Timeline: what an executor records, and traces that Perfetto opens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.executors import (
    CPU,
    DLA0,
    GPU,
    PATIENCE,
    PATIENT,
    Recorder,
    feed,
    feed_until,
    frame,
    idle,
    simulated,
    wait_until,
)

from yolox_trt.detectors.detector import StageTimes
from yolox_trt.engines.simulated import Fault, FaultInjector
from yolox_trt.executor import InferenceExecutor, StreamConfig
from yolox_trt.executor.device_state import Batch, DeviceState, LoadedModel
from yolox_trt.executor.stream import PendingFrame, Stream
from yolox_trt.executor.timeline import Timeline


@pytest.fixture(scope="module")
def executor() -> InferenceExecutor:
    """An executor that has run for half a second, with a fault on the way; stopped."""
    faults = FaultInjector()
    recorder = Recorder()
    executor = InferenceExecutor(
        [simulated(GPU, 0.004, faults=faults), simulated(DLA0, 0.01)],
        options=replace(PATIENT, backoff=0.05),
    )
    names = ["a", "b", "c"]
    with executor:
        for name in names:
            executor.add_stream(StreamConfig(id=name), recorder.on_result)
        assert executor.wait_started(PATIENCE)
        number = feed(executor, names, 60.0, 0.2)
        faults.inject(Fault.RAISE)
        number = feed(executor, names, 60.0, 0.3, number)
        feed_until(
            executor,
            names,
            60.0,
            lambda: executor.snapshot().devices[GPU].restarts == 1,
            number,
        )
        assert wait_until(lambda: idle(executor))
    return executor


def test_calls_at_once_take_turns_in_the_record() -> None:
    """The second one's preprocessing lies in the time of the first."""
    state = DeviceState(CPU, {"m": LoadedModel("m", 0.02, calls=2, at_once=2)})
    timeline = Timeline(10)
    batches = [Batch(state, state.models["m"], [], [], 1.0) for _ in range(2)]
    for batch in batches:
        batch.streams.append(Stream(StreamConfig(id="a"), lambda result: None, None))
        batch.frames.append(PendingFrame(frame("a"), 0.0, 0.0, 0.0, 0.0))
        state.take(batch, 0.0)
    stages = StageTimes(preprocess=0.002, inference=0.03, postprocess=0.001)
    for batch, end in zip(batches, (0.033, 0.035), strict=True):
        timeline.add_batch(batch, end, stages)
        state.end(batch, end)
    turns = [(0.0, 0.033), (0.033, 0.035)]
    assert [(span.start, span.end) for span in timeline.spans()] == turns
    for span in timeline.spans():
        assert span.stages == (0.0, pytest.approx(span.end - span.start), 0.0)


def test_trace_has_a_lane_for_each_device_and_stream(executor: InferenceExecutor) -> None:
    trace = executor.timeline.trace()
    events = trace["traceEvents"]
    assert trace["displayTimeUnit"] == "ms"
    lanes = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert set(lanes.values()) == {"gpu", "dla0", "a", "b", "c"}
    processed = sum(s.processed for s in executor.snapshot().streams.values())
    calls = [e for e in events if e["ph"] == "X" and e["cat"] == "detect"]
    on_devices = [e for e in calls if e["pid"] == 1]
    assert len(on_devices) == processed + 1  # the call that failed
    assert sum(e["args"]["failed"] for e in on_devices) == 1
    for event in calls:
        assert event["ts"] >= 0.0
        if not event["args"]["failed"]:
            assert event["dur"] >= {"gpu": 4e3, "dla0": 10e3}.get(
                lanes[event["pid"], event["tid"]], 4e3
            )
    stages = [e for e in events if e.get("cat") == "stage"]
    assert len(stages) == processed
    assert all(e["name"] == "inference" for e in stages)
    texts = [e["name"] for e in events if e["ph"] == "i"]
    assert any("out of service" in text for text in texts)
    assert any("back in service" in text for text in texts)
    assert "dropped: failed" in texts


def test_seconds_cut_the_end_off(executor: InferenceExecutor) -> None:
    spans = executor.timeline.spans()
    last = max(s.end for s in spans)
    some = executor.timeline.spans(since=last - 0.1)
    assert 0 < len(some) < len(spans)
    trace = executor.timeline.trace(since=last - 0.1)
    calls = [e for e in trace["traceEvents"] if e.get("cat") == "detect" and e["pid"] == 1]
    assert len(calls) == len(some)


def test_the_buffer_is_bounded() -> None:
    with InferenceExecutor([simulated(GPU, 0.0005)], timeline_capacity=10) as executor:
        executor.add_stream(StreamConfig(id="a", queue_depth=30), lambda result: None)
        for number in range(30):
            executor.submit(frame("a", number))
        assert wait_until(lambda: executor.snapshot().streams["a"].processed == 30)
        assert len(executor.timeline.spans()) == 10
    with InferenceExecutor([simulated(GPU)], timeline_capacity=0) as executor:
        executor.add_stream(StreamConfig(id="a"), lambda result: None)
        executor.submit(frame("a"))
        assert wait_until(lambda: executor.snapshot().streams["a"].processed == 1)
        assert not executor.timeline.spans()
