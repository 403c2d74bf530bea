# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The age of images by their stamps, and what /diagnostics says of it and of the counters."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import pytest
from support.executors import GPU, frame, simulated
from support.ros import stream_snapshot

from yolox_trt.executor import InferenceExecutor, StreamConfig
from yolox_trt.ros.nodes import diagnostics
from yolox_trt.ros.nodes.camera_counters import CameraCounters
from yolox_trt.ros.nodes.stamp_age import COMPANY, EVIDENCE, StampAge

pytestmark = pytest.mark.ros

HOUR = 3600.0


class World:
    """Images at 10 Hz that come when a test says, and what is told of their ages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monotonic, self.ros = 1000.0, 50_000.0
        monkeypatch.setattr(time, "monotonic_ns", lambda: round(self.monotonic * 1e9))
        self.stamps = StampAge(lambda: round(self.ros * 1e9))

    def ages(self, lags: Iterable[float], period: float = 0.1) -> list[float]:
        """Let images come whose stamps lag behind ROS time by so much; return their ages."""
        ages = []
        for lag in lags:
            stamp_ns, received_ns = round((self.ros - lag) * 1e9), round(self.monotonic * 1e9)
            ages.append(self.stamps.judge(stamp_ns, received_ns))
            self.pass_time(period)
        return ages

    def pass_time(self, seconds: float) -> None:
        self.monotonic += seconds
        self.ros += seconds


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A computer whose clocks a test moves."""
    return World(monkeypatch)


def test_a_lag_is_an_age_where_clocks_agree(world: World) -> None:
    assert world.ages([0.03, 0.05, 2.0]) == pytest.approx([0.03, 0.05, 2.0])
    assert world.stamps.agree
    # However long it lasts: this is a slow camera or network, no other clock.
    # Its stamps come ever later, and never go back.
    world.ages([0.05 * i for i in range(1, 41)])
    assert world.ages([2.0] * 2000)[-1] == pytest.approx(2.0)
    # Stamps from the future tell of no age.
    assert world.ages([-5.0]) == [0.0]


@pytest.mark.parametrize("lag", [HOUR, -HOUR])
def test_the_smallest_lag_is_no_age_where_clocks_differ(world: World, lag: float) -> None:
    ages = world.ages([lag] * 3 + [lag + 0.3, lag - 0.1, lag, lag - 0.1, lag - 0.1, lag])
    assert ages == pytest.approx([0, 0, 0, 0.3, 0, 0, 0, 0, 0.1], abs=1e-6)
    assert world.stamps.agree is False
    # One that loses 0.1 s in a minute does not make images older and older.
    assert world.ages(lag + 0.1 * i / 600 for i in range(6000))[-1] < 0.2


@pytest.mark.parametrize("late", [0.8, 1.6])
@pytest.mark.parametrize("is_set", [False, True])
def test_late_messages_on_clock_make_no_image_too_old(
    world: World, late: float, is_set: bool
) -> None:
    """The node was busy: what waited is judged before simulated time is told, and then it is."""
    world.ages([0.03] * 20)
    world.ros += HOUR * is_set
    told = world.ros
    arrivals = []
    while world.ros < told + late:
        arrivals.append((round((world.ros - 0.03) * 1e9), round(world.monotonic * 1e9)))
        world.pass_time(0.1)
    now, world.ros = world.ros, told + 0.001
    for stamp_ns, received_ns in arrivals:
        world.stamps.judge(stamp_ns, received_ns)
    world.ros = now
    assert max(world.ages([0.03] * 100)[COMPANY:]) < 0.1


def test_a_frozen_camera_grows_old(world: World) -> None:
    """One image with a stamp one hour old, sent again and again."""
    ages = world.ages(HOUR + 0.1 * i for i in range(40))
    assert ages == pytest.approx([0.1 * i for i in range(40)], abs=1e-6)
    assert world.stamps.repeated == 39


@pytest.mark.parametrize("first", [0.03, 2 * HOUR])
def test_a_camera_whose_clock_was_set_is_believed_in_the_end(world: World, first: float) -> None:
    world.ages([first] * 5)
    ages = world.ages([first + HOUR] * (EVIDENCE + 5))
    assert ages[EVIDENCE - 2] > HOUR - 1
    assert ages[EVIDENCE:] == pytest.approx([0.0] * 5, abs=1e-6)
    # A single old image among new ones proves nothing.
    assert world.ages([first + 2 * HOUR, first + HOUR] * EVIDENCE)[-2] > HOUR - 1


@pytest.mark.parametrize("step", [1.2, 1.5, 1.95, 2.1])
def test_a_camera_whose_clock_was_set_back_a_little_is_believed_too(
    world: World, step: float
) -> None:
    """Its stamps soon are no older than those before."""
    world.ages([0.03] * 20)
    ages = world.ages([0.03 + step] * 60)
    assert ages[0] == pytest.approx(0.03 + step)
    assert ages[EVIDENCE:] == pytest.approx([0.0] * (60 - EVIDENCE), abs=1e-6)


def test_a_single_late_image_begins_no_new_time(world: World) -> None:
    world.ages([0.03] * 20)
    assert world.ages([1.6, *[0.03] * 30, 1.6])[-1] == pytest.approx(1.6)


def test_this_computers_clock_may_be_set(world: World) -> None:
    world.ages([0.03] * 5)
    world.ros += HOUR
    assert world.ages([0.04]) == pytest.approx([0.04])
    world.ros -= HOUR
    assert world.ages([HOUR, HOUR + 0.1]) == pytest.approx([0.0, 0.1], abs=1e-6)


def test_without_a_stamp_or_a_clock_nothing_is_judged(world: World) -> None:
    assert world.stamps.judge(0, 1) == 0.0
    world.ros = 0.0
    assert world.stamps.judge(10**9, 1) == 0.0
    assert (world.stamps.repeated, world.stamps.agree) == (0, None)


def report(counters: CameraCounters, stream: Any = None) -> Any:
    counters.topic, counters.last_message = "/front/image_raw", 1.0
    stream = stream or stream_snapshot("front")
    return diagnostics.StreamReport().make("stream front", "/front", counters, stream, 1.0)


def test_diagnostics_tell_of_ages(world: World) -> None:
    counters = CameraCounters(world.stamps)
    world.ages([HOUR])
    entry = report(counters)
    assert entry.level == diagnostics.OK
    assert entry.message.startswith("running; stamps lag 3600 s behind this computer's clock")
    world.ages([HOUR + 0.1])
    entry = report(counters, stream_snapshot("front", late=3))
    assert entry.level == diagnostics.WARN
    assert "1 images with the stamp of the one before" in entry.message
    assert "3 results older than `stale_after`" in entry.message


def test_the_counters_add_up_across_a_cleanup() -> None:
    counters = CameraCounters(malformed=2, replaced=1)
    for _ in range(2):
        executor = InferenceExecutor([simulated(GPU)])
        executor.add_stream(StreamConfig(id="front"), lambda result: None)
        for number in range(3):
            executor.submit(frame("front", number))
        counters.retire(executor.remove_stream("front"))
        assert executor.close()
    for stream in (None, stream_snapshot("front", received=5, processed=4, in_flight=1)):
        entry = diagnostics.StreamReport().make("stream front", "/front", counters, stream, 1.0)
        values = {each.key: each.value for each in entry.values}
        received, processed, dropped, in_flight = (
            int(values[name]) for name in ("received", "processed", "dropped", "in_flight")
        )
        assert received == processed + dropped + in_flight == (9 if stream is None else 14)
