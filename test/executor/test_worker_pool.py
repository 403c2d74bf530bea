# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Start, stop and close from any thread at any time, and threads that fail or cannot be had."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from support.executors import (
    CPU,
    GPU,
    PATIENCE,
    PATIENT,
    Gate,
    Recorder,
    VirtualClock,
    check_counters,
    frame,
    new_threads,
    simulated,
    wait_until,
)
from support.simulated_detector import SimulatedDetector

from yolox_trt.core import ConfigurationError, Device, Frame
from yolox_trt.detectors.detector import Detector
from yolox_trt.engines.simulated import ConstantLatency, Fault, FaultInjector
from yolox_trt.executor import (
    DeviceStatus,
    DropReason,
    ExecutorState,
    InferenceExecutor,
    SchedulerOptions,
    StreamConfig,
    StreamResult,
    inference_executor,
    supervisor,
    worker_pool,
)
from yolox_trt.executor.scheduler import Scheduler
from yolox_trt.executor.supervisor import Supervisor
from yolox_trt.executor.worker import Worker

TIMES = {(GPU, "default"): 0.001}
FAST = replace(PATIENT, backoff=0.02, backoff_max=0.1)
#: Seconds of virtual time; a watchdog's own grow with the time that a call was found to take.
PAST_THE_WATCHDOG = 1000.0


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def faults() -> Iterator[FaultInjector]:
    """Commands; whatever still hangs is let go at the end."""
    injector = FaultInjector()
    yield injector
    injector.clear()


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """What a blocked thread waits for; set at the end."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def died(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has ended threads."""
    found: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: found.append(repr(args.exc_value)))
    return found


class Closing(SimulatedDetector):
    """Tells when it was closed, and blocks in its warm-up for as long as `blocks` is set."""

    def __init__(self, blocks: threading.Event | None = None) -> None:
        super().__init__(GPU, ConstantLatency(0.001))
        self.closed = threading.Event()
        self.warming = threading.Event()
        self._blocks = blocks

    def warmup(self) -> None:
        self.warming.set()
        if self._blocks is not None:
            self._blocks.wait(2.0 * PATIENCE)
        super().warmup()

    def close(self) -> None:
        self.closed.set()
        super().close()


def threads_of(device: Device) -> int:
    return sum(t.name == f"executor-{device}" for t in threading.enumerate())


def in_service(executor: InferenceExecutor) -> bool:
    return executor.snapshot().devices[GPU].status is DeviceStatus.IN_SERVICE


def serves(executor: InferenceExecutor, recorder: Recorder, number: int, stream: str = "a") -> bool:
    """Whether the executor gives a stream's frame its result."""
    assert executor.submit(frame(stream, number)).accepted
    return recorder.wait(lambda: number in recorder.numbers(stream))


# Stop ----------------------------------------------------------------------------------------


