# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Frames that wait: which devices are woken for them, for how long, and who keeps them alive."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support.executors import DLA0, GPU, Recorder, frame, new_threads, simulated, wait_until

from yolox_trt.core import Detections, Frame, PostprocessOptions
from yolox_trt.detectors.simulated import SimulatedDetector
from yolox_trt.engines.simulated import ConstantLatency
from yolox_trt.executor import DropReason, InferenceExecutor, SchedulerOptions, StreamConfig
from yolox_trt.executor.clock import VirtualClock
from yolox_trt.executor.device_state import Batch, ModelServer
from yolox_trt.executor.placement import create_policy
from yolox_trt.executor.scheduler import Scheduler

FRAME = Frame.view(bytes(3), height=1, width=1, encoding="bgr8")


def test_a_frame_that_takes_anothers_place_wakes_a_device_for_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`a` comes while all is idle: the GPU alone is woken. `b`, which only the GPU may serve, comes
    before the GPU has asked, and goes first: `a` is for the DLA, which must not sleep on.
    """
    recorder = Recorder()
    times = {(GPU, "default"): 0.3, (DLA0, "default"): 0.4}
    detectors = [simulated(GPU, 0.3), simulated(DLA0, 0.4)]
    with InferenceExecutor(detectors, policy="dynamic", times=times) as executor:
        executor.add_stream(StreamConfig(id="a", expected_rate=0.1), recorder.on_result)
        executor.add_stream(
            StreamConfig(id="b", device="gpu", priority=1, expected_rate=0.1), recorder.on_result
        )
        assert executor.wait_started(30.0)
        scheduler = executor._scheduler
        monkeypatch.setattr(scheduler, "drifted", lambda now: False)
        assert wait_until(  # a placement wakes all
            lambda: (
                not (executor._planning or scheduler.replan_needed)
                and all(worker.waiting for worker in executor._workers.values())
            )
        )
        with executor._lock:  # as two calls of submit() that nobody comes between
            now = executor.clock.now()
            for name in ("a", "b"):
                assert scheduler.submit(name, frame(name), now, now).accepted
                executor._wake_idle(scheduler.streams[name], now)
        assert recorder.wait(lambda: bool(recorder.results["a"] and recorder.results["b"]), 30.0)
    assert recorder.results["a"][0].device == DLA0


def make_scheduler(options: SchedulerOptions, max_batch: int = 1) -> Scheduler:
    servers = {GPU: {"default": ModelServer("default", max_batch, 0.01, True, 1)}}
    scheduler = Scheduler(servers, create_policy("static"), options)
    scheduler.accepting = True
    return scheduler


def test_newer_frames_do_not_begin_the_batch_window_anew() -> None:
    """A camera of 30 Hz whose companion is silent: its frames wait 50 ms, not for ever."""
    scheduler = make_scheduler(SchedulerOptions(batch_window=0.05), max_batch=2)
    for name in ("a", "silent"):
        scheduler.add_stream(StreamConfig(id=name), lambda _: None, None, 0.0)
    scheduler.device_started(GPU, 0.0)
    began = []
    for number in range(30):
        now = number / 30.0
        scheduler.submit("a", FRAME, now, now)
        choice = scheduler.next_batch(GPU, now)
        if isinstance(choice, float) and choice < (number + 1) / 30.0:
            now = choice  # the worker sleeps until then
            choice = scheduler.next_batch(GPU, now)
        if isinstance(choice, Batch):
            began.append(now)
            scheduler.finish(choice, now)
            scheduler.release(choice)
    assert began[0] == pytest.approx(0.05)
    assert len(began) == 15  # every second frame


def test_a_frame_that_goes_stale_does_not_use_up_the_batch_window_of_the_next() -> None:
    scheduler = make_scheduler(SchedulerOptions(batch_window=0.05), max_batch=2)
    for name in ("a", "silent"):
        scheduler.add_stream(StreamConfig(id=name, stale_after=0.03), lambda _: None, None, 0.0)
    scheduler.device_started(GPU, 0.0)
    scheduler.submit("a", FRAME, 0.0, 0.0)
    assert scheduler.next_batch(GPU, 0.04) is None  # stale
    scheduler.submit("a", FRAME, 1.0, 1.0)
    assert scheduler.next_batch(GPU, 1.0) == pytest.approx(1.05)
    # It waits for service since the first one, which starvation goes by.
    assert scheduler.streams["a"].waiting_since == 0.0


def test_frames_that_waited_for_a_device_which_does_not_start_are_dropped() -> None:
    scheduler = make_scheduler(SchedulerOptions())
    scheduler.add_stream(StreamConfig(id="a"), lambda _: None, None, 0.0)
    assert scheduler.submit("a", FRAME, 0.0, 0.0).accepted
    scheduler.device_failed(GPU, 1.0, "no memory")
    assert [reason for _, _, reason in scheduler.drops] == [DropReason.NO_DEVICE]
    assert scheduler.streams["a"].in_flight == 0


def test_an_idle_worker_keeps_no_frame_that_it_dropped() -> None:
    """Its pixels may lie in a ring of few slots."""
    recorder = Recorder()
    gate = threading.Event()
    clock = VirtualClock(1.0)

    def result(_: Frame) -> Detections:
        gate.wait(60)
        return Detections.empty()

    detector = SimulatedDetector(GPU, ConstantLatency(0.001), result=result)
    options = SchedulerOptions(watchdog=60.0, callback_limit=60.0)
    with InferenceExecutor(
        [detector], times={(GPU, "default"): 0.001}, options=options, clock=clock
    ) as executor:
        gate.set()
        executor.add_stream(StreamConfig(id="first"), recorder.on_result)
        executor.add_stream(
            StreamConfig(id="stale", stale_after=0.1), recorder.on_result, recorder.on_drop
        )
        assert executor.wait_started(30.0)
        gate.clear()
        executor.submit(Frame.from_array(np.zeros((1, 1, 3), np.uint8), stream_id="first"))
        assert wait_until(lambda: executor.snapshot().streams["first"].waiting == 0)
        pixels = np.zeros((1, 1, 3), np.uint8)
        late = Frame.from_array(pixels, stream_id="stale")
        alive = weakref.ref(late.data)
        executor.submit(late)
        del late, pixels
        clock.advance_to(1.2)
        gate.set()
        assert recorder.wait(lambda: bool(recorder.drops["stale"]), 30.0)
        assert recorder.drops["stale"][0][1] is DropReason.STALE
        assert wait_until(lambda: gc.collect() >= 0 and alive() is None)


class GatedDetector(SimulatedDetector):
    """Its enqueue() of a stream's frames returns when it may."""

    def __init__(self) -> None:
        super().__init__(GPU, ConstantLatency(0.001), max_calls=2)
        self.entered, self.gate = threading.Event(), threading.Event()

    def enqueue(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> Any:
        ticket = super().enqueue(frames, options)
        if frames[0].stream_id:
            self.entered.set()
            assert self.gate.wait(60)
        return ticket


def test_a_worker_that_a_drops_callback_kept_leaves_the_calls_to_its_successor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failures.append(str(args.exc_value)))
    before = set(threading.enumerate())
    recorder = Recorder()
    returns = threading.Event()
    clock = VirtualClock(1.0)
    detector = GatedDetector()

    def on_drop(dropped: Frame, reason: DropReason) -> None:
        recorder.on_drop(dropped, reason)
        assert returns.wait(60)

    options = SchedulerOptions(watchdog=60.0, callback_limit=0.2)
    with InferenceExecutor(
        [detector], times={(GPU, "default"): 0.001}, options=options, clock=clock
    ) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result)
        executor.add_stream(StreamConfig(id="b", stale_after=0.1), recorder.on_result, on_drop)
        assert executor.wait_started(30.0)
        executor.submit(Frame.from_array(np.zeros((1, 1, 3), np.uint8), stream_id="a"))
        assert detector.entered.wait(30)
        # `b` comes while the worker is inside enqueue(), and is stale when it looks again.
        executor.submit(Frame.from_array(np.zeros((1, 1, 3), np.uint8), stream_id="b"))
        clock.advance_to(1.2)
        detector.gate.set()
        assert recorder.wait(lambda: bool(recorder.drops["b"]), 30.0)
        clock.advance_to(2.0)
        assert wait_until(lambda: executor.snapshot().streams["b"].callback_hangs == 1, 30.0)
        assert recorder.wait(lambda: len(recorder.results["a"]) == 1, 30.0)
        assert executor.snapshot().streams["b"].callback_blocked > 0.0
        returns.set()
        assert wait_until(lambda: executor.snapshot().streams["b"].callback_blocked == 0.0, 30.0)
        executor.submit(Frame.from_array(np.zeros((1, 1, 3), np.uint8), stream_id="b"))
        assert recorder.wait(lambda: len(recorder.results["b"]) == 1, 30.0)
    assert wait_until(lambda: not new_threads(before))
    assert not failures
