# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Devices that fail: raise, give NaN, hang, run out of memory; simulated and with ONNX Runtime."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.executors import (
    CPU,
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
    simulated,
    wait_until,
)
from support.simulated_detector import SimulatedDetector
from support.yolox_graphs import build_yolox

from yolox_trt.core import Detections, Device, EngineError, Frame, FrameError
from yolox_trt.core.faults import DeviceBrokenError
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.core.shipped_files import default_model
from yolox_trt.detectors.cpu import CpuDetector
from yolox_trt.detectors.detector import Detector
from yolox_trt.engines.onnxruntime import OnnxRuntimeEngine
from yolox_trt.engines.simulated import (
    ConstantLatency,
    Fault,
    FaultInjector,
    SimulatedEngine,
    simulated_spec,
)
from yolox_trt.executor import (
    DeviceStatus,
    DropReason,
    ExecutorState,
    InferenceExecutor,
    SchedulerOptions,
    StreamConfig,
    StreamResult,
    SubmitOutcome,
)
from yolox_trt.executor.worker_pool import MAX_HUNG_THREADS

#: Failures that a watchdog has to find are tested in virtual time.
FAST = replace(PATIENT, backoff=0.02, backoff_max=0.1)
RATE = 30.0
#: Seconds of virtual time; a watchdog's own grow with the time that a call was found to take.
PAST_THE_WATCHDOG = 60.0


class FaultyEngine:
    """A real engine that fails on command, in the ways of a real one."""

    def __init__(self, engine: Any, device: Device, faults: FaultInjector) -> None:
        self._engine = engine
        self._faults = faults
        self.device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, batch: int, stream: Any = None) -> None:
        if self._faults.take(batch) is Fault.NAN:
            # A corrupt input: ONNX Runtime itself computes the NaN outputs.
            self._engine.input[:batch] = np.nan
        self._engine.run(batch, stream)


def onnxruntime_detector(device: Device, faults: FaultInjector, model: Any) -> Detector:
    """A CpuDetector on ONNX Runtime that claims to be `device`."""
    return CpuDetector(FaultyEngine(OnnxRuntimeEngine(model), device, faults))


def simulated_engine_detector(device: Device, faults: FaultInjector) -> Detector:
    """The real preprocessing and decoding around a simulated engine."""
    spec = simulated_spec(64, 96, 3)
    return CpuDetector(SimulatedEngine(device, spec, ConstantLatency(0.002), faults=faults))


@pytest.fixture(params=["simulated detector", "simulated engine", "onnxruntime"])
def make(request: pytest.FixtureRequest) -> Callable[[Device, FaultInjector], Detector]:
    """Make a detector that fails on command, of each kind."""
    if request.param == "simulated detector":
        return lambda device, faults: simulated(device, 0.002, faults=faults)
    if request.param == "simulated engine":
        return simulated_engine_detector
    model = build_yolox()
    return lambda device, faults: onnxruntime_detector(device, faults, model)


@pytest.fixture
def faults() -> Iterator[FaultInjector]:
    """Commands; whatever still hangs is let go at the end."""
    injector = FaultInjector()
    yield injector
    injector.clear()


def picture(stream: str, number: int) -> Frame:
    """A small real image."""
    pixels = np.full((48, 64, 3), number % 256, np.uint8)
    return Frame.from_array(pixels, stream_id=stream, stamp_ns=number)


def run_frames(executor: InferenceExecutor, until: Callable[[], bool], start: int) -> int:
    """Submit to stream `a` at RATE until a condition holds; return the next number."""
    begin = time.monotonic()
    for number in itertools.count(start):
        if until():
            return number
        assert time.monotonic() - begin < PATIENCE, executor.snapshot()
        executor.submit(picture("a", number))
        time.sleep(1.0 / RATE)
    raise AssertionError


