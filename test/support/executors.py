# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Helpers for tests of the executor: tiny frames, recorded results, waiting for a condition.

No test waits for a fixed time in which another thread should have done something: a busy machine
may stop any thread for a second. They wait for what that thread does, and PATIENCE only bounds how
long a test takes that fails. Where time itself matters, the executor gets a VirtualClock.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection

from support.simulated_detector import SimulatedDetector

from yolox_trt.core import Detections, Device, Frame
from yolox_trt.engines.simulated import ConstantLatency, FaultInjector
from yolox_trt.executor import DropReason, InferenceExecutor, SchedulerOptions, StreamResult
from yolox_trt.executor.snapshot import ExecutorSnapshot, StreamSnapshot

GPU, DLA0, DLA1, CPU = (Device.parse(name) for name in ("gpu", "dla0", "dla1", "cpu"))
#: Seconds that a test waits for what must happen before it fails.
PATIENCE = 30.0
#: For tests of no watchdog: a machine that stands still for a while is no hanging device.
PATIENT = SchedulerOptions(watchdog=2.0 * PATIENCE, callback_limit=2.0 * PATIENCE)
_PIXEL = bytes(3)


def frame(stream: str, number: int = 0) -> Frame:
    """Return a one-pixel frame that arrives when it is submitted and whose stamp is its number."""
    return Frame.view(_PIXEL, height=1, width=1, encoding="bgr8", stream_id=stream, stamp_ns=number)


class Gate:
    """A detector's `result`: its calls do not return before the gate is opened.

    Frames without a stream pass: those by which an executor warms up and times a detector.
    """

    def __init__(self) -> None:
        self._opened = threading.Event()

    def open(self) -> None:
        """Let the calls return, now and from now on."""
        self._opened.set()

    def __call__(self, frame: Frame) -> Detections:
        """Return no detection, once the gate is open."""
        if frame.stream_id:
            self._opened.wait(PATIENCE)
        return Detections.empty()


class Recorder:
    """Keeps what the callbacks of an executor got."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.results: dict[str, list[StreamResult]] = defaultdict(list)
        self.drops: dict[str, list[tuple[int, DropReason]]] = defaultdict(list)

    def on_result(self, result: StreamResult) -> None:
        with self._changed:
            self.results[result.frame.stream_id].append(result)
            self._changed.notify_all()

    def on_drop(self, dropped: Frame, reason: DropReason) -> None:
        with self._changed:
            self.drops[dropped.stream_id].append((dropped.stamp_ns, reason))
            self._changed.notify_all()

    def numbers(self, stream: str) -> list[int]:
        """Stamps of a stream's results, in the order of the calls."""
        return [result.frame.stamp_ns for result in self.results[stream]]

    def wait(self, condition: Callable[[], bool], timeout: float = PATIENCE) -> bool:
        """Wait until a condition on the recorded calls holds."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)


def wait_until(condition: Callable[[], bool], timeout: float = PATIENCE) -> bool:
    """Poll a condition; True as soon as it holds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.003)
    return condition()


class VirtualClock:
    """An executor's `clock` that stands still until a test moves it, in seconds."""

    def __init__(self, start: float) -> None:
        self._now = start

    def __call__(self) -> float:
        return self._now

    def advance_to(self, time_s: float) -> None:
        assert time_s >= self._now
        self._now = time_s


def simulated(
    device: Device,
    seconds: float = 0.001,
    *,
    faults: FaultInjector | None = None,
    max_batch: int = 1,
    result: Callable[[Frame], Detections] | None = None,
) -> SimulatedDetector:
    """Return a SimulatedDetector with a constant latency."""
    return SimulatedDetector(
        device, ConstantLatency(seconds), faults=faults, max_batch=max_batch, result=result
    )


def idle(executor: InferenceExecutor) -> bool:
    """Whether no frame waits or is worked on."""
    return all(stream.in_flight == 0 for stream in executor.snapshot().streams.values())


def new_threads(before: Collection[threading.Thread]) -> set[threading.Thread]:
    """Return the threads that were not there before.

    Their number alone would tell too little: a thread of another test may just be ending.
    """
    return set(threading.enumerate()).difference(before)


def adds_up(stream: StreamSnapshot) -> bool:
    """Whether received = processed + dropped + in flight."""
    return stream.received == stream.processed + stream.dropped_total + stream.in_flight


def check_counters(snapshot: ExecutorSnapshot) -> None:
    """Assert that every stream's counters add up."""
    for stream in snapshot.streams.values():
        assert adds_up(stream), stream


def feed(
    executor: InferenceExecutor, streams: list[str], rate: float, seconds: float, start: int = 0
) -> int:
    """Submit a frame for each stream `rate` times a second; return the next number."""
    begin = time.monotonic()
    number = start
    while (number - start) / rate < seconds:
        for stream in streams:
            executor.submit(frame(stream, number))
        number += 1
        time.sleep(max(0.0, begin + (number - start) / rate - time.monotonic()))
    return number


def feed_until(
    executor: InferenceExecutor,
    streams: list[str],
    rate: float,
    condition: Callable[[], bool],
    start: int = 0,
) -> int:
    """Feed in rounds of 0.2 s until a condition holds; return the next number."""
    end = time.monotonic() + PATIENCE
    number = start
    while not condition():
        assert time.monotonic() < end, executor.snapshot()
        number = feed(executor, streams, rate, 0.2, number)
    return number
