# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Properties of the Scheduler over random loads, in virtual time."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.executors import CPU, DLA0, DLA1, GPU, adds_up, frame

from yolox_trt.core import ConfigurationError, Device, EngineError
from yolox_trt.core.contention import MEASURED_CONTENTION, Contention
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.engines.simulated import ConstantLatency, MeasuredLatency
from yolox_trt.executor import SchedulerOptions, StreamConfig, SubmitOutcome
from yolox_trt.executor.device_state import Batch, LoadedModel
from yolox_trt.executor.placement import create_policy
from yolox_trt.executor.scheduler import Scheduler
from yolox_trt.executor.timeline import BatchSpan
from yolox_trt.planning.simulation import CameraLoad, Outage, Simulation, SimulationResult

POLICIES = ["static", "balanced", "dynamic"]


@st.composite
def camera_loads(draw: st.DrawFn, *, stale: bool = True) -> list[CameraLoad]:
    """One to eight cameras with random rates, queues and priorities."""
    cameras = []
    for index in range(draw(st.integers(1, 8))):
        rate = draw(st.sampled_from([5.0, 10.0, 30.0, 47.3, 100.0]))
        config = StreamConfig(
            id=f"camera{index}",
            device=draw(st.sampled_from(["auto", "auto", "gpu", "dla0"])),
            queue_depth=draw(st.integers(1, 3)),
            overflow=draw(st.sampled_from(["drop_oldest", "drop_newest"])),
            stale_after=draw(st.sampled_from([0.0, 0.01, 0.1])) if stale else 0.0,
            priority=draw(st.integers(0, 2)),
            weight=draw(st.integers(1, 3)),
            max_rate=draw(st.sampled_from([0.0, 0.0, 20.0])) if stale else 0.0,
            deadline=draw(st.sampled_from([0.0, 0.02, 0.1])),
        )
        cameras.append(
            CameraLoad(
                config=config,
                rate=rate,
                phase=draw(st.sampled_from([0.0, 0.001, 0.0137])),
                jitter=draw(st.sampled_from([0.0, 0.003])),
            )
        )
    return cameras


device_times = st.fixed_dictionaries(
    {
        GPU: st.sampled_from([0.001, 0.0041, 0.02]),
        DLA0: st.sampled_from([0.002, 0.01169, 0.04]),
    },
    optional={DLA1: st.sampled_from([0.01169, 0.03])},
)


def simulate(cameras: list[CameraLoad], times: dict[Device, float], **options):  # type: ignore[no-untyped-def]
    devices = {d: {"default": ConstantLatency(t)} for d, t in times.items()}
    return Simulation(cameras, devices, timeline_capacity=100_000, **options)


def spans_by_stream(spans: list[BatchSpan]) -> dict[str, list[BatchSpan]]:
    found = defaultdict(list)
    for span in spans:
        for name in span.streams:
            found[name].append(span)
    return found


@settings(max_examples=40, deadline=None)
@given(
    cameras=camera_loads(),
    times=device_times,
    policy=st.sampled_from(POLICIES),
    contention=st.sampled_from([None, MEASURED_CONTENTION]),
    max_batch=st.sampled_from([1, 4]),
    window=st.sampled_from([0.0, 0.005]),
    outage=st.booleans(),
    copies=st.sampled_from([{}, {GPU: 0.0004}, {GPU: 0.05, DLA0: 0.001, DLA1: 0.0}]),
)
def test_counters_order_and_exclusion(
    cameras: list[CameraLoad],
    times: dict[Device, float],
    policy: str,
    contention: Contention | None,
    max_batch: int,
    window: float,
    outage: bool,
    copies: dict[Device, float],
) -> None:
    simulation = simulate(
        cameras,
        times,
        policy=policy,
        contention=contention,
        max_batch=max_batch,
        options=SchedulerOptions(batch_window=window),
        outages=[Outage(GPU, 0.3, 0.9)] if outage else [],
        copies={device: seconds for device, seconds in copies.items() if device in times},
    )
    result = simulation.run(2.0)
    for camera in cameras:
        stream = result.snapshot.streams[camera.config.id]
        assert adds_up(stream)
        assert stream.in_flight == 0
        assert stream.received == pytest.approx(2.0 * camera.rate, abs=2)
    assert result.timeline is not None
    spans = result.timeline.spans()
    for device in times:
        mine = sorted((s for s in spans if s.device == str(device)), key=lambda s: s.start)
        for before, after in pairwise(mine):
            assert before.end <= after.start + 1e-9, "a device runs one call at a time"
        if device.kind == "dla":
            assert all(len(s.streams) == 1 for s in mine)
    for camera in cameras:
        mine = spans_by_stream(spans)[camera.config.id]
        for before, after in pairwise(mine):
            assert before.end <= after.start + 1e-9, "a stream's frames do not overlap"
        submitted = [s.submitted[s.streams.index(camera.config.id)] for s in mine]
        assert submitted == sorted(submitted), "nor overtake each other"
        stale_after = camera.config.stale_after
        if stale_after:
            waits = [s.start - t for s, t in zip(mine, submitted, strict=True)]
            # What was fresh when its device took it may wait there for the call before it.
            behind = max((s.end - s.start for s in spans), default=0.0) if copies else 0.0
            assert all(w <= stale_after + behind + 1e-9 for w in waits), "no work on stale frames"


