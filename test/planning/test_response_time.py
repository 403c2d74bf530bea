# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Response-time bounds against known answers and against the simulation."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.executors import DLA0, GPU

from yolox_trt.core import Device
from yolox_trt.engines.simulated import ConstantLatency
from yolox_trt.executor import StreamConfig
from yolox_trt.planning.response_time import ServedStream, worst_response_times
from yolox_trt.planning.simulation import CameraLoad, Simulation


def test_messages_on_a_bus() -> None:
    """The example of Davis et al. (2007), section 4: all instances must be looked at.

    C = 1 each; T = 2.5, 3.5, 3.5; the lowest priority's second instance is the worst: 3.5.
    """
    streams = [
        ServedStream(id="a", time=1.0, period=2.5, priority=3),
        ServedStream(id="b", time=1.0, period=3.5, priority=2),
        ServedStream(id="c", time=1.0, period=3.5, priority=1),
    ]
    bounds = worst_response_times(streams)
    assert bounds == pytest.approx({"a": 2.0, "b": 3.0, "c": 3.5})


def test_consolidation() -> None:
    gpu = [ServedStream(id=f"g{i}", time=0.0041, period=1 / 30) for i in range(4)]
    dla = [ServedStream(id=f"d{i}", time=0.01169, period=1 / 30) for i in range(2)]
    assert list(worst_response_times(gpu).values()) == pytest.approx([0.0164] * 4)
    assert list(worst_response_times(dla).values()) == pytest.approx([0.02338] * 2)


def test_overload_has_no_bound_and_higher_priorities_do_not_suffer() -> None:
    streams = [
        ServedStream(id="high", time=0.01, period=0.03, priority=1),
        ServedStream(id="low", time=0.03, period=0.04),
    ]
    bounds = worst_response_times(streams)
    assert bounds["low"] == math.inf
    assert bounds["high"] == pytest.approx(0.04)  # a low frame has just begun


@settings(max_examples=60, deadline=None)
@given(
    cameras=st.lists(
        st.tuples(
            st.sampled_from([10.0, 20.0, 30.0, 37.0]),  # rate
            st.integers(0, 2),  # priority
            st.sampled_from([0.0, 0.004, 0.013]),  # phase
            st.sampled_from([0.0, 0.002]),  # jitter
            st.sampled_from([0.0, 0.03]),  # deadline
            st.integers(1, 2),  # weight
        ),
        min_size=1,
        max_size=6,
    ),
    time=st.sampled_from([0.002, 0.0041, 0.009]),
    share=st.sampled_from([0.0, 0.0005]),
)
def test_no_simulation_exceeds_the_bound(
    cameras: list[tuple[float, int, float, float, float, int]], time: float, share: float
) -> None:
    loads = [
        CameraLoad(
            config=StreamConfig(
                id=f"c{i}", device="gpu", priority=p, deadline=d, weight=w, queue_depth=4
            ),
            rate=r,
            phase=phase,
            jitter=j,
        )
        for i, (r, p, phase, j, d, w) in enumerate(cameras)
    ]
    beside = CameraLoad(config=StreamConfig(id="dla", device="dla0"), rate=25.0, phase=0.001)
    served = [
        ServedStream(
            id=c.config.id,
            time=time,
            period=1 / c.rate,
            jitter=2 * c.jitter,
            priority=c.config.priority,
        )
        for c in loads
    ]
    interference = [ServedStream(id="dla", time=share, period=1 / 25.0)] if share else []
    bounds = worst_response_times(served, interference)
    assume(all(math.isfinite(b) for b in bounds.values()))
    devices: dict[Device, dict[str, ConstantLatency]] = {
        GPU: {"default": ConstantLatency(time)},
        DLA0: {"default": ConstantLatency(0.01)},
    }
    result = Simulation(
        [*loads, beside], devices, policy="static", gpu_share={DLA0: share} if share else None
    ).run(3.0)
    for camera in loads:
        longest = result.latencies[camera.config.id].max()
        assert longest <= bounds[camera.config.id] + 1e-6


def test_the_bound_is_reached() -> None:
    """It is no looser than it must be where all frames come at once."""
    loads = [CameraLoad(config=StreamConfig(id=f"c{i}", device="gpu"), rate=30.0) for i in range(7)]
    result = Simulation(loads, {GPU: {"default": ConstantLatency(0.004)}}, policy="static").run(2.0)
    bounds = worst_response_times(
        [ServedStream(id=c.config.id, time=0.004, period=1 / 30) for c in loads]
    )
    assert result.latency_max == pytest.approx(max(bounds.values()))