def test_a_callback_that_begins_while_a_stop_waits_is_no_hanging_device(
    recorder: Recorder, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call ends after the stop has looked for callbacks, and before it looks for hangs."""

    def blocking(result: StreamResult) -> None:
        recorder.on_result(result)
        go.wait(2.0 * PATIENCE)

    monkeypatch.setattr(worker_pool, "_GRACE", 2.0, raising=False)
    executor = InferenceExecutor([simulated(GPU, 0.1)], options=PATIENT, times=TIMES)
    executor.add_stream(StreamConfig(id="a"), blocking)
    executor.add_stream(StreamConfig(id="b"), recorder.on_result)
    executor.start()
    assert executor.wait_started(PATIENCE)
    executor.submit(frame("a", 1))
    assert wait_until(lambda: executor.snapshot().streams["a"].waiting == 0)
    assert not executor.stop(0.0)
    executor.start()
    assert executor.wait_started(PATIENCE)
    assert serves(executor, recorder, 1, "b")
    device = executor.snapshot().devices[GPU]
    assert (device.status, device.hangs) == (DeviceStatus.IN_SERVICE, 0)
    assert executor.snapshot().streams["a"].callback_hangs == 1
    go.set()
    assert executor.close(PATIENCE)


def test_a_hang_that_a_stop_finds_is_replaced_as_one_that_the_watchdog_finds(
    recorder: Recorder, faults: FaultInjector
) -> None:
    """Also by more stops and starts than a device may leave threads behind."""
    before = threading.enumerate()
    executor = InferenceExecutor(
        [simulated(GPU, faults=faults)],
        options=FAST,
        factory=lambda device, model: simulated(device),
        times=TIMES,
    )
    executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
    executor.start()
    assert executor.wait_started(PATIENCE)
    faults.inject(Fault.HANG)
    executor.submit(frame("a", 0))
    assert wait_until(lambda: faults.injected == 1)
    for number in range(1, 2 * worker_pool.MAX_HUNG_THREADS):
        assert not executor.stop(0.0 if number == 1 else PATIENCE), "a thread is left behind"
        executor.start()
        assert executor.wait_started(PATIENCE)
        assert serves(executor, recorder, number)
    device = executor.snapshot().devices[GPU]
    assert (device.hangs, device.errors) == (1, 1)
    assert recorder.drops["a"] == [(0, DropReason.FAILED)]
    faults.clear()
    assert wait_until(lambda: executor.snapshot().devices[GPU].late_results == 1)
    assert wait_until(lambda: threads_of(GPU) == 1)
    assert executor.close(PATIENCE)
    assert wait_until(lambda: not new_threads(before))


@pytest.mark.parametrize("rebuilds", [True, False], ids=["factory", "no factory"])
def test_a_first_warm_up_that_takes_longer_than_a_stop(
    recorder: Recorder, go: threading.Event, rebuilds: bool
) -> None:
    slow = Closing(go)
    executor = InferenceExecutor(
        [slow], options=FAST, factory=(lambda d, m: Closing()) if rebuilds else None, times=TIMES
    )
    executor.add_stream(StreamConfig(id="a"), recorder.on_result)
    executor.start()
    assert slow.warming.wait(PATIENCE)
    assert not executor.stop(0.05)
    executor.start()
    if not rebuilds:
        assert executor.snapshot().devices[GPU].status is DeviceStatus.LOST
        go.set()
    assert wait_until(lambda: in_service(executor))
    assert serves(executor, recorder, 1)
    assert slow.closed.is_set() is False
    go.set()
    if rebuilds:
        assert slow.closed.wait(PATIENCE)
    assert executor.close(PATIENCE)
    assert slow.closed.is_set()


def test_a_thread_that_has_decided_to_end_is_no_hanging_device(
    recorder: Recorder, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Worker._work

    def ends_slowly(worker: Worker) -> None:
        work(worker)
        go.wait(2.0 * PATIENCE)

    monkeypatch.setattr(Worker, "_work", ends_slowly)
    executor = InferenceExecutor([simulated(GPU, 0.01)], options=PATIENT, times=TIMES)
    executor.add_stream(StreamConfig(id="a"), recorder.on_result)
    executor.start()
    assert executor.wait_started(PATIENCE)
    assert serves(executor, recorder, 1)
    assert executor.stop(0.5)
    executor.start()
    assert executor.wait_started(PATIENCE)
    assert serves(executor, recorder, 2)
    go.set()
    assert executor.close(PATIENCE)


def test_a_start_while_another_thread_stops_lets_the_device_go_on(recorder: Recorder) -> None:
    gate, answers = Gate(), []
    executor = InferenceExecutor([simulated(GPU, result=gate)], options=PATIENT, times=TIMES)
    executor.add_stream(StreamConfig(id="a"), recorder.on_result)
    executor.start()
    assert executor.wait_started(PATIENCE)
    executor.submit(frame("a", 1))
    assert wait_until(lambda: executor.snapshot().streams["a"].waiting == 0)
    stopping = threading.Thread(target=lambda: answers.append(executor.stop(2.0 * PATIENCE)))
    stopping.start()
    assert wait_until(lambda: executor.snapshot().state is ExecutorState.STOPPED)
    executor.start()
    stopping.join(PATIENCE)
    assert answers == [False], "it was started again"
    gate.open()
    assert recorder.wait(lambda: recorder.numbers("a") == [1])
    assert serves(executor, recorder, 2)
    assert threads_of(GPU) == 1
    check_counters(executor.snapshot())
    assert executor.close(PATIENCE)


@pytest.mark.parametrize("method", ["stop", "close"])
def test_a_callback_may_stop_its_own_executor(
    recorder: Recorder, go: threading.Event, died: list[str], method: str
) -> None:
    answers: list[bool] = []
    detector = Closing()

    def on_result(result: StreamResult) -> None:
        recorder.on_result(result)
        if not answers:
            answers.append(getattr(executor, method)(PATIENCE))
            go.wait(2.0 * PATIENCE)

    executor = InferenceExecutor([detector], options=PATIENT, times=TIMES)
    for name in ("a", "b"):
        executor.add_stream(StreamConfig(id=name, queue_depth=10), on_result)
    executor.start()
    assert executor.wait_started(PATIENCE)
    executor.submit(frame("a", 1))
    assert wait_until(lambda: bool(answers))
    assert answers == [False], "the thread that asks goes on"
    assert executor.snapshot().state is ExecutorState.STOPPED
    assert executor.snapshot().streams["a"].callback_hangs == 0
    if method == "close":
        assert detector.closed.wait(PATIENCE)
        with pytest.raises(ConfigurationError, match="closed"):
            executor.start()
    else:
        executor.start()  # while the callback is on its way
        assert executor.wait_started(PATIENCE)
        assert serves(executor, recorder, 2, "b")
        go.set()
        assert serves(executor, recorder, 3)
        for number in range(4, 20):
            assert serves(executor, recorder, number, "ab"[number % 2])
        assert wait_until(lambda: threads_of(GPU) == 1)
    go.set()
    assert wait_until(lambda: executor.close(PATIENCE))
    assert not died


def test_a_callback_that_stops_what_another_thread_is_stopping_waits_for_its_time(
    recorder: Recorder,
) -> None:
    stopped, answers = threading.Event(), []

    def on_result(result: StreamResult) -> None:
        stopped.wait(PATIENCE)
        answers.append(executor.stop(0.1))
        recorder.on_result(result)

    executor = InferenceExecutor([simulated(GPU)], options=PATIENT, times=TIMES)
    executor.add_stream(StreamConfig(id="a"), on_result)
    executor.start()
    assert executor.wait_started(PATIENCE)
    executor.submit(frame("a", 1))
    assert wait_until(lambda: executor.snapshot().streams["a"].processed == 1)
    stopping = threading.Thread(target=executor.stop, args=(2.0 * PATIENCE,))
    stopping.start()
    assert wait_until(lambda: executor.snapshot().state is ExecutorState.STOPPED)
    stopped.set()
    assert recorder.wait(lambda: recorder.numbers("a") == [1])
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    assert answers == [False]
    assert executor.close(PATIENCE)


def test_a_start_before_a_worker_that_came_back_has_ended(
    recorder: Recorder,
    faults: FaultInjector,
    go: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hung call returns while the executor is stopped, and its thread is slow to end."""
    come_back, came = Worker._come_back, threading.Event()

    def slowly(worker: Worker) -> None:
        come_back(worker)
        came.set()
        go.wait(2.0 * PATIENCE)

    monkeypatch.setattr(Worker, "_come_back", slowly)
    executor = InferenceExecutor([simulated(GPU, faults=faults)], options=FAST, times=TIMES)
    executor.add_stream(StreamConfig(id="a"), recorder.on_result)
    executor.start()
    assert executor.wait_started(PATIENCE)
    faults.inject(Fault.HANG)
    executor.submit(frame("a", 1))
    assert wait_until(lambda: faults.injected == 1)
    assert not executor.stop(0.0)
    faults.clear()
    assert came.wait(PATIENCE)
    executor.start()
    go.set()
    assert wait_until(lambda: in_service(executor))
    assert serves(executor, recorder, 2)
    assert threads_of(GPU) == 1
    assert executor.close(PATIENCE)


def test_a_wait_for_the_start_ends_with_a_stop() -> None:
    executor = InferenceExecutor([simulated(GPU)], options=PATIENT)
    executor.start()
    executor.stop(PATIENCE)  # most likely before the worker has looked
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(executor.wait_started()), daemon=True)
    waiting.start()
    waiting.join(PATIENCE / 6.0)
    assert answers == [False]
    executor.start()
    assert executor.wait_started(PATIENCE)
    assert executor.close(PATIENCE)