@pytest.mark.parametrize("fault", [Fault.RAISE, Fault.NAN, Fault.HANG])
def test_streams_move_within_a_frame_and_the_device_comes_back(
    make: Callable[[Device, FaultInjector], Detector],
    faults: FaultInjector,
    fault: Fault,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    recorder = Recorder()
    built: list[Device] = []

    def factory(device: Device, model: str) -> Detector:
        built.append(device)
        return make(device, faults)

    detectors = [make(GPU, faults), make(DLA0, FaultInjector())]
    # Its time moves only where the test says so: the watchdog finds nothing but the commanded
    # hang, and the device stays away until its back-off is over.
    clock = VirtualClock(1.0)
    options = SchedulerOptions(backoff=0.1)
    executor = InferenceExecutor(
        detectors, policy="static", options=options, factory=factory, clock=clock
    )
    with executor:
        config = StreamConfig(id="a", device="gpu")
        executor.add_stream(config, recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        number = run_frames(executor, lambda: len(recorder.results["a"]) >= 5, 0)
        assert {r.device for r in recorder.results["a"]} == {GPU}

        faults.inject(fault)
        number = run_frames(executor, lambda: faults.injected == 1, number)
        if fault is Fault.HANG:
            clock.advance_to(clock() + PAST_THE_WATCHDOG)
        assert wait_until(lambda: executor.snapshot().devices[GPU].errors == 1)
        assert executor.submit(picture("a", number)).accepted
        assert recorder.wait(lambda: recorder.numbers("a")[-1] == number)
        assert recorder.results["a"][-1].device == DLA0, "the first frame after the failure"
        number += 1
        failed = executor.snapshot()
        assert failed.state is ExecutorState.DEGRADED
        assert failed.devices[GPU].hangs == (fault is Fault.HANG)

        clock.advance_to(clock() + executor.options.backoff)
        number = run_frames(
            executor, lambda: executor.snapshot().devices[GPU].restarts == 1, number
        )
        number = run_frames(executor, lambda: recorder.results["a"][-1].device == GPU, number)
        assert built == [GPU]
        assert wait_until(lambda: idle(executor))
        if fault is Fault.HANG:
            # The hung call has a result after all; it must not come out.
            faults.clear()
            assert wait_until(lambda: executor.snapshot().devices[GPU].late_results == 1)
        snapshot = executor.snapshot()
    check_counters(snapshot)
    assert snapshot.state is ExecutorState.RUNNING
    stream = snapshot.streams["a"]
    assert stream.moves == 2
    assert stream.dropped[DropReason.FAILED] == 1
    assert [reason for _, reason in recorder.drops["a"]].count(DropReason.FAILED) == 1
    numbers = recorder.numbers("a")
    assert numbers == sorted(set(numbers)), "no result twice, none out of order"
    dropped = {n for n, _ in recorder.drops["a"]}
    assert not dropped & set(numbers)
    messages = [r.getMessage() for r in caplog.records]
    assert sum("stream a moves gpu -> dla0" in m for m in messages) == 1
    assert sum("gpu is out of service" in m for m in messages) == 1
    assert sum("gpu is back in service" in m for m in messages) == 1


def test_out_of_memory_shrinks_the_batch_first(faults: FaultInjector) -> None:
    recorder = Recorder()
    clock = VirtualClock(1.0)
    options = SchedulerOptions(batch_window=10.0, batch_recovery=0.5)
    detector = simulated(GPU, 0.001, faults=faults, max_batch=4)
    names = ["a", "b", "c", "d"]
    with InferenceExecutor([detector], options=options, clock=clock) as executor:
        for name in names:
            executor.add_stream(StreamConfig(id=name), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        faults.inject(Fault.OUT_OF_MEMORY, count=None)
        for name in names:
            executor.submit(frame(name))
        assert recorder.wait(lambda: len(recorder.results) == 4), "no frame is lost"
        snapshot = executor.snapshot()
        assert snapshot.devices[GPU].batch_limits == {"default": 1}
        assert snapshot.devices[GPU].out_of_memory == 2  # 4 -> 2 -> 1
        assert snapshot.devices[GPU].errors == 0
        assert snapshot.state is ExecutorState.RUNNING
        faults.clear()
        for turn, limit in enumerate((1, 2, 4), start=1):
            for name in names:
                executor.submit(frame(name, turn))
            assert recorder.wait(
                lambda turn=turn: all(recorder.numbers(n)[-1] == turn for n in names)  # type: ignore[misc]
            )
            assert executor.snapshot().devices[GPU].batch_limits == {"default": limit}
            clock.advance_to(clock() + 0.6)
        assert not recorder.drops


def test_out_of_memory_with_one_image_is_a_failure(faults: FaultInjector) -> None:
    class Full(FaultInjector):
        def take(self, batch: int = 1) -> Fault | None:
            if self._fault is not None:
                raise MemoryError
            return None

    full = Full()
    recorder = Recorder()
    with InferenceExecutor([simulated(GPU, faults=full)], options=FAST) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        full.inject(Fault.RAISE)
        executor.submit(frame("a"))
        assert recorder.wait(lambda: recorder.drops["a"] == [(0, DropReason.FAILED)])
        assert "MemoryError" in executor.snapshot().devices[GPU].last_error


def test_nothing_left_is_an_error_and_recovers(
    make: Callable[[Device, FaultInjector], Detector], faults: FaultInjector
) -> None:
    recorder = Recorder()
    executor = InferenceExecutor([make(GPU, faults)], options=FAST)
    with executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        faults.inject(Fault.RAISE, count=None)
        executor.submit(picture("a", 0))
        assert wait_until(lambda: executor.snapshot().state is ExecutorState.ERROR)
        assert executor.submit(picture("a", 1)) is SubmitOutcome.NO_DEVICE
        snapshot = executor.snapshot()
        assert snapshot.streams["a"].dropped[DropReason.NO_DEVICE] == 1
        assert not snapshot.streams["a"].served
        assert snapshot.devices[GPU].retry_in <= FAST.backoff_max
        # Every restart probes the detector: it keeps failing, and the back-off doubles.
        assert wait_until(lambda: executor.snapshot().devices[GPU].errors >= 4)
        assert executor.snapshot().devices[GPU].restarts == 0
        faults.clear()
        assert wait_until(lambda: executor.snapshot().state is ExecutorState.RUNNING)
        executor.submit(picture("a", 2))
        assert recorder.wait(lambda: recorder.numbers("a") == [2])
        check_counters(executor.snapshot())


def test_backoff_doubles_up_to_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    attempts: list[float] = []

    class Watching(FaultInjector):
        def take(self, batch: int = 1) -> Fault | None:
            attempts.append(time.monotonic())
            return super().take(batch)

    watching = Watching()
    options = SchedulerOptions(backoff=0.05, backoff_max=0.2)
    with InferenceExecutor([simulated(GPU, faults=watching)], options=options) as executor:
        executor.add_stream(StreamConfig(id="a"), lambda result: None)
        assert executor.wait_started(PATIENCE)
        watching.inject(Fault.RAISE, count=None)
        attempts.clear()
        executor.submit(frame("a"))
        assert wait_until(lambda: len(attempts) >= 6)
    backoffs = [0.05, 0.1, 0.2, 0.2, 0.2]
    for gap, backoff in zip(np.diff(attempts), backoffs, strict=False):
        assert gap >= backoff
    # How late a retry comes is up to the machine; what was decided is in the log.
    logged = [found for m in caplog.messages for found in re.findall(r"retry in (\S+) s", m)]
    assert sorted(map(float, logged))[:5] == backoffs
    assert set(logged) == {"0.05", "0.1", "0.2"}


def test_a_hang_without_a_factory_ends_when_the_call_returns(faults: FaultInjector) -> None:
    recorder = Recorder()
    clock = VirtualClock(1.0)
    with InferenceExecutor([simulated(GPU, faults=faults)], clock=clock) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        faults.inject(Fault.HANG)
        executor.submit(frame("a", 1))
        assert wait_until(lambda: faults.injected == 1)
        clock.advance_to(clock() + PAST_THE_WATCHDOG)
        assert wait_until(lambda: executor.snapshot().devices[GPU].status is DeviceStatus.LOST)
        assert recorder.wait(lambda: recorder.drops["a"] == [(1, DropReason.FAILED)])
        assert executor.submit(frame("a", 2)) is SubmitOutcome.NO_DEVICE
        faults.clear()  # the call returns
        assert wait_until(
            lambda: executor.snapshot().devices[GPU].status is DeviceStatus.IN_SERVICE
        )
        executor.submit(frame("a", 3))
        assert recorder.wait(lambda: recorder.numbers("a") == [3])
        snapshot = executor.snapshot()
        assert snapshot.devices[GPU].late_results == 1
        check_counters(snapshot)


#: A call whose detector answers when told to, in a process that is stopped meanwhile.
STOPPED = """
import sys
from support.executors import GPU, PATIENCE, Gate, Recorder, frame, simulated
from yolox_trt.executor import InferenceExecutor, SchedulerOptions, StreamConfig

gate, recorder = Gate(), Recorder()
options = SchedulerOptions(watchdog=2.0)
with InferenceExecutor([simulated(GPU, result=gate)], options=options) as executor:
    executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
    assert executor.wait_started(PATIENCE)
    executor.submit(frame("a"))
    print("under way", flush=True)
    sys.stdin.readline()
    gate.open()
    recorder.wait(lambda: bool(recorder.results or recorder.drops))
    print(executor.snapshot().devices[GPU].hangs, recorder.numbers("a"))
"""


def test_a_process_that_stood_still_takes_no_device_for_hung() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "under way\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(4.0)  # twice its watchdog
        process.send_signal(signal.SIGCONT)
        time.sleep(0.5)  # the supervisor looks twice meanwhile
        out, err = process.communicate("go on\n", timeout=PATIENCE)
    finally:
        process.kill()
    assert out == "0 [0]\n", err
    assert "the process stood still for" in err


UNCLOSED = """
import sys
from support.executors import PATIENCE, frame
from yolox_trt.core.device import Device
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.executor import InferenceExecutor, StreamConfig

def main():
    cpu = Device("cpu")
    size = (960, 960)  # its run lasts longer than Python takes to end
    options = DetectorOptions(model=sys.argv[1], device=cpu, threads=1, input_size=size)
    executor = InferenceExecutor([create_detector(options)])
    executor.add_stream(StreamConfig(id="a"), print)
    executor.start()
    assert executor.wait_started(PATIENCE)
    executor.submit(frame("a"))
    while not executor.snapshot().devices[cpu].load:
        pass
    return executor

executor = main()
if sys.argv[2] == "drops it":
    del executor
"""


@pytest.mark.parametrize("kept", ["keeps it", "drops it"])
def test_a_program_that_closes_nothing_ends_in_order(kept: str) -> None:
    """A thread in ONNX Runtime would make the process abort when Python has ended."""
    command = [sys.executable, "-c", UNCLOSED, str(default_model()), kept]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "StreamResult" in done.stdout


def test_hung_threads_are_not_piled_up(faults: FaultInjector) -> None:
    """A device that hangs at each restart is given up after a few threads, until one returns."""
    options = SchedulerOptions(watchdog=0.1, restart_watchdog=0.1, backoff=0.02, backoff_max=0.02)
    before = threading.enumerate()
    clock = VirtualClock(1.0)
    executor = InferenceExecutor(
        [simulated(GPU, faults=faults)],
        options=options,
        factory=lambda device, model: simulated(device, faults=faults),
        clock=clock,
    )
    with executor:
        executor.add_stream(StreamConfig(id="a"), lambda result: None)
        assert executor.wait_started(PATIENCE)
        faults.inject(Fault.HANG, count=None)
        executor.submit(frame("a"))
        for hangs in range(1, MAX_HUNG_THREADS + 1):
            assert wait_until(lambda n=hangs: faults.injected == n)
            clock.advance_to(clock() + PAST_THE_WATCHDOG)
            assert wait_until(lambda n=hangs: executor.snapshot().devices[GPU].hangs == n)
            clock.advance_to(clock() + 1.0)  # past the back-off
        assert executor.snapshot().devices[GPU].status is DeviceStatus.LOST
        # The hung ones and the supervisor; a planner may just be ending.
        assert wait_until(lambda: len(new_threads(before)) == MAX_HUNG_THREADS + 1)
        faults.clear()
        assert wait_until(
            lambda: executor.snapshot().devices[GPU].status is DeviceStatus.IN_SERVICE
        )
        assert wait_until(lambda: len(new_threads(before)) == 2)
    assert wait_until(lambda: not new_threads(before))


def test_stop_does_not_wait_for_a_hang(faults: FaultInjector) -> None:
    recorder = Recorder()
    executor = InferenceExecutor([simulated(GPU, faults=faults)], options=PATIENT)
    executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
    executor.start()
    assert executor.wait_started(PATIENCE)
    faults.inject(Fault.HANG)
    executor.submit(frame("a"))
    assert wait_until(lambda: executor.snapshot().streams["a"].waiting == 0)
    begin = time.monotonic()
    assert not executor.close(timeout=0.1)
    assert time.monotonic() - begin < 10.0  # the call hangs for an hour
    assert recorder.drops["a"] == [(0, DropReason.FAILED)]
    check_counters(executor.snapshot())


def test_a_restart_that_fails_is_tried_again(faults: FaultInjector) -> None:
    failures = iter([EngineError("no memory for the engine"), EngineError("again")])

    def factory(device: Device, model: str) -> Detector:
        error = next(failures, None)
        if error is not None:
            raise error
        return simulated(device)

    recorder = Recorder()
    options = SchedulerOptions(backoff=0.03, backoff_max=0.03)
    detectors = [simulated(GPU, faults=faults)]
    with InferenceExecutor(detectors, options=options, factory=factory) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result)
        assert executor.wait_started(PATIENCE)
        faults.inject(Fault.RAISE)
        executor.submit(frame("a"))
        assert wait_until(lambda: executor.snapshot().devices[GPU].restarts == 1)
        device = executor.snapshot().devices[GPU]
        assert (device.errors, device.last_error) == (3, "EngineError: again")
        executor.submit(frame("a", 1))
        assert recorder.wait(lambda: recorder.numbers("a") == [1])


def test_a_restart_leaves_nothing_for_a_later_collection(faults: FaultInjector) -> None:
    """What loading a model leaves behind in circles, weights among it, is collected with it."""
    left_behind: list[weakref.ref[type]] = []

    def factory(device: Device, model: str) -> Detector:
        circle = type("Circle", (), {})  # a class refers to itself
        left_behind.append(weakref.ref(circle))
        return simulated(device)

    gc.disable()
    try:
        executor = InferenceExecutor([simulated(GPU, faults=faults)], factory=factory)
        with executor:
            executor.add_stream(StreamConfig(id="a"), lambda result: None)
            assert executor.wait_started(PATIENCE)
            faults.inject(Fault.RAISE)
            executor.submit(frame("a"))
            assert wait_until(lambda: executor.snapshot().devices[GPU].restarts == 1)
            assert [each() for each in left_behind] == [None]
    finally:
        gc.enable()


def test_another_accuracy_only_if_the_camera_allows_it(faults: FaultInjector) -> None:
    recorder = Recorder()
    detectors = {
        (GPU, "s_plus_opt"): simulated(GPU, faults=faults),
        (CPU, "nano"): simulated(CPU, 0.005),
    }
    options = replace(PATIENT, backoff=60.0)  # it stays out of service while the test looks
    with InferenceExecutor(detectors, options=options) as executor:
        for name, allowed in (("strict", False), ("lenient", True)):
            executor.add_stream(
                StreamConfig(id=name, model="s_plus_opt", allow_model_change=allowed),
                recorder.on_result,
                recorder.on_drop,
            )
        assert executor.wait_started(PATIENCE)
        executor.submit(frame("lenient", 0))
        assert recorder.wait(lambda: recorder.numbers("lenient") == [0])
        assert recorder.results["lenient"][0].model == "s_plus_opt"
        faults.inject(Fault.RAISE)
        executor.submit(frame("strict", 0))
        assert wait_until(lambda: executor.snapshot().devices[GPU].errors == 1)
        assert executor.submit(frame("strict", 1)) is SubmitOutcome.NO_DEVICE
        assert executor.submit(frame("lenient", 1)).accepted
        assert recorder.wait(lambda: recorder.numbers("lenient") == [0, 1])
        assert recorder.results["lenient"][1].model == "nano"
        assert executor.snapshot().state is ExecutorState.ERROR
        executor.update_stream("strict", allow_model_change=True)
        assert executor.submit(frame("strict", 2)).accepted
        assert executor.snapshot().state is ExecutorState.DEGRADED


def calls_at_once(device: Device, faults: FaultInjector) -> Detector:
    """A detector whose calls run in threads of their own."""
    spec, latency = simulated_spec(64, 96, 3), ConstantLatency(0.002)
    return CpuDetector(*(SimulatedEngine(device, spec, latency, faults=faults) for _ in range(3)))


@pytest.mark.parametrize(
    "make",
    [lambda device, faults: simulated(device, 0.002, faults=faults), calls_at_once],
    ids=["one call", "calls at once"],
)
def test_many_faults_lose_no_count(
    faults: FaultInjector, make: Callable[[Device, FaultInjector], Detector]
) -> None:
    """Random faults on two of three devices under load: the counters always add up."""
    before = threading.enumerate()
    rng = np.random.default_rng(7)
    recorder = Recorder()
    injectors = {GPU: faults, DLA0: FaultInjector(), CPU: FaultInjector()}
    options = SchedulerOptions(watchdog=0.05, watchdog_factor=5.0, backoff=0.02, backoff_max=0.1)
    executor = InferenceExecutor(
        [make(d, f) for d, f in injectors.items()],
        policy="dynamic",
        options=options,
        factory=lambda device, model: make(device, injectors[device]),
    )
    names = [f"camera{i}" for i in range(4)]
    with executor:
        for name in names:
            executor.add_stream(StreamConfig(id=name), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        number = 0
        for turn in itertools.count():
            errors = sum(d.errors for d in executor.snapshot().devices.values())
            if turn >= 15 and errors >= 10:
                break
            assert turn < 100, executor.snapshot()
            kind = [Fault.RAISE, Fault.NAN, Fault.HANG][rng.integers(3)]
            injectors[(GPU, DLA0)[rng.integers(2)]].inject(kind, seconds=0.2)
            number = feed(executor, names, 100.0, 0.2, number)
            check_counters(executor.snapshot())
        assert wait_until(lambda: idle(executor))
        snapshot = executor.snapshot()
    check_counters(snapshot)
    for name in names:
        numbers = recorder.numbers(name)
        assert numbers == sorted(set(numbers))
        stream = snapshot.streams[name]
        assert stream.received == number
        refused = stream.dropped_total - len(recorder.drops[name])
        assert len(numbers) == stream.processed
        assert len(numbers) + len(recorder.drops[name]) + refused == number
    assert wait_until(lambda: not new_threads(before))


@pytest.mark.parametrize("returns", ["before the start", "after the start"])
def test_a_hang_across_stop_and_start(faults: FaultInjector, returns: str) -> None:
    """Deactivate and activate while a call hangs: the device serves again once it returns."""
    before = threading.enumerate()
    recorder = Recorder()
    executor = InferenceExecutor([simulated(GPU, faults=faults)], options=FAST)
    executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
    executor.start()
    assert executor.wait_started(PATIENCE)
    faults.inject(Fault.HANG)
    executor.submit(frame("a", 1))
    assert wait_until(lambda: executor.snapshot().streams["a"].waiting == 0)
    assert not executor.stop(timeout=0.05)
    if returns == "before the start":
        faults.clear()
        assert wait_until(lambda: not new_threads(before))
    executor.start()
    if returns == "after the start":
        assert executor.submit(frame("a", 2)) is SubmitOutcome.NO_DEVICE
        assert executor.snapshot().state is ExecutorState.ERROR
        faults.clear()
    assert wait_until(lambda: executor.snapshot().devices[GPU].status is DeviceStatus.IN_SERVICE)
    executor.submit(frame("a", 3))
    assert recorder.wait(lambda: recorder.numbers("a") == [3])
    assert executor.close(timeout=PATIENCE)
    check_counters(executor.snapshot())


class WatchedClock(VirtualClock):
    """Notes the times that the supervisor has read: one for each look at the devices."""

    def __init__(self, start: float) -> None:
        super().__init__(start)
        self.looks: list[float] = []

    def __call__(self) -> float:
        now = super().__call__()
        if threading.current_thread().name == "executor-supervisor":
            self.looks.append(now)
        return now


@pytest.mark.parametrize("overlap", [False, True], ids=["one call", "two calls"])
def test_a_callback_that_does_not_return_keeps_its_stream_alone(
    overlap: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The device goes on for the other streams on another thread, and nothing is rebuilt."""
    recorder = Recorder()
    returns, entered = threading.Event(), threading.Event()

    def blocking(result: StreamResult) -> None:
        recorder.on_result(result)
        if not entered.is_set():
            entered.set()
            returns.wait(2.0 * PATIENCE)

    gate = Gate()

    def result(found_in: Frame) -> Detections:
        return Detections.empty() if found_in.stream_id == "a" else gate(found_in)

    detector = (
        SimulatedDetector(GPU, ConstantLatency(0.003), copy=0.001, max_calls=2, result=result)
        if overlap
        else simulated(GPU, 0.003, result=result)
    )
    options = SchedulerOptions(watchdog=0.15, callback_limit=0.2)
    clock = WatchedClock(1.0)
    before = threading.enumerate()
    times = {(GPU, "default"): 0.003}
    with InferenceExecutor([detector], options=options, times=times, clock=clock) as executor:
        executor.add_stream(StreamConfig(id="a"), blocking, recorder.on_drop)
        for name in ("b", "c"):
            executor.add_stream(StreamConfig(id=name), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        number = feed_until(executor, ["a", "b", "c"], 100.0, entered.is_set, 1)
        # Past the limit of the callback, and past the watchdog of the call that lies behind it.
        clock.advance_to(1.25)
        # The first look finds the callback; the next one must not find that call hanging.
        assert wait_until(lambda: clock.looks.count(1.25) >= 3)
        gate.open()
        number = feed_until(
            executor,
            ["a", "b", "c"],
            100.0,
            lambda: executor.snapshot().streams["b"].processed >= 20,
            number,
        )
        snapshot = executor.snapshot()
        check_counters(snapshot)
        stream = snapshot.streams["a"]
        assert (stream.callback_hangs, stream.processed) == (1, 1)
        assert stream.callback_blocked == pytest.approx(0.25)
        assert stream.dropped[DropReason.OVERFLOW] >= 10
        assert (snapshot.devices[GPU].errors, snapshot.devices[GPU].hangs) == (0, 0)
        assert snapshot.devices[GPU].status is DeviceStatus.IN_SERVICE
        returns.set()
        assert wait_until(lambda: len(recorder.results["a"]) >= 2), "it goes on"
        feed(executor, ["a", "b", "c"], 100.0, 0.2, number)
        assert wait_until(lambda: idle(executor))
        snapshot = executor.snapshot()
        check_counters(snapshot)
        assert snapshot.streams["a"].callback_blocked == 0.0
        assert recorder.numbers("a") == sorted(set(recorder.numbers("a")))
    assert wait_until(lambda: not new_threads(before))
    assert sum("on_result of stream a has not returned" in m for m in caplog.messages) == 1


def test_a_blocked_on_drop_does_not_keep_a_failed_device_out(faults: FaultInjector) -> None:
    recorder = Recorder()
    returns = threading.Event()

    def blocking(dropped: Frame, reason: DropReason) -> None:
        recorder.on_drop(dropped, reason)
        returns.wait(2.0 * PATIENCE)

    options = replace(PATIENT, backoff=0.05, callback_limit=0.1)
    with InferenceExecutor([simulated(GPU, faults=faults)], options=options) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, blocking)
        executor.add_stream(StreamConfig(id="b"), recorder.on_result)
        assert executor.wait_started(PATIENCE)
        faults.inject(Fault.RAISE)
        executor.submit(frame("a", 1))
        assert recorder.wait(lambda: recorder.drops["a"] == [(1, DropReason.FAILED)])
        assert wait_until(lambda: executor.snapshot().devices[GPU].restarts == 1)
        executor.submit(frame("b", 1))
        assert recorder.wait(lambda: recorder.numbers("b") == [1])
        assert executor.snapshot().streams["a"].callback_hangs == 1
        returns.set()
        executor.submit(frame("a", 2))
        assert recorder.wait(lambda: recorder.numbers("a") == [2])
        check_counters(executor.snapshot())


def test_stop_does_not_wait_for_a_callback() -> None:
    recorder = Recorder()
    returns, entered = threading.Event(), threading.Event()

    def blocking(result: StreamResult) -> None:
        recorder.on_result(result)
        entered.set()
        returns.wait(2.0 * PATIENCE)

    executor = InferenceExecutor([simulated(GPU)], options=PATIENT)
    executor.add_stream(StreamConfig(id="a"), blocking, recorder.on_drop)
    executor.add_stream(StreamConfig(id="b"), recorder.on_result, recorder.on_drop)
    executor.start()
    assert executor.wait_started(PATIENCE)
    executor.submit(frame("a", 1))
    assert entered.wait(PATIENCE)
    begin = time.monotonic()
    assert not executor.stop(timeout=0.1)
    assert time.monotonic() - begin < 10.0  # the callback takes a minute
    executor.start()  # the device is none the worse for it
    assert executor.wait_started(PATIENCE)
    executor.submit(frame("b", 1))
    assert recorder.wait(lambda: recorder.numbers("b") == [1])
    executor.submit(frame("a", 2))
    assert executor.snapshot().streams["a"].waiting == 1
    returns.set()
    assert recorder.wait(lambda: recorder.numbers("a") == [1, 2])
    assert executor.close(timeout=PATIENCE)
    check_counters(executor.snapshot())


def test_a_broken_cuda_context_is_not_retried_in_vain(caplog: pytest.LogCaptureFixture) -> None:
    """CUDA gives a sticky error to every further call of the process."""
    built: list[Device] = []
    breaks = threading.Event()

    class Sticky(FaultInjector):
        def take(self, batch: int = 1) -> Fault | None:
            if breaks.is_set():
                raise DeviceBrokenError("running on gpu failed")
            return None

    def factory(device: Device, model: str) -> Detector:
        built.append(device)
        return simulated(device, faults=Sticky())

    recorder = Recorder()
    options = SchedulerOptions(backoff=0.03, backoff_max=0.03)
    detectors = [simulated(GPU, faults=Sticky()), simulated(CPU, 0.002)]
    with InferenceExecutor(
        detectors, policy="static", options=options, factory=factory
    ) as executor:
        executor.add_stream(
            StreamConfig(id="a", device="gpu"), recorder.on_result, recorder.on_drop
        )
        assert executor.wait_started(PATIENCE)
        breaks.set()
        executor.submit(frame("a", 1))
        assert wait_until(lambda: executor.snapshot().devices[GPU].status is DeviceStatus.BROKEN)
        time.sleep(0.2)
        snapshot = executor.snapshot()
        # One rebuild, to be sure.
        assert (built, snapshot.devices[GPU].errors) == ([GPU], 2)
        assert "restart the process" in snapshot.devices[GPU].last_error
        assert np.isnan(snapshot.devices[GPU].retry_in)
        assert snapshot.state is ExecutorState.DEGRADED
        executor.submit(frame("a", 2))
        assert recorder.wait(lambda: recorder.numbers("a") == [2])
        assert recorder.results["a"][0].device == CPU
        executor.stop()
        executor.start()
        assert executor.wait_started(PATIENCE)
        assert executor.snapshot().devices[GPU].status is DeviceStatus.BROKEN
    assert sum("not retried any more" in m for m in caplog.messages) == 1


@pytest.fixture(scope="module")
def short_of_memory() -> tuple[OnnxRuntimeEngine, Any]:
    """An engine of batches up to 8, and a session of the same model with an arena of 24 MiB."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = build_yolox(style="opset13", batch=None, height=320, width_px=320)
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo(
            "Cpu",
            onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
            0,
            onnxruntime.OrtMemType.DEFAULT,
        ),
        onnxruntime.OrtArenaCfg({"max_mem": 24 << 20, "arena_extend_strategy": 1}),
    )
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return OnnxRuntimeEngine(model, max_batch=8), session


def test_out_of_memory_of_onnxruntime_shrinks_the_batch_first(
    short_of_memory: tuple[OnnxRuntimeEngine, Any],
) -> None:
    """ONNX Runtime itself runs out of memory: its arena is too small for eight images."""
    engine, limited = short_of_memory
    roomy = engine._session
    recorder = Recorder()
    names = [f"c{i}" for i in range(8)]
    clock = VirtualClock(1.0)
    options = SchedulerOptions(batch_window=10.0, batch_recovery=0.3)
    with InferenceExecutor([CpuDetector(engine)], options=options, clock=clock) as executor:
        for name in names:
            executor.add_stream(StreamConfig(id=name), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)

        def use(session: Any) -> None:
            engine._bindings.clear()  # a binding belongs to its session
            engine._session = session

        use(limited)
        for name in names:
            executor.submit(picture(name, 1))
        assert recorder.wait(lambda: len(recorder.results) == 8), "no frame is lost"
        snapshot = executor.snapshot().devices[CPU]
        assert snapshot.batch_limits["default"] < 8
        assert snapshot.out_of_memory >= 1
        assert snapshot.errors == 0
        use(roomy)
        for number in range(2, 5):  # from one image to eight
            clock.advance_to(clock() + 0.31)
            for name in names:
                executor.submit(picture(name, number))
            assert recorder.wait(
                lambda n=number: all(recorder.numbers(name)[-1:] == [n] for name in names)  # type: ignore[misc]
            )
        assert executor.snapshot().devices[CPU].batch_limits == {"default": 8}
        assert not recorder.drops
        check_counters(executor.snapshot())


class _TooFew(SimulatedDetector):
    """Gives no result for the last frame of its first call."""

    def __init__(self) -> None:
        super().__init__(GPU, ConstantLatency(0.001))
        self.first = True

    def warmup(self) -> None:
        pass

    def detect(
        self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]
    ) -> list[Detections]:
        results = super().detect(frames, options)
        missing, self.first = self.first, False
        return results[:-1] if missing else results


def test_a_detector_that_gives_too_few_results() -> None:
    recorder = Recorder()
    options = SchedulerOptions(backoff=0.02, backoff_max=0.02)
    with InferenceExecutor(
        [_TooFew()], times={(GPU, "default"): 0.001}, options=options
    ) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        executor.submit(frame("a"))
        assert recorder.wait(lambda: bool(recorder.drops["a"]), PATIENCE)
        assert "results of 0 frames" in executor.snapshot().devices[GPU].last_error
        assert wait_until(
            lambda: executor.snapshot().devices[GPU].status is DeviceStatus.IN_SERVICE
        )
        executor.submit(frame("a"))
        assert recorder.wait(lambda: bool(recorder.results["a"]), PATIENCE)


def with_classes(count: int) -> Detector:
    """The real preprocessing and decoding, two calls at once."""
    spec = simulated_spec(64, 96, count)
    return CpuDetector(*(SimulatedEngine(CPU, spec, ConstantLatency(0.001)) for _ in range(2)))


@pytest.mark.parametrize("why", ["substitute", "frame's model"])
def test_thresholds_that_do_not_fit_the_model_that_runs_cost_their_frames_alone(
    faults: FaultInjector, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream of a model with eighty classes has a frame served by one with four."""
    recorder = Recorder()
    detectors = {(GPU, "eighty"): simulated(GPU, faults=faults), (CPU, "four"): with_classes(4)}
    options = replace(PATIENT, backoff=2.0 * PATIENCE)  # the substitute has to serve
    thresholds = PostprocessOptions(class_thresholds={7: 0.5})
    with InferenceExecutor(detectors, options=options) as executor:
        executor.add_stream(
            StreamConfig(id="a", model="eighty", allow_model_change=True, options=thresholds),
            recorder.on_result,
            recorder.on_drop,
        )
        executor.add_stream(
            StreamConfig(id="b", model="four"), recorder.on_result, recorder.on_drop
        )
        assert executor.wait_started(PATIENCE)
        if why == "substitute":
            faults.inject(Fault.RAISE)
            executor.submit(picture("a", 1))
            assert recorder.wait(lambda: recorder.drops["a"] == [(1, DropReason.FAILED)])
        else:
            executor.update_stream("a", model="four", options=PostprocessOptions())
            executor.add_model("two", {CPU: with_classes(2)})
            executor.update_stream("a", options=PostprocessOptions(class_thresholds={3: 0.5}))
        expected = recorder.drops["a"].copy()
        for number in range(2, 6):
            model = "" if why == "substitute" else "two"
            executor.submit(picture("a", number), model=model)
            executor.submit(picture("b", number))
            expected.append((number, DropReason.MALFORMED))
            assert recorder.wait(lambda: recorder.drops["a"] == expected)
            assert recorder.wait(lambda n=number: recorder.numbers("b")[-1:] == [n])  # type: ignore[misc]
        snapshot = executor.snapshot()
        assert snapshot.devices[CPU].status is DeviceStatus.IN_SERVICE
        assert (snapshot.devices[CPU].errors, snapshot.streams["b"].dropped_total) == (0, 0)
        check_counters(snapshot)
    assert sum("stream a: class_thresholds for class" in m for m in caplog.messages) == 3


class _FoundOutLate(SimulatedDetector):
    """Finds out at the end of a call that a frame with an odd stamp cannot be read."""

    def __init__(self) -> None:
        super().__init__(GPU, ConstantLatency(0.001), max_batch=2, max_calls=2)

    def _finish(self, ticket: Any) -> list[Detections]:
        if any(each.stamp_ns % 2 for each in ticket.frames):
            raise FrameError("an odd frame")
        return super()._finish(ticket)


def test_a_frame_that_is_refused_at_the_end_of_its_call_costs_only_itself() -> None:
    recorder = Recorder()
    options = replace(PATIENT, batch_window=2.0 * PATIENCE)  # a full batch does not wait for it
    with InferenceExecutor([_FoundOutLate()], options=options) as executor:
        for name in ("a", "b"):
            executor.add_stream(StreamConfig(id=name), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        for number, name in enumerate(("a", "b")):
            executor.submit(frame(name, number))
        assert recorder.wait(lambda: recorder.drops["b"] == [(1, DropReason.MALFORMED)])
        assert recorder.wait(lambda: recorder.numbers("a") == [0])
        assert wait_until(lambda: idle(executor))
        for name in ("a", "b"):
            executor.submit(frame(name, 2))
        assert recorder.wait(lambda: recorder.numbers("b") == [2])
        assert executor.snapshot().devices[GPU].errors == 0
        check_counters(executor.snapshot())