@settings(max_examples=25, deadline=None)
@given(
    cameras=camera_loads(stale=False),
    times=device_times,
    policy=st.sampled_from(POLICIES),
    overlap=st.booleans(),
)
def test_no_stream_starves(
    cameras: list[CameraLoad], times: dict[Device, float], policy: str, overlap: bool
) -> None:
    """Whatever the overload, a stream with frames to offer is served again within a bound."""
    limit = 0.5
    duration = 3.0
    simulation = simulate(
        cameras,
        times,
        policy=policy,
        options=SchedulerOptions(starvation_limit=limit),
        copies={GPU: 0.0005} if overlap else {},
    )
    result = simulation.run(duration)
    assert result.timeline is not None
    by_stream = spans_by_stream(result.timeline.spans())
    slowest = max(times.values())
    for camera in cameras:
        starts = [0.0, *(s.start for s in by_stream[camera.config.id]), duration]
        longest = max(b - a for a, b in pairwise(starts))
        # It waits for its own next frame, for the limit, then for those that have starved longer
        # (each once) and the calls under way.
        bound = 2.0 / camera.rate + limit + (len(cameras) + 1 + overlap) * slowest
        assert longest <= bound, (camera.config.id, longest, bound)


@settings(max_examples=8, deadline=None)
@given(weights=st.lists(st.integers(1, 4), min_size=2, max_size=5), deadline=st.booleans())
def test_shares_follow_the_weights(weights: list[int], deadline: bool) -> None:
    """Under overload, streams of one priority share a device by their weights."""
    cameras = [
        CameraLoad(
            # Deadlines order frames within a round; they do not bend the shares.
            config=StreamConfig(id=f"c{i}", weight=w, deadline=0.01 * (i + 1) if deadline else 0.0),
            rate=500.0,
            phase=0.0001 * i,
        )
        for i, w in enumerate(weights)
    ]
    options = SchedulerOptions(starvation_limit=60.0)
    result = simulate(cameras, {GPU: 0.01}, policy="static", options=options).run(10.0)
    served = np.array([result.snapshot.streams[f"c{i}"].processed for i in range(len(weights))])
    np.testing.assert_allclose(served / served.sum(), np.array(weights) / sum(weights), atol=0.01)


def test_priority_goes_first() -> None:
    cameras = [
        CameraLoad(config=StreamConfig(id=name, priority=p), rate=60.0, phase=phase)
        for name, p, phase in (("low", 0, 0.0), ("high", 5, 0.002))
    ]
    result = simulate(cameras, {GPU: 0.015}, policy="static").run(10.0)
    assert result.snapshot.streams["high"].dropped_total == 0
    assert result.snapshot.streams["low"].dropped_total > 200
    # It waits at most for the call under way.
    assert result.latencies["high"].max() <= 0.030 + 1e-9


