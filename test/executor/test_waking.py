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
from support.executors import (
    DLA0,
    DLA1,
    GPU,
    Recorder,
    VirtualClock,
    frame,
    new_threads,
    wait_until,
)
from support.simulated_detector import SimulatedDetector

from yolox_trt.core import Detections, Device, EngineError, Frame, PostprocessOptions
from yolox_trt.engines.simulated import ConstantLatency
from yolox_trt.executor import DropReason, InferenceExecutor, SchedulerOptions, StreamConfig
from yolox_trt.executor.device_state import Batch, LoadedModel
from yolox_trt.executor.placement import create_policy
from yolox_trt.executor.scheduler import Scheduler


def dynamic_scheduler(times: dict[Device, float]) -> Scheduler:
    """Return a scheduler with the dynamic policy whose devices are in service and wait for work."""
    models = {device: {"default": LoadedModel("default", time)} for device, time in times.items()}
    scheduler = Scheduler(models, create_policy("dynamic"))
    for device in models:
        scheduler.device_started(device, 0.0)
    scheduler.accepting = True
    return scheduler


def asked(scheduler: Scheduler, name: str, now: float) -> set[Device]:
    """Submit a frame, and return the devices that must ask for work."""
    outcome, states, _ = scheduler.submit(frame(name), now, now)
    assert outcome.accepted
    return {state.device for state in states}


def test_one_device_is_woken_for_one_frame() -> None:
    """With the dynamic policy every idle device could take it; only the fastest is asked."""
    scheduler = dynamic_scheduler({GPU: 0.002, DLA0: 0.01, DLA1: 0.01})
    scheduler.add_stream(StreamConfig(id="a", expected_rate=10.0), lambda _: None, None, 0.0)
    for number in range(3):
        now = 0.1 * number
        assert asked(scheduler, "a", now) == {GPU}
        batch, _ = scheduler.next_batch(GPU, now)
        assert isinstance(batch, Batch)
        assert scheduler.finish(batch, now + 0.002) is not None
        assert not scheduler.release(batch.streams, now + 0.002), "no frame waits"


def test_all_idle_devices_are_woken_where_a_callback_may_keep_the_fastest() -> None:
    scheduler = dynamic_scheduler({GPU: 0.002, DLA0: 0.01, DLA1: 0.01})
    scheduler.add_stream(StreamConfig(id="a", expected_rate=10.0), lambda _: None, None, 0.0)
    scheduler.devices[GPU].waiting = False
    assert asked(scheduler, "a", 0.0) == {GPU, DLA0, DLA1}


def test_a_frame_that_takes_anothers_place_wakes_a_device_for_the_other() -> None:
    """`a` comes while all is idle: the GPU alone is woken. `b`, which only the GPU may serve, comes
    before the GPU has asked, and goes first: `a` is for the DLA, which must not sleep on.
    """
    scheduler = dynamic_scheduler({GPU: 0.3, DLA0: 0.4})
    configs = [
        StreamConfig(id="a", expected_rate=0.1),
        StreamConfig(id="b", device="gpu", priority=1, expected_rate=0.1),
    ]
    for config in configs:
        scheduler.add_stream(config, lambda _: None, None, 0.0)
    assert asked(scheduler, "a", 0.0) == {GPU}
    assert asked(scheduler, "b", 0.0) >= {DLA0}
    for device, name in ((GPU, "b"), (DLA0, "a")):
        batch, _ = scheduler.next_batch(device, 0.0)
        assert isinstance(batch, Batch)
        assert [stream.config.id for stream in batch.streams] == [name]


def make_scheduler(options: SchedulerOptions, max_batch: int = 1) -> Scheduler:
    models = {GPU: {"default": LoadedModel("default", 0.01, max_batch=max_batch)}}
    scheduler = Scheduler(models, create_policy("static"), options)
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
        scheduler.submit(frame("a"), now, now)
        choice, _ = scheduler.next_batch(GPU, now)
        if isinstance(choice, float) and choice < (number + 1) / 30.0:
            now = choice  # the worker sleeps until then
            choice, _ = scheduler.next_batch(GPU, now)
        if isinstance(choice, Batch):
            began.append(now)
            scheduler.finish(choice, now)
            scheduler.release(choice.streams, now)
    assert began[0] == pytest.approx(0.05)
    assert len(began) == 15  # every second frame


def test_a_frame_that_goes_stale_does_not_use_up_the_batch_window_of_the_next() -> None:
    scheduler = make_scheduler(SchedulerOptions(batch_window=0.05), max_batch=2)
    for name in ("a", "silent"):
        scheduler.add_stream(StreamConfig(id=name, stale_after=0.03), lambda _: None, None, 0.0)
    scheduler.device_started(GPU, 0.0)
    scheduler.submit(frame("a"), 0.0, 0.0)
    choice, outcome = scheduler.next_batch(GPU, 0.04)
    assert choice is None
    assert [drop.reason for drop in outcome.drops] == [DropReason.STALE]
    scheduler.submit(frame("a"), 1.0, 1.0)
    assert scheduler.next_batch(GPU, 1.0)[0] == pytest.approx(1.05)
    # It waits for service since the first one, which starvation goes by.
    assert scheduler.streams["a"].waiting_since == 0.0


def test_frames_that_waited_for_a_device_which_does_not_start_are_dropped() -> None:
    scheduler = make_scheduler(SchedulerOptions())
    scheduler.add_stream(StreamConfig(id="a"), lambda _: None, None, 0.0)
    assert scheduler.submit(frame("a"), 0.0, 0.0)[0].accepted
    outcome = scheduler.device_failed(GPU, 1.0, EngineError("no engine"))
    assert [drop.reason for drop in outcome.drops] == [DropReason.NO_DEVICE]
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


def test_every_watchdog_may_be_switched_off() -> None:
    recorder = Recorder()
    options = SchedulerOptions(watchdog=0.0, callback_limit=0.0)
    detector = SimulatedDetector(GPU, ConstantLatency(0.001))
    with InferenceExecutor([detector], options=options) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result)
        assert executor.wait_started(30.0)
        executor.submit(Frame.from_array(np.zeros((1, 1, 3), np.uint8), stream_id="a"))
        assert recorder.wait(lambda: bool(recorder.results["a"]), 30.0)
