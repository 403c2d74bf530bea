# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The executor with threads and real time, on simulated detectors."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import threading
import time
import types
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.executors import (
    CPU,
    DLA0,
    DLA1,
    GPU,
    PATIENCE,
    PATIENT,
    Gate,
    Recorder,
    VirtualClock,
    adds_up,
    check_counters,
    feed_until,
    frame,
    idle,
    new_threads,
    simulated,
    wait_until,
)
from support.simulated_detector import SimulatedDetector
from support.timing import ever_within

from yolox_trt.core import (
    ConfigurationError,
    Detections,
    Frame,
    FrameError,
    PostprocessOptions,
)
from yolox_trt.engines.simulated import ConstantLatency
from yolox_trt.executor import (
    DropReason,
    ExecutorState,
    InferenceExecutor,
    SchedulerOptions,
    StreamConfig,
    StreamResult,
    SubmitOutcome,
)
from yolox_trt.executor.snapshot import StreamSnapshot
from yolox_trt.executor.supervisor import Supervisor


def test_results_of_a_reduced_image_are_in_source_pixels() -> None:
    """As where a JPEG of 41x61 was decoded at half its size."""
    recorder = Recorder()
    boxes = np.array([[1, 2, 10, 20], [0, 0, 31, 21]], np.float32)
    found = Detections(boxes, np.ones(2, np.float32), np.zeros(2, np.int32))
    detector = SimulatedDetector(GPU, ConstantLatency(1e-6), result=lambda _: found)
    with InferenceExecutor([detector]) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result)
        small = Frame.from_array(np.zeros((21, 31, 3), np.uint8), stream_id="a")
        executor.submit(replace(small, reduction=2, full_size=(41, 61)))
        assert recorder.wait(lambda: bool(recorder.results["a"]))
    (result,) = recorder.results["a"]
    assert result.detections.boxes.tolist() == [[2, 4, 20, 40], [0, 0, 61, 41]]


def test_every_frame_gives_one_result_in_order() -> None:
    recorder = Recorder()
    with InferenceExecutor([simulated(GPU)]) as executor:
        for name in ("a", "b"):
            executor.add_stream(StreamConfig(id=name, queue_depth=100), recorder.on_result)
        for number in range(50):
            for name in ("a", "b"):
                assert executor.submit(frame(name, number)) is SubmitOutcome.ACCEPTED
        assert recorder.wait(lambda: len(recorder.results["a"]) == len(recorder.results["b"]) == 50)
        assert recorder.numbers("a") == recorder.numbers("b") == list(range(50))
        snapshot = executor.snapshot()
    check_counters(snapshot)
    assert snapshot.state is ExecutorState.RUNNING
    assert snapshot.streams["a"].processed == 50
    assert snapshot.streams["a"].dropped_total == 0
    assert snapshot.devices[GPU].frames == 100