def test_earliest_deadline_first() -> None:
    """Three frames wait for a busy device; they run in the order of their deadlines."""
    deadlines = {"a": 0.0, "b": 0.09, "c": 0.05}
    scheduler = one_device_scheduler()
    for name, deadline in deadlines.items():
        add(scheduler, name, deadline=deadline)
        scheduler.submit(frame(name), 0.0, 0.0)
    order = []
    for now in (0.0, 0.01, 0.02):
        batch, _ = scheduler.next_batch(GPU, now)
        assert isinstance(batch, Batch)
        order.append(batch.streams[0].config.id)
        scheduler.finish(batch, now + 0.01)
        scheduler.release(batch.streams, now + 0.01)
    assert order == ["c", "b", "a"]


def one_device_scheduler(
    device: Device = GPU,
    max_batch: int = 1,
    options: SchedulerOptions | None = None,
    calls: int = 1,
    at_once: int = 1,
) -> Scheduler:
    model = LoadedModel("default", 0.01, max_batch=max_batch, calls=calls, at_once=at_once)
    scheduler = Scheduler(
        {device: {"default": model}},
        create_policy("static"),
        options,
    )
    scheduler.device_started(device, 0.0)
    scheduler.accepting = True
    return scheduler


def add(scheduler: Scheduler, name: str, **changes: float | str) -> None:
    scheduler.add_stream(StreamConfig(id=name, **changes), lambda r: None, None, 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("at_once", [1, 2])
def test_load_of_a_device_whose_calls_overlap(at_once: int) -> None:
    """No time counts twice; of two calls at once, one alone has all of the device."""
    scheduler = one_device_scheduler(calls=2, at_once=at_once)
    for name in ("a", "b"):
        add(scheduler, name)
    scheduler.submit(frame("a"), 0.0, 0.0)
    one, _ = scheduler.next_batch(GPU, 0.0)
    assert isinstance(one, Batch)
    assert scheduler.snapshot(1.0).devices[GPU].load == pytest.approx(0.2)
    scheduler.submit(frame("b"), 1.0, 1.0)
    other, _ = scheduler.next_batch(GPU, 1.0)
    assert isinstance(other, Batch)
    assert scheduler.snapshot(1.0).devices[GPU].load == pytest.approx(0.2)
    scheduler.finish(one, 4.0)
    assert other.started == (4.0 if at_once == 1 else 1.0)
    scheduler.finish(other, 4.5)
    assert scheduler.snapshot(5.0).devices[GPU].load == pytest.approx(0.9)


def test_a_failure_ends_the_load_of_all_calls_under_way() -> None:
    scheduler = one_device_scheduler(calls=2, at_once=2)
    for name in ("a", "b"):
        add(scheduler, name)
        scheduler.submit(frame(name), 0.0, 0.0)
        assert isinstance(scheduler.next_batch(GPU, 0.0)[0], Batch)
    scheduler.device_failed(GPU, 2.0, RuntimeError("broken"))
    assert scheduler.snapshot(4.0).devices[GPU].load == pytest.approx(2.0 / 5.0)


def test_a_batch_gathers_only_what_can_come() -> None:
    """With two of three streams waiting the GPU waits for the third; for a busy one it does not."""
    scheduler = one_device_scheduler(max_batch=4, options=SchedulerOptions(batch_window=0.005))
    for name in ("a", "b", "c"):
        add(scheduler, name)
    scheduler.submit(frame("a"), 0.0, 0.0)
    scheduler.submit(frame("b"), 0.001, 0.001)
    assert scheduler.next_batch(GPU, 0.002)[0] == pytest.approx(0.005)
    scheduler.submit(frame("c"), 0.003, 0.003)
    batch, _ = scheduler.next_batch(GPU, 0.003)
    assert isinstance(batch, Batch)
    assert len(batch.frames) == 3


def test_frames_of_one_stream_run_on_the_models_that_they_are_for() -> None:
    """Images of two shapes take turns; neither waits for a frame that another model runs."""
    models = {name: LoadedModel(name, 0.01, max_batch=4) for name in ("m", "m@32x64")}
    options = SchedulerOptions(batch_window=0.005)
    scheduler = Scheduler({GPU: models}, create_policy("dynamic"), options)
    scheduler.device_started(GPU, 0.0)
    scheduler.accepting = True
    for name in ("a", "b"):
        add(scheduler, name, model="m", queue_depth=2)
    needed = scheduler.placements.needed
    for name, model in (("a", "m@32x64"), ("a", ""), ("b", "m"), ("b", "m@9x9")):
        scheduler.submit(frame(name), 0.0, 0.0, 0.0, model)
    served = []
    for now in (0.0, 0.1, 0.2):
        batch, _ = scheduler.next_batch(GPU, now)
        assert isinstance(batch, Batch)
        served.append((batch.model.name, [stream.config.id for stream in batch.streams]))
        scheduler.finish(batch, now)
        scheduler.release(batch.streams, now)
    assert served == [("m@32x64", ["a"]), ("m", ["b", "a"]), ("m", ["b"])]
    assert scheduler.placements.needed is needed
    assert scheduler.stream("a").config.model == "m"


def test_rate_limit_tolerates_jitter_and_holds_in_the_long_run() -> None:
    scheduler = one_device_scheduler()
    add(scheduler, "a", max_rate=30.0, queue_depth=1)
    rng = np.random.default_rng(0)
    period = 1.0 / 30.0
    for number in range(300):  # a camera at just this rate, with jitter: nothing is refused
        now = 1.0 + number * period + rng.uniform(-0.2, 0.2) * period
        assert scheduler.submit(frame("a"), now, now)[0].accepted
    accepted = sum(  # twice as fast: half of it
        scheduler.submit(frame("a"), now, now)[0] is not SubmitOutcome.RATE_LIMITED
        for now in np.arange(20.0, 30.0, period / 2)
    )
    assert accepted == pytest.approx(300, abs=2)


def test_update_stream_checks_before_it_changes() -> None:
    scheduler = one_device_scheduler()
    add(scheduler, "a", queue_depth=3)
    for number, now in enumerate((0.0, 0.001, 0.002)):
        scheduler.submit(frame("a", number), now, now)
    with pytest.raises(ConfigurationError):
        scheduler.update_stream("a", {"queue_depth": 1, "model": "missing"}, 0.003)
    assert scheduler.streams["a"].config.queue_depth == 3
    outcome = scheduler.update_stream("a", {"queue_depth": 1}, 0.003)
    assert [drop.frame.stamp_ns for drop in outcome.drops] == [0, 1]
    assert scheduler.snapshot(0.003).streams["a"].waiting == 1


def test_pinned_stream_goes_back_to_its_device() -> None:
    cameras = [CameraLoad(config=StreamConfig(id="a", device="gpu"), rate=30.0)]
    for policy in POLICIES:
        simulation = simulate(
            cameras, {GPU: 0.004, CPU: 0.02}, policy=policy, outages=[Outage(GPU, 1.0, 2.0)]
        )
        result = simulation.run(4.0)
        spans = result.timeline.spans() if result.timeline is not None else []
        # Out of service from 1 s on; the GPU is back at 2 s.
        for span in spans:
            assert span.device == ("cpu" if 1.0 <= span.start < 2.0 else "gpu"), policy
        stream = result.snapshot.streams["a"]
        assert stream.moves == 2
        assert stream.dropped_total <= 1


def test_no_stream_is_placed_on_a_device_that_was_lost_in_service() -> None:
    models = {d: {"default": LoadedModel("default", 0.01)} for d in (CPU, GPU)}
    scheduler = Scheduler(models, create_policy("static"))
    scheduler.start()
    for device in models:
        scheduler.device_started(device, 0.0)
    add(scheduler, "a", device="cpu")
    scheduler.device_lost(CPU, 1.0)
    add(scheduler, "b")
    placed = {name: s.placed and s.placed.device for name, s in scheduler.streams.items()}
    assert placed == {"a": GPU, "b": GPU}


def test_a_stream_moves_to_the_device_that_gets_its_model() -> None:
    models = {d: {"default": LoadedModel("default", 0.01)} for d in (DLA0, GPU)}
    scheduler = Scheduler(models, create_policy("static"))
    for device in models:
        scheduler.device_started(device, 0.0)
    scheduler.accepting = True
    add(scheduler, "a", model="own", allow_model_change=True)
    before = scheduler.streams["a"].placed
    assert before is not None
    other = GPU if before.device == DLA0 else DLA0
    scheduler.add_model("own", {other: LoadedModel("own", 0.01)}, 1.0)
    scheduler.submit(frame("a"), 1.0, 1.0)
    assert scheduler.next_batch(before.device, 1.0)[0] is None
    batch = scheduler.next_batch(other, 1.0)[0]
    assert isinstance(batch, Batch) and batch.model.name == "own"


def test_moves_are_logged_with_their_reason() -> None:
    scheduler = Scheduler(
        {d: {"default": LoadedModel("default", 0.01)} for d in (GPU, DLA0)},
        create_policy("balanced"),
    )
    for device in (GPU, DLA0):
        scheduler.device_started(device, 0.0)
    scheduler.accepting = True
    add(scheduler, "a")
    scheduler.replan(0.0, "start")
    placed = scheduler.snapshot(0.0).streams["a"].device
    assert placed is not None
    outcome = scheduler.device_failed(placed, 1.0, EngineError("illegal memory access"))
    other = DLA0 if placed == GPU else GPU
    text = f"stream a moves {placed} -> {other}: {placed} out of service"
    assert (logging.WARNING, text) in outcome.events
    assert scheduler.snapshot(1.0).streams["a"].moves == 1


def test_the_same_seed_gives_the_same_simulation() -> None:
    cameras = [
        CameraLoad(config=StreamConfig(id=f"c{i}"), rate=30.0, jitter=0.004) for i in range(6)
    ]
    latencies = {
        GPU: {"default": MeasuredLatency([0.004, 0.005, 0.012])},
        DLA0: {"default": MeasuredLatency([0.011, 0.013])},
    }

    def run(seed: int) -> list[float]:
        simulation = Simulation(
            cameras, latencies, policy="dynamic", contention=MEASURED_CONTENTION, seed=seed
        )
        return [float(v.sum()) for v in simulation.run(5.0).latencies.values()]

    assert run(1) == run(1) != run(2)


def test_overlapping_calls_take_as_long_as_the_longer_half() -> None:
    """1 ms of copying beside 2 ms of computing: 500 frames a second instead of 333."""
    cameras = [CameraLoad(config=StreamConfig(id=f"c{i}"), rate=50.0) for i in range(8)]
    devices = {GPU: {"default": ConstantLatency(0.003)}}

    def run(copies: dict[Device, float]) -> SimulationResult:
        return Simulation(cameras, devices, copies=copies, timeline_capacity=10_000).run(10.0)

    alone, overlapping = run({}), run({GPU: 0.001})
    assert alone.dropped > 600
    assert overlapping.dropped == 0
    # Busy time is counted once: 400 frames of 2 ms, the first of each eight 3 ms.
    assert overlapping.loads[GPU] == pytest.approx(50.0 * (8 * 0.002 + 0.001), rel=0.01)
    assert overlapping.snapshot.devices[GPU].models["default"] == pytest.approx(0.0021, rel=0.1)
    assert overlapping.latency_max == pytest.approx(0.017)
    # A single stream has one frame under way at a time.
    one = Simulation(cameras[:1], devices, copies={GPU: 0.001}).run(1.0)
    assert one.latency_max == pytest.approx(0.003)


def test_a_call_behind_another_is_timed_from_its_turn() -> None:
    scheduler = one_device_scheduler(calls=2)
    for name in ("a", "b", "c"):
        add(scheduler, name)
        scheduler.submit(frame(name), 0.0, 0.0)
    (first, _), (second, _) = scheduler.next_batch(GPU, 0.0), scheduler.next_batch(GPU, 0.001)
    assert isinstance(first, Batch) and isinstance(second, Batch)
    assert scheduler.next_batch(GPU, 0.002)[0] is None, "two at a time"
    assert first.watchdog_at == scheduler.options.watchdog
    assert second.watchdog_at == math.inf
    assert scheduler.finish(first, 0.5) is not None
    assert second.began == 0.5
    assert second.watchdog_at == 0.5 + scheduler.options.watchdog
    scheduler.release(first.streams, 0.5)
    third, _ = scheduler.next_batch(GPU, 0.6)
    assert isinstance(third, Batch)
    assert scheduler.snapshot(0.7).devices[GPU].load == pytest.approx(0.7 / 5.0)
    scheduler.device_failed(GPU, 0.7, EngineError("both are lost"))
    snapshot = scheduler.snapshot(0.7)
    assert [s.dropped_total for s in snapshot.streams.values()] == [0, 1, 1]
    assert all(adds_up(s) and not s.in_flight for s in snapshot.streams.values())
    assert scheduler.finish(second, 0.8) is None and scheduler.finish(third, 0.8) is None
    assert scheduler.snapshot(0.8).devices[GPU].late_results == 2


def test_calls_at_once_may_take_as_many_times_as_long_as_one_alone() -> None:
    """At its warm-up a call has all cores; beside others it has its part of them."""
    options = SchedulerOptions(watchdog=0.1, watchdog_factor=20.0)
    names = ("a", "b", "c", "d")
    scheduler = one_device_scheduler(calls=4, at_once=4, options=options)
    for name in names:
        add(scheduler, name)
        scheduler.submit(frame(name), 0.0, 0.0)
    batches = [scheduler.next_batch(GPU, 0.0)[0] for _ in names]
    for batch in batches:
        assert isinstance(batch, Batch)
        assert batch.watchdog == pytest.approx(20.0 * 4 * 0.01)


def test_contention_slows_both() -> None:
    """Two endless loads side by side take as long as was measured side by side."""
    cameras = [
        CameraLoad(config=StreamConfig(id=name, device=name, queue_depth=2), rate=100.0)
        for name in ("gpu", "dla0")
    ]
    devices = {GPU: {"default": ConstantLatency(0.045)}, DLA0: {"default": ConstantLatency(0.017)}}
    result = Simulation(
        cameras, devices, policy="static", contention=MEASURED_CONTENTION, timeline_capacity=1000
    ).run(10.0)
    assert result.timeline is not None
    spans = result.timeline.spans(since=1.0)[:-4]
    for device, expected in (("gpu", 0.059), ("dla0", 0.021)):
        lengths = [s.end - s.start for s in spans if s.device == device]
        assert np.mean(lengths) == pytest.approx(expected, rel=0.01)
    assert not math.isnan(result.latency_max)


def test_a_device_that_slows_down_little_by_little_is_judged_by_its_warm_up() -> None:
    options = SchedulerOptions(watchdog=2.0, watchdog_factor=20.0, slow_factor=5.0)
    scheduler = one_device_scheduler(options=options)
    add(scheduler, "a")
    now, seconds, events = 1.0, 0.01, []
    for number in range(80):
        scheduler.submit(frame("a", number), now, now)
        batch, _ = scheduler.next_batch(GPU, now)
        assert isinstance(batch, Batch)
        assert batch.watchdog == 2.0
        now, seconds = now + seconds, seconds * 1.08
        outcome = scheduler.finish(batch, now)
        assert outcome is not None
        events += [text for _, text in outcome.events]
        scheduler.release(batch.streams, now)
    assert seconds > 2.0
    assert len(events) == 1 and "gpu is slow: default takes" in events[0]
    assert scheduler.snapshot(now).devices[GPU].slow == ("default",)
    # After a restart, and after a minute without a call, it is expected to be as fast as at first:
    # nothing would try it again.
    state, model = scheduler.devices[GPU], scheduler.devices[GPU].models["default"]
    state.forgive(now + 59.0)
    assert model.slow
    state.forgive(now + 61.0)
    assert (model.slow, model.time) == (False, 0.01)
    model.slow, model.time = True, 1.0
    scheduler.device_failed(GPU, now, EngineError("slow"))
    scheduler.device_started(GPU, now)
    assert (model.slow, model.time) == (False, 0.01)


def test_a_batch_keeps_the_options_that_it_was_made_with() -> None:
    """Those of an update are of another model, perhaps, and are not read beside a running call."""
    models = {GPU: {"default": LoadedModel("default", 0.01)}}
    scheduler = Scheduler(models, create_policy("static"))
    scheduler.accepting = True
    before, after = PostprocessOptions(score_threshold=0.7), PostprocessOptions()
    scheduler.add_stream(StreamConfig(id="a", options=before), lambda _: None, None, 0.0)
    scheduler.device_started(GPU, 0.0)
    scheduler.submit(frame("a"), 0.0, 0.0)
    batch, _ = scheduler.next_batch(GPU, 0.0)
    assert isinstance(batch, Batch)
    scheduler.update_stream("a", {"options": after}, 0.0)
    assert [pending.options for pending in batch.frames] == [before]