def test_a_start_builds_what_a_hung_worker_has_kept(
    recorder: Recorder, faults: FaultInjector
) -> None:
    """The watchdog has replaced it; the executor stops and starts before the restart."""
    clock = VirtualClock(1.0)
    executor = InferenceExecutor(
        [simulated(GPU, faults=faults)],
        options=SchedulerOptions(backoff=100.0, backoff_max=100.0),
        factory=lambda device, model: simulated(device),
        times=TIMES,
        clock=clock,
    )
    executor.add_stream(StreamConfig(id="a"), recorder.on_result)
    executor.start()
    assert executor.wait_started(PATIENCE)
    faults.inject(Fault.HANG)
    executor.submit(frame("a", 1))
    assert wait_until(lambda: faults.injected == 1)
    clock.advance_to(PAST_THE_WATCHDOG)
    assert wait_until(lambda: executor.snapshot().devices[GPU].hangs == 1)
    executor.stop(PATIENCE)
    executor.start()
    assert executor.wait_started(PATIENCE)
    device = executor.snapshot().devices[GPU]
    assert (device.status, device.errors) == (DeviceStatus.IN_SERVICE, 1)
    assert serves(executor, recorder, 2)
    faults.clear()
    executor.close(PATIENCE)


def test_a_detector_that_comes_while_another_thread_closes_is_refused_or_closed(
    go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    added, new = threading.Event(), Closing()
    add_model, refused = Scheduler.add_model, []

    def slowly(*arguments: Any) -> Any:
        outcome = add_model(*arguments)
        added.set()
        go.wait(2.0 * PATIENCE)
        return outcome

    def add() -> None:
        try:
            executor.add_model("new", {GPU: new})
        except ConfigurationError as error:
            refused.append(error)
            added.set()

    adding = threading.Thread(target=add)
    executor = InferenceExecutor([simulated(GPU)], options=PATIENT, times=TIMES)
    stop = executor.stop

    def stop_then_add(timeout: float) -> bool:
        ended = stop(timeout)
        adding.start()
        assert added.wait(PATIENCE)
        return ended

    monkeypatch.setattr(Scheduler, "add_model", slowly)
    monkeypatch.setattr(executor, "stop", stop_then_add)
    executor.start()
    assert executor.wait_started(PATIENCE)
    assert executor.close(PATIENCE)
    go.set()
    adding.join(PATIENCE)
    assert refused or new.closed.is_set()


def test_a_worker_that_ends_after_a_close_closes_its_detectors(
    recorder: Recorder, go: threading.Event
) -> None:
    detector = Closing()

    def blocking(result: StreamResult) -> None:
        go.wait(2.0 * PATIENCE)

    executor = InferenceExecutor([detector], options=PATIENT, times=TIMES)
    executor.add_stream(StreamConfig(id="a"), blocking)
    executor.start()
    assert executor.wait_started(PATIENCE)
    executor.submit(frame("a", 1))
    assert wait_until(lambda: executor.snapshot().streams["a"].processed == 1)
    assert not executor.close(0.0)
    assert detector.closed.wait(PATIENCE)


# Supervisor ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rebuilds", [True, False], ids=["factory", "no factory"])
def test_a_drop_callback_that_blocks_keeps_no_watchdog(
    recorder: Recorder, faults: FaultInjector, go: threading.Event, rebuilds: bool
) -> None:
    """The frame of a hung call is told by the worker that takes its place, or a thread for it."""

    def on_drop(dropped: Frame, reason: DropReason) -> None:
        recorder.on_drop(dropped, reason)
        go.wait(2.0 * PATIENCE)

    other, clock = FaultInjector(), VirtualClock(1.0)
    executor = InferenceExecutor(
        [simulated(GPU, faults=faults), simulated(CPU, faults=other)],
        options=SchedulerOptions(callback_limit=0.0),
        factory=(lambda device, model: simulated(device)) if rebuilds else None,
        times={**TIMES, (CPU, "default"): 0.001},
        clock=clock,
    )
    executor.add_stream(StreamConfig(id="a", device="gpu"), recorder.on_result, on_drop)
    executor.add_stream(StreamConfig(id="b", device="cpu"), recorder.on_result)
    executor.start()
    try:
        assert executor.wait_started(PATIENCE)
        faults.inject(Fault.HANG)
        executor.submit(frame("a", 1))
        assert wait_until(lambda: faults.injected == 1)
        clock.advance_to(PAST_THE_WATCHDOG)
        assert recorder.wait(lambda: recorder.drops["a"] == [(1, DropReason.FAILED)])
        other.inject(Fault.HANG)
        executor.submit(frame("b", 1))
        assert wait_until(lambda: other.injected == 1)
        clock.advance_to(2.0 * PAST_THE_WATCHDOG)
        assert wait_until(lambda: executor.snapshot().devices[CPU].hangs == 1)
        assert not executor.stop(0.0)
        executor.start()
        go.set()
        assert wait_until(
            lambda: sum(t.name == "executor-supervisor" for t in threading.enumerate()) == 1
        )
    finally:
        other.clear()
        faults.clear()
        assert wait_until(lambda: executor.close(PATIENCE))


def test_the_supervisor_writes_the_log_without_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    free: list[bool] = []

    class Looks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "stood still" in record.getMessage() and not free:
                free.append(executor._lock.acquire(timeout=5.0))
                if free[0]:
                    executor._lock.release()

    handler = Looks()
    logging.getLogger("yolox_trt").addHandler(handler)
    monkeypatch.setattr(supervisor, "STANDSTILL", -1.0)
    try:
        with InferenceExecutor([simulated(GPU)], options=PATIENT, times=TIMES) as executor:
            assert wait_until(lambda: bool(free))
    finally:
        logging.getLogger("yolox_trt").removeHandler(handler)
    assert free == [True]


def test_an_error_of_the_supervisor_does_not_end_its_watch(
    recorder: Recorder, faults: FaultInjector, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, raised = Supervisor._check, threading.Event()

    def once(*arguments: Any) -> Any:
        if not raised.is_set():
            raised.set()
            raise KeyError("an error of the supervisor")
        return check(*arguments)

    monkeypatch.setattr(Supervisor, "_check", once)
    clock = VirtualClock(1.0)
    with InferenceExecutor(
        [simulated(GPU, faults=faults)], options=SchedulerOptions(), times=TIMES, clock=clock
    ) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        assert raised.wait(PATIENCE)
        faults.inject(Fault.HANG)
        executor.submit(frame("a", 1))
        assert wait_until(lambda: faults.injected == 1)
        clock.advance_to(PAST_THE_WATCHDOG)
        assert recorder.wait(lambda: recorder.drops["a"] == [(1, DropReason.FAILED)])
        faults.clear()


# Threads that fail ---------------------------------------------------------------------------


class Exits(SimulatedDetector):
    """Its first call of a stream's frame ends the thread that makes it."""

    def __init__(self) -> None:
        super().__init__(GPU, ConstantLatency(0.001))
        self._exits = True

    def detect(self, frames, options):  # type: ignore[no-untyped-def]
        if self._exits and frames[0].stream_id:
            self._exits = False
            raise SystemExit(1)
        return super().detect(frames, options)


def of_a_detector(monkeypatch: pytest.MonkeyPatch) -> Detector:
    return Exits()


def of_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> Detector:
    real, left = Scheduler.next_batch_of, ["an error"]

    def once(self: Scheduler, *arguments: Any) -> Any:
        if any(stream.queue for stream in self.streams.values()) and left:
            raise KeyError(left.pop())
        return real(self, *arguments)

    monkeypatch.setattr(Scheduler, "next_batch_of", once)
    return simulated(GPU)


@pytest.mark.parametrize("error", [of_a_detector, of_the_scheduler])
def test_no_error_ends_the_thread_of_a_device(
    recorder: Recorder,
    died: list[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[pytest.MonkeyPatch], Detector],
) -> None:
    detector = error(monkeypatch)
    with InferenceExecutor([detector], options=FAST, times=TIMES) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        executor.submit(frame("a", 1))
        assert recorder.wait(lambda: len(recorder.drops["a"]) == 1)
        assert wait_until(lambda: executor.snapshot().devices[GPU].restarts == 1)
        assert serves(executor, recorder, 2)
        check_counters(executor.snapshot())
    assert not died


def test_a_handler_of_the_log_that_raises_costs_no_thread(
    recorder: Recorder, faults: FaultInjector, died: list[str]
) -> None:
    class Raises(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("no log")

    handler = Raises()
    logging.getLogger("yolox_trt").addHandler(handler)
    try:
        detector = simulated(GPU, faults=faults)
        with InferenceExecutor([detector], options=FAST, times=TIMES) as executor:
            executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
            assert executor.wait_started(PATIENCE)
            faults.inject(Fault.RAISE)
            executor.submit(frame("a", 1))
            assert wait_until(lambda: executor.snapshot().devices[GPU].restarts == 1)
            assert executor.snapshot().devices[GPU].errors == 1
            assert serves(executor, recorder, 2)
    finally:
        logging.getLogger("yolox_trt").removeHandler(handler)
    assert not died


def no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_thread_that_could_not_be_had_is_started_later(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refused = threading.Thread.start, threading.Event()

    def first_refused(self: threading.Thread) -> None:
        if self.name == f"executor-{GPU}" and not refused.is_set():
            refused.set()
            no_thread(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", first_refused)
    with InferenceExecutor([simulated(GPU)], options=FAST, times=TIMES) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result)
        assert refused.is_set()
        assert wait_until(lambda: in_service(executor))
        assert serves(executor, recorder, 1)


def test_a_stop_at_the_end_of_python_starts_no_thread(
    recorder: Recorder, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Python 3.12 on there can be none then."""

    def blocking(result: StreamResult) -> None:
        go.wait(2.0 * PATIENCE)
        recorder.on_result(result)

    executor = InferenceExecutor([simulated(GPU)], options=PATIENT, times=TIMES)
    executor.add_stream(StreamConfig(id="a"), blocking)
    executor.start()
    assert executor.wait_started(PATIENCE)
    executor.submit(frame("a", 1))
    assert wait_until(lambda: executor.snapshot().streams["a"].processed == 1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        begin = time.monotonic()
        assert not executor.stop(0.1)
        assert time.monotonic() - begin < 10.0
    go.set()
    assert recorder.wait(lambda: recorder.numbers("a") == [1])
    executor.start()
    assert executor.wait_started(PATIENCE)
    assert serves(executor, recorder, 2)
    assert executor.close(PATIENCE)


def test_at_the_end_of_python_an_error_of_one_stop_does_not_keep_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped: list[int] = []

    class Stand:
        def stop(self) -> None:
            stopped.append(1)
            raise RuntimeError("an error at the end")

    monkeypatch.setattr(inference_executor, "_RUNNING", {Stand(), Stand()})
    inference_executor._stop_all()
    assert len(stopped) == 2