@pytest.mark.parametrize("policy", ["static", "balanced", "dynamic"])
def test_order_is_kept_across_devices(policy: str) -> None:
    """Devices of very different speed: a slow one's result must not be overtaken."""
    recorder = Recorder()
    detectors = [simulated(GPU, 0.003), simulated(DLA0, 0.006), simulated(DLA1, 0.004)]
    names = [f"camera{i}" for i in range(5)]
    with InferenceExecutor(detectors, policy=policy) as executor:
        for name in names:
            executor.add_stream(StreamConfig(id=name), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        end = feed_until(
            executor, names, 150.0, lambda: all(len(recorder.numbers(n)) > 50 for n in names)
        )
        if policy == "dynamic":
            end = feed_until(
                executor,
                names,
                150.0,
                lambda: {r.device for n in names for r in recorder.results[n]} == {GPU, DLA0, DLA1},
                end,
            )
        assert wait_until(lambda: idle(executor))
        snapshot = executor.snapshot()
    check_counters(snapshot)
    for name in names:
        numbers = recorder.numbers(name)
        assert numbers == sorted(numbers)
        dropped = [number for number, _ in recorder.drops[name]]
        assert sorted(numbers + dropped) == list(range(end)), "a frame ends exactly once"
    if policy == "dynamic":
        assert sum(s.moves for s in snapshot.streams.values()) > 0


def test_a_device_that_is_kept_by_a_callback_is_overtaken() -> None:
    recorder = Recorder()
    release = threading.Event()
    detectors = [simulated(GPU), simulated(DLA0)]
    times = {(GPU, "default"): 0.002, (DLA0, "default"): 0.05}
    with InferenceExecutor(detectors, policy="dynamic", options=PATIENT, times=times) as executor:
        executor.add_stream(StreamConfig(id="slow"), lambda _: release.wait(2.0 * PATIENCE))
        executor.add_stream(StreamConfig(id="a", expected_rate=20.0), recorder.on_result)
        assert executor.wait_started(PATIENCE)
        executor.submit(frame("slow"))
        assert wait_until(lambda: executor.snapshot().streams["slow"].processed == 1)
        executor.submit(frame("a"))
        assert recorder.wait(lambda: len(recorder.results["a"]) == 1)
        release.set()
    assert [result.device for result in recorder.results["a"]] == [DLA0]


def test_newest_frame_wins() -> None:
    recorder = Recorder()
    gate = Gate()
    with InferenceExecutor([simulated(GPU, result=gate)], options=PATIENT) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        assert executor.submit(frame("a", 0)) is SubmitOutcome.ACCEPTED
        assert wait_until(lambda: executor.snapshot().streams["a"].waiting == 0)
        assert executor.submit(frame("a", 1)) is SubmitOutcome.ACCEPTED
        assert executor.submit(frame("a", 2)) is SubmitOutcome.REPLACED_OLDEST
        assert executor.submit(frame("a", 3)) is SubmitOutcome.REPLACED_OLDEST
        gate.open()
        assert recorder.wait(lambda: len(recorder.results["a"]) == 2)
        assert recorder.numbers("a") == [0, 3]
        assert recorder.drops["a"] == [(1, DropReason.OVERFLOW), (2, DropReason.OVERFLOW)]


def test_drop_newest_keeps_what_waits() -> None:
    recorder = Recorder()
    gate = Gate()
    with InferenceExecutor([simulated(GPU, result=gate)], options=PATIENT) as executor:
        config = StreamConfig(id="a", overflow="drop_newest", queue_depth=2)
        executor.add_stream(config, recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        executor.submit(frame("a", 0))
        assert wait_until(lambda: executor.snapshot().streams["a"].waiting == 0)
        outcomes = [executor.submit(frame("a", number)) for number in (1, 2, 3)]
        assert outcomes == [
            SubmitOutcome.ACCEPTED,
            SubmitOutcome.ACCEPTED,
            SubmitOutcome.QUEUE_FULL,
        ]
        gate.open()
        assert recorder.wait(lambda: len(recorder.results["a"]) == 3)
        assert recorder.numbers("a") == [0, 1, 2]
        assert executor.snapshot().streams["a"].dropped[DropReason.OVERFLOW] == 1
        assert not recorder.drops["a"], "a refused frame is answered by submit alone"


def test_stale_frames_are_dropped_before_work() -> None:
    recorder = Recorder()
    gate = Gate()
    clock = VirtualClock(1.0)
    with InferenceExecutor([simulated(GPU, result=gate)], clock=clock) as executor:
        config = StreamConfig(id="a", stale_after=0.03, queue_depth=5)
        executor.add_stream(config, recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        executor.submit(frame("a", 0))
        assert wait_until(lambda: executor.snapshot().streams["a"].waiting == 0)
        assert executor.submit(frame("a", 1)) is SubmitOutcome.ACCEPTED
        clock.advance_to(1.05)
        gate.open()
        assert recorder.wait(lambda: bool(recorder.drops["a"]))
        assert recorder.drops["a"] == [(1, DropReason.STALE)]
        old = Frame.view(
            bytes(3),
            height=1,
            width=1,
            encoding="bgr8",
            stream_id="a",
            received_ns=1_000_000_000,
        )
        assert executor.submit(old) is SubmitOutcome.STALE
        assert executor.snapshot().devices[GPU].frames == 1


@pytest.mark.parametrize("withhold", [False, True])
def test_a_result_past_its_age_is_counted_and_may_be_withheld(withhold: bool) -> None:
    recorder, gate, clock = Recorder(), Gate(), VirtualClock(1.0)
    with InferenceExecutor([simulated(GPU, result=gate)], clock=clock) as executor:
        config = StreamConfig(id="a", stale_after=0.1, withhold_late=withhold)
        executor.add_stream(config, recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        executor.submit(frame("a", 0), age=0.08)
        assert wait_until(lambda: executor.snapshot().streams["a"].waiting == 0)
        clock.advance_to(1.03)
        gate.open()
        assert wait_until(lambda: idle(executor))
        assert recorder.wait(lambda: bool(recorder.drops["a"] if withhold else recorder.results))
        assert recorder.drops["a"] == ([(0, DropReason.LATE)] if withhold else [])
        assert recorder.numbers("a") == ([] if withhold else [0])
        stream = executor.snapshot().streams["a"]
        assert (stream.late, stream.processed) == (1, int(not withhold))
        assert executor.submit(frame("a", 1), age=0.11) is SubmitOutcome.STALE
        last = executor.remove_stream("a")
        assert (last.received, last.dropped[DropReason.STALE]) == (2, 1)


def test_max_rate_and_enabled() -> None:
    recorder = Recorder()
    clock = VirtualClock(1.0)
    with InferenceExecutor([simulated(GPU)], options=PATIENT, clock=clock) as executor:
        executor.add_stream(StreamConfig(id="a", max_rate=50.0), recorder.on_result)
        assert executor.wait_started(PATIENCE)
        for number in range(250):  # a second of a camera at 250 Hz
            clock.advance_to(1.0 + 0.004 * number)
            executor.submit(frame("a"))
        passed = executor.snapshot().streams["a"]
        accepted = passed.received - passed.dropped[DropReason.RATE]
        assert 40 <= accepted <= 52
        executor.update_stream("a", enabled=False)
        assert executor.submit(frame("a")) is SubmitOutcome.DISABLED
        executor.update_stream("a", enabled=True, max_rate=0.0)
        assert all(executor.submit(frame("a")).accepted for _ in range(3))
        with pytest.raises(ConfigurationError, match="queue_depth"):
            executor.update_stream("a", queue_depth=0)
        with pytest.raises(ConfigurationError, match="colour"):
            executor.update_stream("a", colour="blue")


def test_streams_come_and_go_while_running() -> None:
    recorder = Recorder()
    gate = Gate()
    with InferenceExecutor([simulated(GPU, result=gate)], options=PATIENT) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
        with pytest.raises(ConfigurationError, match="unique"):
            executor.add_stream(StreamConfig(id="a"), recorder.on_result)
        assert executor.wait_started(PATIENCE)
        executor.submit(frame("a", 0))
        assert wait_until(lambda: executor.snapshot().streams["a"].waiting == 0)
        executor.submit(frame("a", 1))
        executor.remove_stream("a")
        assert executor.submit(frame("a", 2)) is SubmitOutcome.UNKNOWN_STREAM
        gate.open()
        assert wait_until(lambda: executor.snapshot().removed_received == 2)
        snapshot = executor.snapshot()
        assert snapshot.removed_processed + snapshot.removed_dropped == 2
        assert snapshot.unknown_stream == 1
        assert sorted(recorder.drops["a"]) == [(0, DropReason.STOPPED), (1, DropReason.STOPPED)]
        assert not recorder.results["a"]
        with pytest.raises(ConfigurationError, match="'a'"):
            executor.remove_stream("a")
        executor.add_stream(StreamConfig(id="a"), recorder.on_result)
        executor.submit(frame("a", 3))
        assert recorder.wait(lambda: recorder.numbers("a") == [3])


def test_a_stream_removed_before_its_result_is_delivered_gets_a_drop() -> None:
    recorder = Recorder()
    options = SchedulerOptions(batch_window=10.0)  # a full batch does not wait for its end
    with InferenceExecutor([simulated(GPU, max_batch=2)], options=options) as executor:

        def removes_the_other(result: StreamResult) -> None:
            last.append(executor.remove_stream("b" if result.frame.stream_id == "a" else "a"))
            recorder.on_result(result)

        last: list[StreamSnapshot] = []
        for name in ("a", "b"):
            executor.add_stream(StreamConfig(id=name), removes_the_other, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        for number, name in enumerate(("a", "b")):
            executor.submit(frame(name, number))
        assert recorder.wait(lambda: len(recorder.results) == len(recorder.drops) == 1)
        assert wait_until(lambda: executor.snapshot().removed_received == 1)
        assert [drop[1] for drops in recorder.drops.values() for drop in drops] == [
            DropReason.STOPPED
        ]
        assert executor.snapshot().removed_processed == 0
        assert executor.snapshot().removed_dropped == len(last) == 1


def test_a_callback_that_raises_is_counted_and_harmless(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def broken(result: object) -> None:
        calls.append(1)
        raise ValueError("no such publisher")

    with (
        caplog.at_level(logging.ERROR),
        InferenceExecutor([simulated(GPU)]) as executor,
    ):
        executor.add_stream(StreamConfig(id="a", queue_depth=10), broken)
        for number in range(5):
            executor.submit(frame("a", number))
        assert wait_until(lambda: executor.snapshot().streams["a"].callback_errors == 5)
        assert executor.snapshot().streams["a"].processed == len(calls) == 5
    assert "no such publisher" in caplog.text


class _Picky(SimulatedDetector):
    """Refuses frames with an odd stamp."""

    def detect(self, frames, options):  # type: ignore[no-untyped-def]
        if any(f.stamp_ns % 2 for f in frames):
            raise FrameError("an odd frame")
        return super().detect(frames, options)


def test_an_unreadable_frame_costs_only_itself() -> None:
    recorder = Recorder()
    options = SchedulerOptions(batch_window=10.0)  # a full batch does not wait for its end
    detector = _Picky(GPU, ConstantLatency(0.001), max_batch=4)
    with InferenceExecutor([detector], options=options) as executor:
        for name in ("a", "b", "c", "d"):
            executor.add_stream(StreamConfig(id=name), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        for number, name in enumerate(("a", "b", "c", "d")):
            executor.submit(frame(name, number))
        assert recorder.wait(lambda: len(recorder.results) == len(recorder.drops) == 2)
        assert set(recorder.results) == {"a", "c"}
        assert recorder.drops["b"] == [(1, DropReason.MALFORMED)]
        snapshot = executor.snapshot()
        assert snapshot.devices[GPU].errors == 0
        check_counters(snapshot)


def test_same_model_is_batched_on_the_gpu_and_never_on_a_dla() -> None:
    sizes: dict[str, list[int]] = {"gpu": [], "dla0": []}
    for device in (GPU, DLA0):
        recorder = Recorder()
        detector = simulated(device, max_batch=4)
        options = SchedulerOptions(batch_window=10.0)  # a full batch does not wait for its end
        with InferenceExecutor([detector], options=options) as executor:
            for name in ("a", "b", "c", "d"):
                executor.add_stream(StreamConfig(id=name), recorder.on_result)
            assert executor.wait_started(PATIENCE)
            for name in ("a", "b", "c", "d"):
                executor.submit(frame(name))
            assert recorder.wait(lambda r=recorder: len(r.results) == 4)
        sizes[str(device)] = [r.timing.batch_size for v in recorder.results.values() for r in v]
    assert sizes == {"gpu": [4, 4, 4, 4], "dla0": [1, 1, 1, 1]}


def test_batch_window_ends() -> None:
    recorder = Recorder()
    options = SchedulerOptions(batch_window=0.03)
    clock = VirtualClock(1.0)
    detector = simulated(GPU, max_batch=4)
    with InferenceExecutor([detector], options=options, clock=clock) as executor:
        for name in ("a", "b", "c"):
            executor.add_stream(StreamConfig(id=name), recorder.on_result)
        assert executor.wait_started(PATIENCE)
        executor.submit(frame("a"))
        executor.submit(frame("b"))
        time.sleep(3.0 * options.batch_window)  # of real time: the executor's own stands still
        assert [executor.snapshot().streams[name].waiting for name in ("a", "b")] == [1, 1]
        clock.advance_to(1.0 + options.batch_window)
        assert recorder.wait(lambda: len(recorder.results) == 2)
        timing = recorder.results["a"][0].timing
        assert timing.batch_size == 2
        assert timing.started - timing.submitted == pytest.approx(0.03)


def test_several_models_and_options() -> None:
    recorder = Recorder()
    seen: list[float] = []

    class Watching(SimulatedDetector):
        def detect(self, frames, options):  # type: ignore[no-untyped-def]
            seen.extend(option.score_threshold for option in options)
            return super().detect(frames, options)

    detectors = {
        (GPU, "front"): Watching(GPU, ConstantLatency(0.001)),
        (GPU, "rear"): simulated(GPU, 0.002),
        (DLA0, "rear"): simulated(DLA0, 0.004),
    }
    with InferenceExecutor(detectors, policy="static") as executor:
        options = PostprocessOptions(score_threshold=0.75)
        executor.add_stream(
            StreamConfig(id="f", model="front", options=options), recorder.on_result
        )
        executor.add_stream(StreamConfig(id="r", model="rear", device="dla0"), recorder.on_result)
        with pytest.raises(ConfigurationError, match="front, rear"):
            executor.add_stream(StreamConfig(id="x", model="side"), recorder.on_result)
        with pytest.raises(ConfigurationError, match="dla0"):
            executor.add_stream(
                StreamConfig(id="x", model="front", device="dla0"), recorder.on_result
            )
        assert executor.wait_started(PATIENCE)
        executor.submit(frame("f"))
        executor.submit(frame("r"))
        assert recorder.wait(lambda: len(recorder.results) == 2)
    assert recorder.results["f"][0].model == "front"
    assert (recorder.results["r"][0].device, recorder.results["r"][0].model) == (DLA0, "rear")
    assert seen[-1] == 0.75, "after the grey frames that time the detector"


def test_a_size_that_is_added_while_frames_come_is_batched_by_itself() -> None:
    recorder = Recorder()
    small, wide = (simulated(GPU, max_batch=4) for _ in range(2))
    options = SchedulerOptions(batch_window=10.0)  # what could share a call would wait for it
    names = ("a", "b", "c", "d")
    with InferenceExecutor({(GPU, "m"): small}, options=options) as executor:
        for name in names:
            executor.add_stream(StreamConfig(id=name, model="m"), recorder.on_result)
        assert executor.wait_started(PATIENCE)
        for name in names:
            executor.submit(frame(name))
        executor.add_model("m@32x64", {GPU: wide})
        for name in names[2:]:
            executor.update_stream(name, model="m@32x64")
        assert recorder.wait(lambda: len(recorder.results) == 4)
        assert wait_until(lambda: idle(executor))
        for name in names:
            executor.submit(frame(name, 1))
        assert recorder.wait(lambda: all(recorder.numbers(name) == [0, 1] for name in names))
        for wrong, device in (("m@32x64", GPU), ("n", DLA0)):
            with pytest.raises(ConfigurationError, match=rf"{wrong if device is GPU else device}"):
                executor.add_model(wrong, {device: simulated(device)})
        assert set(executor.snapshot().devices[GPU].models) == {"m", "m@32x64"}
        check_counters(executor.snapshot())
    second = {name: recorder.results[name][1] for name in names}
    assert [second[name].model for name in names] == ["m", "m", "m@32x64", "m@32x64"]
    assert {second[name].timing.batch_size for name in names} == {2}
    with pytest.raises(ConfigurationError, match="closed"):
        executor.add_model("late", {GPU: simulated(GPU)})


def test_stop_ends_threads_and_start_begins_again() -> None:
    before = threading.enumerate()
    recorder = Recorder()
    executor = InferenceExecutor([simulated(GPU), simulated(DLA0)])
    executor.add_stream(StreamConfig(id="a"), recorder.on_result)
    assert executor.submit(frame("a")) is SubmitOutcome.STOPPED
    assert executor.snapshot().state is ExecutorState.STOPPED
    for number in (1, 2):
        executor.start()
        executor.submit(frame("a", number))
        assert recorder.wait(lambda n=number: recorder.numbers("a")[-1:] == [n])
        begin = time.monotonic()
        assert executor.stop(timeout=PATIENCE)
        assert time.monotonic() - begin < 10.0
        assert not new_threads(before)
    assert executor.close()
    with pytest.raises(ConfigurationError, match="closed"):
        executor.start()


def test_a_stop_may_come_as_a_placement_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, errors = threading.Thread, []

    def join(supervisor: Any) -> None:
        try:
            supervisor.join(0.0)
        except RuntimeError as error:
            errors.append(error)

    class Planner(whole):
        def start(self) -> None:
            if self.name == "executor-planner":
                other = whole(target=join, args=(executor._supervisor,))
                other.start()
                other.join()
                met.set()
            super().start()

    met = threading.Event()
    executor = InferenceExecutor([simulated(GPU), simulated(DLA0)], policy="balanced")
    monkeypatch.setattr(threading, "Thread", Planner)
    with executor:
        executor.add_stream(StreamConfig(id="a"), Recorder().on_result)
        assert met.wait(PATIENCE)
    assert not errors


def test_a_stop_waits_for_a_placement_that_begins_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, join = threading.Thread, Supervisor.join
    held, stopping = threading.Event(), threading.Event()

    class Planner(whole):
        def start(self) -> None:
            if self.name == "executor-planner":
                held.set()
                assert stopping.wait(PATIENCE)
                time.sleep(0.05)  # the stop waits for the supervisor now
            super().start()

        def run(self) -> None:
            if self.name == "executor-planner":
                time.sleep(0.1)
            super().run()

    def join_and_tell(supervisor: Supervisor, timeout: float) -> None:
        stopping.set()
        join(supervisor, timeout)

    before = threading.enumerate()
    monkeypatch.setattr(threading, "Thread", Planner)
    monkeypatch.setattr(Supervisor, "join", join_and_tell)
    executor = InferenceExecutor([simulated(GPU), simulated(DLA0)], policy="balanced")
    executor.add_stream(StreamConfig(id="a"), Recorder().on_result)
    executor.start()
    assert held.wait(PATIENCE)
    executor.close(timeout=PATIENCE)
    assert not new_threads(before)


def test_waiting_frames_are_dropped_at_stop() -> None:
    recorder = Recorder()
    gate = Gate()

    def on_drop(dropped: Frame, reason: DropReason) -> None:
        recorder.on_drop(dropped, reason)
        gate.open()  # the frame that runs ends only now that the waiting ones are dropped

    executor = InferenceExecutor([simulated(GPU, result=gate)], options=PATIENT)
    executor.add_stream(StreamConfig(id="a", queue_depth=5), recorder.on_result, on_drop)
    executor.start()
    assert executor.wait_started(PATIENCE)
    for number in range(3):
        executor.submit(frame("a", number))
    assert wait_until(lambda: executor.snapshot().streams["a"].waiting == 2)
    assert executor.close(timeout=PATIENCE)
    assert recorder.numbers("a") == [0]
    assert recorder.drops["a"] == [(1, DropReason.STOPPED), (2, DropReason.STOPPED)]
    assert adds_up(executor.snapshot().streams["a"])


def test_no_image_is_kept_after_its_result() -> None:
    """Timeline and counters must not hold the pixels of past frames."""
    alive: list[weakref.ref[np.ndarray]] = []
    with InferenceExecutor([simulated(GPU)]) as executor:
        executor.add_stream(StreamConfig(id="a", queue_depth=50), lambda result: None)
        for number in range(20):
            pixels = np.zeros(3, np.uint8)
            alive.append(weakref.ref(pixels))
            executor.submit(Frame(pixels, 1, 1, "bgr8", 3, stamp_ns=number, stream_id="a"))
        del pixels
        assert wait_until(lambda: executor.snapshot().streams["a"].processed == 20)
        assert len(executor.timeline.spans()) == 20
        gc.collect()
        assert wait_until(lambda: sum(ref() is not None for ref in alive) <= 1)


def test_timing_and_deadline() -> None:
    recorder = Recorder()
    with InferenceExecutor([simulated(GPU, 0.02)], times={(GPU, "default"): 0.02}) as executor:
        executor.add_stream(StreamConfig(id="late", deadline=0.01), recorder.on_result)
        executor.add_stream(StreamConfig(id="fine", deadline=60.0), recorder.on_result)
        assert executor.wait_started(PATIENCE)
        executor.submit(frame("late"))
        assert recorder.wait(lambda: bool(recorder.results["late"]))
        begin = time.monotonic()
        executor.submit(frame("fine"))
        assert recorder.wait(lambda: bool(recorder.results["fine"]))
        elapsed = time.monotonic() - begin
        snapshot = executor.snapshot()
    late, fine = recorder.results["late"][0], recorder.results["fine"][0]
    assert late.deadline_missed and not fine.deadline_missed
    assert snapshot.streams["late"].deadline_missed == 1
    assert 0.02 <= fine.timing.service <= fine.timing.total <= elapsed
    assert 0.02 <= fine.timing.stages.inference <= fine.timing.service + 1e-6
    assert snapshot.streams["fine"].latency_p50 == pytest.approx(fine.timing.total)


def test_nan_in_detections_is_an_engine_error() -> None:
    def poisoned(_: Frame) -> Detections:
        return Detections(
            np.zeros((1, 4), np.float32), np.array([np.nan], np.float32), np.zeros(1, np.int32)
        )

    recorder = Recorder()
    detector = SimulatedDetector(CPU, ConstantLatency(0.001), result=poisoned)
    options = replace(PATIENT, backoff=60.0)  # it stays out of service while the test looks
    with InferenceExecutor([detector], options=options) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        executor.submit(frame("a"))
        assert recorder.wait(lambda: recorder.drops["a"] == [(0, DropReason.FAILED)])
        assert "NaN" in executor.snapshot().devices[CPU].last_error
        assert executor.snapshot().state is ExecutorState.ERROR


def test_detectors_must_be_distinct() -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        InferenceExecutor([])
    with pytest.raises(ConfigurationError, match="two detectors on gpu"):
        InferenceExecutor([simulated(GPU), simulated(GPU)])


def test_calls_are_marked_for_nsight(monkeypatch: pytest.MonkeyPatch) -> None:
    """With profile=True each call is an NVTX range named by its device and streams."""
    marked: list[str] = []

    class Annotate(contextlib.AbstractContextManager[None]):
        def __init__(self, message: str) -> None:
            marked.append(message)

        def __exit__(self, *exc: object) -> None:
            marked.append("end")

    fake = types.ModuleType("nvtx")
    fake.annotate = Annotate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvtx", fake)
    recorder = Recorder()
    with InferenceExecutor([simulated(GPU)], profile=True) as executor:
        executor.add_stream(StreamConfig(id="front"), recorder.on_result)
        executor.submit(frame("front"))
        assert recorder.wait(lambda: bool(recorder.results))
    assert marked == ["gpu front", "end"]


def test_times_are_measured_at_the_start_for_one_frame() -> None:
    """A warm-up may run whole batches; the time for one frame is what counts."""

    class Batching(SimulatedDetector):
        def warmup(self) -> None:
            self.detect([frame("")] * self.max_batch, [PostprocessOptions()] * self.max_batch)

    def time_of_one() -> float:
        detectors = [Batching(GPU, ConstantLatency(0.01), max_batch=32), simulated(DLA0, 0.02)]
        with InferenceExecutor(detectors, times={(DLA0, "default"): 0.5}) as executor:
            assert executor.wait_started(PATIENCE)
            devices = executor.snapshot().devices
        assert devices[DLA0].models["default"] == 0.5, "given times are taken as they are"
        assert devices[GPU].models["default"] >= 0.01
        return devices[GPU].models["default"]

    assert ever_within(0.3, time_of_one), "not the 0.32 s of the batch"
