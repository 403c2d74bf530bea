# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Callbacks that are due: one that blocks, raises or ends its thread costs its stream alone."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from support.executors import (
    GPU,
    PATIENCE,
    PATIENT,
    Gate,
    Recorder,
    VirtualClock,
    check_counters,
    frame,
    idle,
    new_threads,
    simulated,
    wait_until,
)

from yolox_trt.core import Frame
from yolox_trt.executor import (
    DropReason,
    InferenceExecutor,
    SchedulerOptions,
    StreamConfig,
    StreamResult,
)

#: A full batch does not wait for the end of its window.
BATCHES = replace(PATIENT, batch_window=2.0 * PATIENCE, callback_limit=0.1)


class Blocker:
    """A stream's callbacks; the first call returns when it may."""

    def __init__(self, recorder: Recorder) -> None:
        self.entered, self.returns = threading.Event(), threading.Event()
        self._recorder = recorder

    def on_result(self, result: StreamResult) -> None:
        self._recorder.on_result(result)
        self._block()

    def on_drop(self, dropped: Frame, reason: DropReason) -> None:
        self._recorder.on_drop(dropped, reason)
        self._block()

    def _block(self) -> None:
        self.entered.set()
        self.returns.wait(2.0 * PATIENCE)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def blocker(recorder: Recorder) -> Iterator[Blocker]:
    made = Blocker(recorder)
    yield made
    made.returns.set()


