# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of a detector that overlap: two under way, in order, and every promise kept."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pytest
from support.executors import (
    DLA0,
    GPU,
    PATIENCE,
    PATIENT,
    Gate,
    Recorder,
    VirtualClock,
    check_counters,
    feed,
    feed_until,
    frame,
    idle,
    new_threads,
    wait_until,
)
from support.simulated_detector import SimulatedDetector

from yolox_trt.core import Detections, Device, Frame, FrameError, PostprocessOptions
from yolox_trt.core.faults import DeviceBusyError
from yolox_trt.detectors.detector import Detector
from yolox_trt.engines.simulated import ConstantLatency, Fault, FaultInjector
from yolox_trt.executor import (
    DeviceStatus,
    DropReason,
    InferenceExecutor,
    SchedulerOptions,
    StreamConfig,
    SubmitOutcome,
)
from yolox_trt.executor.device_state import LOAD_WINDOW

NAMES = ["a", "b", "c", "d"]


class Watched(SimulatedDetector):
    """Takes two calls, and notes the most that were ever under way."""

    most = 0

    def enqueue(self, frames: Sequence[Frame], options: Sequence[Any]) -> Any:
        ticket = super().enqueue(frames, options)
        self.most = max(self.most, self.in_flight)
        return ticket


class Held(Watched):
    """Its calls begin when `submitted` is set: where two frames are there, two get under way."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(GPU, ConstantLatency(0.002), copy=0.001, max_calls=2, result=gate)
        self.submitted = threading.Event()

    def enqueue(self, frames: Sequence[Frame], options: Sequence[Any]) -> Any:
        if frames[0].stream_id:
            self.submitted.wait(PATIENCE)
        return super().enqueue(frames, options)


def overlapping(
    device: Device = GPU,
    seconds: float = 0.006,
    *,
    copy: float = 0.002,
    faults: FaultInjector | None = None,
    fails_in: Literal["enqueue", "collect"] = "enqueue",
    max_batch: int = 1,
    result: Callable[[Frame], Detections] | None = None,
) -> Watched:
    return Watched(
        device,
        ConstantLatency(seconds),
        copy=copy,
        max_calls=2,
        faults=faults,
        fails_in=fails_in,
        max_batch=max_batch,
        result=result,
    )


@pytest.fixture
def faults() -> Iterator[FaultInjector]:
    """Commands; whatever still hangs is let go at the end."""
    injector = FaultInjector()
    yield injector
    injector.clear()


@pytest.fixture(params=["enqueue", "collect"])
def fails_in(request: pytest.FixtureRequest) -> Literal["enqueue", "collect"]:
    """Where a fault strikes."""
    where: Literal["enqueue", "collect"] = request.param
    return where


def start(executor: InferenceExecutor, recorder: Recorder, names: Sequence[str] = NAMES) -> None:
    for name in names:
        executor.add_stream(StreamConfig(id=name), recorder.on_result, recorder.on_drop)
    executor.start()
    assert executor.wait_started(PATIENCE)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_calls_are_refused_above_the_most_and_collected_in_their_order(most: int) -> None:
    detector = SimulatedDetector(GPU, ConstantLatency(0.001), max_calls=most)
    call = [frame("a")], [PostprocessOptions()]
    tickets = [detector.enqueue(*call) for _ in range(most)]
    assert detector.in_flight == most
    with pytest.raises(DeviceBusyError, match=f"at most {most}"):
        detector.enqueue(*call)
    if most > 1:
        with pytest.raises(RuntimeError, match="not the oldest"):
            detector.collect(tickets[1])
    for ticket in tickets:
        assert len(detector.collect(ticket)) == 1
    with pytest.raises(RuntimeError, match="not the oldest"):
        detector.collect(tickets[0])
    assert detector.in_flight == 0


def test_more_frames_fit_and_busy_time_is_counted_once() -> None:
    """A frame is 30 ms of copying and 30 of computing: if these overlap, it takes 30, else 60."""
    recorder = Recorder()
    detector = overlapping(seconds=0.06, copy=0.03)
    each = 2
    frames = each * len(NAMES)
    with InferenceExecutor([detector], times={(GPU, "default"): 0.06}) as executor:
        for name in NAMES:
            config = StreamConfig(id=name, queue_depth=each)
            executor.add_stream(config, recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        begin = time.monotonic()
        # A busy machine may spoil an attempt. Calls one after another can never pass: a sleep is
        # not shorter than what was asked for.
        for attempt in range(10):
            attempt_began = time.monotonic()
            for number in range(each * attempt, each * (attempt + 1)):
                for name in NAMES:
                    assert executor.submit(frame(name, number)) is SubmitOutcome.ACCEPTED
            total = frames * (attempt + 1)
            assert recorder.wait(
                lambda total=total: sum(map(len, recorder.results.values())) == total  # type: ignore[misc]
            )
            seconds = time.monotonic() - attempt_began
            time_of_one = executor.snapshot().devices[GPU].models["default"]
            if seconds < 0.95 * frames * 0.06 and time_of_one < 0.95 * 0.06:
                break
        else:
            pytest.fail(f"{frames} frames took {seconds:.3f} s, one counts as {time_of_one:.4f} s")
        assert wait_until(lambda: idle(executor))
        snapshot = executor.snapshot()
        elapsed = time.monotonic() - begin
        spans = executor.timeline.spans()
    check_counters(snapshot)
    assert detector.most == 2
    assert snapshot.devices[GPU].load * LOAD_WINDOW <= elapsed
    for before, after in itertools.pairwise(sorted(spans, key=lambda s: s.start)):
        assert before.end <= after.start + 1e-9
    for name in NAMES:
        assert recorder.numbers(name) == sorted(recorder.numbers(name))
    for result in recorder.results["a"]:
        timing = result.timing
        assert timing.submitted <= timing.started <= timing.finished


def test_a_result_never_waits_for_a_frame() -> None:
    recorder = Recorder()
    with InferenceExecutor([overlapping()]) as executor:
        start(executor, recorder)
        for number in range(3):
            executor.submit(frame("a", number))
            assert recorder.wait(lambda n=number: len(recorder.results["a"]) == n + 1)  # type: ignore[misc]
        executor.submit(frame("a", 3))
        executor.submit(frame("b", 3))
        assert recorder.wait(lambda: recorder.numbers("a")[-1:] == recorder.numbers("b") == [3])


def test_without_overlap_if_it_is_not_wanted() -> None:
    recorder = Recorder()
    detector = overlapping()
    with InferenceExecutor([detector], overlap=False) as executor:
        start(executor, recorder)
        feed(executor, NAMES, 100.0, 0.2)
        assert wait_until(lambda: idle(executor))
    assert detector.most == 1


def test_two_models_do_not_overlap() -> None:
    """Their detectors have streams of their own: two calls would slow each other down."""
    recorder = Recorder()
    both = {(GPU, "m"): overlapping(), (GPU, "n"): overlapping()}
    with InferenceExecutor(both) as executor:
        for name, model in (("a", "m"), ("b", "n"), ("c", "m"), ("d", "n")):
            executor.add_stream(
                StreamConfig(id=name, model=model), recorder.on_result, recorder.on_drop
            )
        assert executor.wait_started(PATIENCE)
        feed_until(
            executor,
            NAMES,
            60.0,
            lambda: all(s.processed >= 5 for s in executor.snapshot().streams.values()),
        )
        assert wait_until(lambda: idle(executor))
        snapshot = executor.snapshot()
    check_counters(snapshot)


@pytest.mark.parametrize("fault", [Fault.RAISE, Fault.NAN, Fault.HANG])
@pytest.mark.parametrize("with_factory", [True, False], ids=["rebuilt", "probed"])
@pytest.mark.sampled(5)
def test_a_failing_device_loses_all_its_frames_once(
    faults: FaultInjector,
    fails_in: Literal["enqueue", "collect"],
    fault: Fault,
    with_factory: bool,
) -> None:
    recorder = Recorder()
    # Its time stands still, so that no watchdog finds more than the commanded hang.
    clock = VirtualClock(1.0)
    options = SchedulerOptions(watchdog=0.15, watchdog_factor=10.0, backoff=0.1, backoff_max=0.4)

    def make(device: Device, model: str) -> Detector:
        return overlapping(device, 0.03, copy=0.001, faults=faults, fails_in=fails_in)

    executor = InferenceExecutor(
        [make(GPU, "default")],
        options=options,
        factory=make if with_factory else None,
        times={(GPU, "default"): 0.01},
        clock=clock,
    )
    with executor:
        start(executor, recorder)
        faults.inject(fault)
        # The device may have failed already when the later ones are submitted.
        accepted = {name: executor.submit(frame(name, 1)).accepted for name in NAMES}
        if fault is Fault.HANG:
            assert wait_until(lambda: faults.injected == 1)
            clock.advance_to(1.2)
        assert wait_until(lambda: executor.snapshot().devices[GPU].errors == 1)
        check_counters(executor.snapshot())
        if not with_factory:
            faults.clear()  # the device is probed only when the hung call has returned
        clock.advance_to(2.0)
        assert wait_until(
            lambda: executor.snapshot().devices[GPU].status is DeviceStatus.IN_SERVICE
        )
        for name in NAMES:
            executor.submit(frame(name, 2))
        assert recorder.wait(lambda: all(recorder.numbers(n)[-1:] == [2] for n in NAMES))
        assert wait_until(lambda: idle(executor))
        if fault is Fault.HANG:
            faults.clear()
            assert wait_until(lambda: executor.snapshot().devices[GPU].late_results >= 1)
        snapshot = executor.snapshot()
    check_counters(snapshot)
    assert snapshot.devices[GPU].errors == 1
    failed = 0
    for name in NAMES:
        reasons = [reason for number, reason in recorder.drops[name] if number == 1]
        ends = len(reasons) + recorder.numbers(name).count(1)
        assert ends == accepted[name], "one end for each accepted frame"
        failed += reasons.count(DropReason.FAILED)
    counted = sum(s.dropped[DropReason.FAILED] for s in snapshot.streams.values())
    assert failed == counted
    assert 1 <= failed <= 2


def test_a_malformed_frame_costs_only_itself() -> None:
    class Reads(Watched):
        def enqueue(self, frames: Sequence[Frame], options: Sequence[Any]) -> Any:
            if any(f.stamp_ns % 5 == 4 and f.stream_id == "b" for f in frames):
                raise FrameError("a frame that cannot be read")
            return super().enqueue(frames, options)

    recorder = Recorder()
    detector = Reads(GPU, ConstantLatency(0.004), copy=0.001, max_batch=3)
    with InferenceExecutor([detector]) as executor:
        start(executor, recorder)
        feed_until(
            executor,
            NAMES,
            60.0,
            lambda: executor.snapshot().streams["b"].dropped[DropReason.MALFORMED] >= 5,
        )
        assert wait_until(lambda: idle(executor))
        snapshot = executor.snapshot()
    check_counters(snapshot)
    assert snapshot.devices[GPU].errors == 0
    for name in NAMES:
        malformed = snapshot.streams[name].dropped[DropReason.MALFORMED]
        assert malformed == 0 or name == "b"
        assert recorder.numbers(name) == sorted(set(recorder.numbers(name)))


def test_out_of_memory_shrinks_the_batch_first(faults: FaultInjector) -> None:
    recorder = Recorder()
    options = SchedulerOptions(batch_recovery=60.0)
    detector = overlapping(seconds=0.002, copy=0.0005, faults=faults, max_batch=4)
    with InferenceExecutor([detector], options=options) as executor:
        start(executor, recorder)
        faults.inject(Fault.OUT_OF_MEMORY, count=None)
        feed_until(
            executor,
            NAMES,
            60.0,
            lambda: executor.snapshot().devices[GPU].batch_limits == {"default": 1},
        )
        assert wait_until(lambda: idle(executor))
        snapshot = executor.snapshot()
    check_counters(snapshot)
    assert all(s.processed for s in snapshot.streams.values())
    assert snapshot.devices[GPU].errors == 0
    assert all(s.dropped[DropReason.FAILED] == 0 for s in snapshot.streams.values())


def test_a_call_that_has_to_wait_for_the_others() -> None:
    """DeviceBusyError is no fault of the device: the calls under way come first."""

    class Growing(Watched):
        had_to_wait = 0

        def enqueue(self, frames: Sequence[Frame], options: Sequence[Any]) -> Any:
            if self.in_flight and frames[0].stream_id == "d":
                self.had_to_wait += 1
                raise DeviceBusyError("calls under way, and more detections wanted")
            return super().enqueue(frames, options)

    recorder = Recorder()
    detector = Growing(GPU, ConstantLatency(0.004), copy=0.001, max_calls=2)
    with InferenceExecutor([detector]) as executor:
        start(executor, recorder)
        feed_until(
            executor,
            NAMES,
            50.0,
            lambda: len(recorder.results["d"]) >= 10 and detector.had_to_wait > 0,
        )
        assert wait_until(lambda: idle(executor))
        snapshot = executor.snapshot()
    check_counters(snapshot)
    assert snapshot.devices[GPU].errors == 0


def test_stop_delivers_what_is_under_way() -> None:
    recorder = Recorder()
    gate = Gate()
    detector = Held(gate)

    def on_drop(dropped: Frame, reason: DropReason) -> None:
        recorder.on_drop(dropped, reason)
        gate.open()  # the calls under way end only now that the waiting frames are dropped

    executor = InferenceExecutor([detector], options=PATIENT)
    for name in NAMES:
        executor.add_stream(StreamConfig(id=name), recorder.on_result, on_drop)
    executor.start()
    assert executor.wait_started(PATIENCE)
    for name in NAMES:
        executor.submit(frame(name))
    detector.submitted.set()
    assert wait_until(lambda: sum(s.waiting for s in executor.snapshot().streams.values()) == 2)
    assert executor.stop(timeout=PATIENCE)
    assert sum(len(recorder.results[n]) for n in NAMES) == 2
    assert [r for n in NAMES for _, r in recorder.drops[n]] == [DropReason.STOPPED] * 2
    executor.start()
    assert executor.wait_started(PATIENCE)
    executor.submit(frame("a", 7))
    assert recorder.wait(lambda: recorder.numbers("a")[-1:] == [7])
    executor.remove_stream("b")
    assert executor.close(timeout=PATIENCE)
    check_counters(executor.snapshot())


def test_a_removed_streams_result_is_discarded() -> None:
    recorder = Recorder()
    gate = Gate()
    detector = Held(gate)
    with InferenceExecutor([detector], options=PATIENT) as executor:
        start(executor, recorder, ["a", "b"])
        executor.submit(frame("a"))
        executor.submit(frame("b"))
        detector.submitted.set()
        assert wait_until(lambda: sum(s.waiting for s in executor.snapshot().streams.values()) == 0)
        executor.remove_stream("b")
        gate.open()
        assert recorder.wait(lambda: recorder.drops["b"] == [(0, DropReason.STOPPED)])
        assert recorder.wait(lambda: recorder.numbers("a") == [0])
        assert wait_until(lambda: executor.snapshot().removed_received == 1)
        snapshot = executor.snapshot()
        assert (snapshot.removed_processed, snapshot.removed_dropped) == (0, 1)


@pytest.mark.sampled(2)
def test_many_faults_lose_no_count(
    faults: FaultInjector, fails_in: Literal["enqueue", "collect"], caplog: pytest.LogCaptureFixture
) -> None:
    """Random faults while calls overlap: the counters always add up, the order holds."""
    caplog.set_level(logging.CRITICAL)
    rng = np.random.default_rng(11)
    recorder = Recorder()
    injectors = {GPU: faults, DLA0: FaultInjector()}
    options = SchedulerOptions(watchdog=0.05, watchdog_factor=5.0, backoff=0.02, backoff_max=0.1)

    def make(device: Device, model: str) -> Detector:
        return overlapping(
            device, 0.003, copy=0.001, faults=injectors[device], fails_in=fails_in, max_batch=2
        )

    before = threading.enumerate()
    executor = InferenceExecutor(
        [make(device, "default") for device in injectors],
        policy="dynamic",
        options=options,
        factory=make,
    )
    with executor:
        start(executor, recorder)
        number = 0
        for turn in itertools.count():
            errors = sum(d.errors for d in executor.snapshot().devices.values())
            if turn >= 12 and errors >= 5:
                break
            assert turn < 100, executor.snapshot()
            kind = [Fault.RAISE, Fault.NAN, Fault.HANG, Fault.OUT_OF_MEMORY][rng.integers(4)]
            injectors[(GPU, DLA0)[rng.integers(2)]].inject(kind, seconds=0.2)
            number = feed(executor, NAMES, 150.0, 0.2, number)
            check_counters(executor.snapshot())
        assert wait_until(lambda: idle(executor))
        snapshot = executor.snapshot()
    check_counters(snapshot)
    for name in NAMES:
        numbers = recorder.numbers(name)
        assert numbers == sorted(set(numbers))
        assert not {n for n, _ in recorder.drops[name]} & set(numbers)
        stream = snapshot.streams[name]
        assert stream.received == number
        assert len(numbers) == stream.processed
    for injector in injectors.values():
        injector.clear()
    assert wait_until(lambda: not new_threads(before))