def test_a_blocked_callback_keeps_no_other_stream_of_its_batch(
    recorder: Recorder, blocker: Blocker
) -> None:
    before = threading.enumerate()
    with InferenceExecutor([simulated(GPU, max_batch=3)], options=BATCHES) as executor:
        executor.add_stream(StreamConfig(id="a"), blocker.on_result, recorder.on_drop)
        for name in ("b", "c"):
            executor.add_stream(StreamConfig(id=name), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        for name in ("a", "b", "c"):
            executor.submit(frame(name, 1))
        assert recorder.wait(lambda: recorder.numbers("b") == recorder.numbers("c") == [1])
        for number in (2, 3):
            for name in ("b", "c"):
                executor.submit(frame(name, number))
            assert recorder.wait(
                lambda n=number: recorder.numbers("b")[-1] == recorder.numbers("c")[-1] == n  # type: ignore[misc]
            )
        executor.submit(frame("a", 2))
        snapshot = executor.snapshot()
        assert (snapshot.streams["a"].callback_hangs, snapshot.streams["a"].waiting) == (1, 1)
        assert snapshot.streams["a"].callback_blocked > 0.0
        check_counters(snapshot)
        blocker.returns.set()
        assert wait_until(lambda: executor.snapshot().streams["a"].callback_blocked == 0.0)
        for name in ("b", "c"):  # what shares its next call
            executor.submit(frame(name, 4))
        assert recorder.wait(lambda: recorder.numbers("a") == [1, 2])
        assert wait_until(lambda: idle(executor))
        check_counters(executor.snapshot())
    assert not recorder.drops
    assert wait_until(lambda: not new_threads(before))


def test_each_blocked_callback_of_a_batch_keeps_its_own_stream(recorder: Recorder) -> None:
    blockers = {name: Blocker(recorder) for name in ("a", "b", "c")}
    before = threading.enumerate()
    try:
        with InferenceExecutor([simulated(GPU, max_batch=4)], options=BATCHES) as executor:
            for name, each in blockers.items():
                executor.add_stream(StreamConfig(id=name), each.on_result)
            executor.add_stream(StreamConfig(id="d"), recorder.on_result)
            assert executor.wait_started(PATIENCE)
            for name in (*blockers, "d"):
                executor.submit(frame(name, 1))
            assert recorder.wait(lambda: recorder.numbers("d") == [1])
            streams = executor.snapshot().streams
            assert [streams[name].callback_hangs for name in blockers] == [1, 1, 1]
            for each in blockers.values():
                each.returns.set()
            assert wait_until(
                lambda: not any(s.callback_blocked for s in executor.snapshot().streams.values())
            )
            for name in (*blockers, "d"):
                executor.submit(frame(name, 2))
            for name in (*blockers, "d"):
                assert recorder.wait(lambda name=name: recorder.numbers(name) == [1, 2])  # type: ignore[misc]
        assert wait_until(lambda: not new_threads(before))
    finally:
        for each in blockers.values():
            each.returns.set()


def test_a_blocked_drop_keeps_no_other_drop(recorder: Recorder, blocker: Blocker) -> None:
    """Frames of two streams go stale behind a call; the callback of the first one blocks."""
    gate, clock = Gate(), VirtualClock(1.0)
    options = SchedulerOptions(watchdog=2.0 * PATIENCE, callback_limit=0.5)
    with InferenceExecutor([simulated(GPU, result=gate)], options=options, clock=clock) as executor:
        executor.add_stream(StreamConfig(id="first"), recorder.on_result)
        stale = {"stale_after": 0.1}
        executor.add_stream(StreamConfig(id="a", **stale), recorder.on_result, blocker.on_drop)
        executor.add_stream(StreamConfig(id="b", **stale), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        executor.submit(frame("first", 1))
        assert wait_until(lambda: executor.snapshot().streams["first"].waiting == 0)
        for name in ("a", "b"):
            executor.submit(frame(name, 1))
        clock.advance_to(1.2)
        gate.open()
        assert blocker.entered.wait(PATIENCE)
        clock.advance_to(2.0)
        assert recorder.wait(lambda: recorder.drops["b"] == [(1, DropReason.STALE)])
        executor.submit(frame("b", 2))
        assert recorder.wait(lambda: recorder.numbers("b") == [2])
        blocker.returns.set()


def test_what_is_finished_is_delivered_at_a_stop(recorder: Recorder, blocker: Blocker) -> None:
    options = replace(BATCHES, callback_limit=2.0 * PATIENCE)
    executor = InferenceExecutor([simulated(GPU, max_batch=2)], options=options)
    executor.add_stream(StreamConfig(id="a"), blocker.on_result)
    executor.add_stream(StreamConfig(id="b"), recorder.on_result)
    executor.start()
    assert executor.wait_started(PATIENCE)
    for name in ("a", "b"):
        executor.submit(frame(name, 1))
    assert blocker.entered.wait(PATIENCE)
    assert not recorder.numbers("b")
    assert not executor.stop(0.0)
    assert recorder.wait(lambda: recorder.numbers("b") == [1])
    check_counters(executor.snapshot())
    blocker.returns.set()
    assert executor.close(PATIENCE)


def test_the_last_counters_of_a_stream_hold_for_what_was_not_delivered(
    recorder: Recorder, blocker: Blocker
) -> None:
    options = replace(BATCHES, callback_limit=2.0 * PATIENCE)
    with InferenceExecutor([simulated(GPU, max_batch=2)], options=options) as executor:
        executor.add_stream(StreamConfig(id="a"), blocker.on_result)
        executor.add_stream(StreamConfig(id="b"), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        for name in ("a", "b"):
            executor.submit(frame(name, 1))
        assert blocker.entered.wait(PATIENCE)
        last = executor.remove_stream("b")
        assert (last.processed, last.in_flight, last.dropped[DropReason.STOPPED]) == (0, 0, 1)
        assert recorder.drops["b"] == [(1, DropReason.STOPPED)]
        blocker.returns.set()
        assert wait_until(lambda: executor.snapshot().removed_received == 1)
        snapshot = executor.snapshot()
        assert (snapshot.removed_processed, snapshot.removed_dropped) == (0, 1)
    assert not recorder.numbers("b")


@pytest.mark.parametrize("ends", [lambda _: sys.exit(1), lambda _: next(iter(()))])
def test_a_callback_cannot_end_the_thread_of_its_device(
    recorder: Recorder, ends: Callable[[StreamResult], object]
) -> None:
    with InferenceExecutor([simulated(GPU)], options=PATIENT) as executor:
        executor.add_stream(StreamConfig(id="a"), ends)
        executor.add_stream(StreamConfig(id="b"), recorder.on_result)
        assert executor.wait_started(PATIENCE)
        executor.submit(frame("a", 1))
        assert wait_until(lambda: executor.snapshot().streams["a"].callback_errors == 1)
        executor.submit(frame("b", 1))
        assert recorder.wait(lambda: recorder.numbers("b") == [1])
        assert executor.snapshot().devices[GPU].errors == 0


def test_a_callback_on_the_main_thread_may_end_the_program(recorder: Recorder) -> None:
    def on_drop(dropped: Frame, reason: DropReason) -> None:
        raise KeyboardInterrupt

    gate = Gate()
    with InferenceExecutor([simulated(GPU, result=gate)], options=PATIENT) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, on_drop)
        executor.submit(frame("a", 1))
        assert wait_until(lambda: executor.snapshot().streams["a"].waiting == 0)
        executor.submit(frame("a", 2))
        with pytest.raises(KeyboardInterrupt):
            executor.submit(frame("a", 3))  # takes the place of the second one
        gate.open()
        assert recorder.wait(lambda: recorder.numbers("a") == [1, 3])


def test_a_callback_that_hung_is_kept_by_nobody(recorder: Recorder) -> None:
    """A worker whose device another one has taken over ends, and with it what it knew."""
    blockers = [Blocker(recorder) for _ in range(3)]
    alive = [weakref.ref(each) for each in blockers]
    options = replace(PATIENT, callback_limit=0.05)
    with InferenceExecutor([simulated(GPU)], options=options) as executor:
        assert executor.wait_started(PATIENCE)
        for number in range(3):
            name, each = f"stream{number}", blockers.pop()
            executor.add_stream(StreamConfig(id=name), each.on_result)
            executor.submit(frame(name))
            assert wait_until(
                lambda name=name: executor.snapshot().streams[name].callback_hangs == 1  # type: ignore[misc]
            )
            executor.remove_stream(name)
            each.returns.set()
            del each
        assert wait_until(lambda: gc.collect() >= 0 and not any(ref() for ref in alive))
