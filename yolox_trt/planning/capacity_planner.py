# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Capacity planner: placement, loads, latencies, drops, and how much more would fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from yolox_trt.core.device import Device
from yolox_trt.core.option import options_of
from yolox_trt.executor.placement import PlacementProblem
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.planning.plan_config import PlanConfig
from yolox_trt.planning.response_time import ServedStream, worst_response_times
from yolox_trt.planning.simulation import Simulation, SimulationResult

#: The policies of a plan; "by hand" is the static policy with the cameras' `placed_by_hand`.
BY_HAND = "by hand"
#: Virtual seconds of each simulation of a search.
SEARCH_SECONDS = 10.0
#: Relative width of the bracket at the end of a search for a rate; its lower end is the answer.
RATE_TOLERANCE = 0.002
#: Cameras beyond which the search for the largest number ends.
MAX_CAMERAS = 256


@dataclass(frozen=True)
class PolicyPlan:
    """What one policy makes of a plan.

    Attributes:
        policy: "by hand", "static", "balanced" or "dynamic".
        placement: stream -> Device at the end of the simulation; for "dynamic" where its last
            frame ran.
        loads: Device -> share of its time that the placement asks for, with the cameras' rates
            and the times measured in the simulation (may exceed 1); for "dynamic" the simulated
            share.
        worst_case: stream -> bound of the latency in seconds, infinity if there is none; NaN for
            "dynamic", with batching, and where calls overlap: for these there is no analysis.
        result: the simulation.
        limits: largest_number_of_cameras and largest_rate_factor, None where nobody looked.
    """

    policy: str
    placement: Mapping[str, Device]
    loads: Mapping[Device, float]
    worst_case: Mapping[str, float]
    result: SimulationResult
    limits: tuple[int, float] | None = None


def plan_policy(
    config: PlanConfig,
    policy: str,
    *,
    duration: float = SEARCH_SECONDS,
    seed: int = 0,
    timeline_capacity: int = 0,
    progress: Callable[[float], None] | None = None,
) -> PolicyPlan:
    """Place, analyse and simulate.

    Args:
        config: cameras and devices.
        policy: "by hand", "static", "balanced" or "dynamic".
        duration: virtual seconds.
        seed: of jitter and measured latencies.
        timeline_capacity: entries of the timeline; 0 = none.
        progress: called now and then with the virtual time.

    Raises:
        ConfigurationError: a camera that no device can serve.
    """
    simulation = _simulation(config, policy, seed, timeline_capacity)
    result = simulation.run(duration, progress)
    placement = {
        stream_id: stream.device
        for stream_id, stream in result.snapshot.streams.items()
        if stream.device is not None
    }
    if policy == "dynamic":
        loads: Mapping[Device, float] = result.loads
        worst = dict.fromkeys((c.name for c in config.cameras), math.nan)
    else:
        loads = _problem(config, simulation).loads(placement)
        worst = _worst_cases(config, placement)
    return PolicyPlan(policy, placement, loads, worst, result)


def _simulation(
    config: PlanConfig, policy: str, seed: int = 0, timeline_capacity: int = 0
) -> Simulation:
    by_hand = policy == BY_HAND
    return Simulation(
        [camera.by_hand() if by_hand else camera for camera in config.cameras],
        config.devices,
        policy="static" if by_hand else policy,
        contention=config.contention,
        gpu_share=config.gpu_share,
        max_batch=config.max_batch,
        copies=config.copies,
        seed=seed,
        timeline_capacity=timeline_capacity,
    )


def _problem(config: PlanConfig, simulation: Simulation) -> PlacementProblem:
    """Return the demands at the end of a simulation, with the rates that the plan asks for.

    Measured rates fall while a backlog drains after the last arrival: a queue of a hundred frames
    would hide most of the load that filled it.
    """
    problem = simulation.scheduler.placements.problem(simulation.now)
    rates = {camera.name: camera.served_rate for camera in config.cameras}
    streams = tuple(replace(stream, rate=rates[stream.id]) for stream in problem.streams)
    return replace(problem, streams=streams)


def _fits(config: PlanConfig, policy: str) -> bool:
    """Tell what plan_policy(config, policy).result.fits would; in less time where it is False."""
    return _simulation(config, policy).run(SEARCH_SECONDS, until_lost=True).fits


def _worst_cases(config: PlanConfig, placement: Mapping[str, Device]) -> dict[str, float]:
    served: dict[Device, list[ServedStream]] = {device: [] for device in config.devices}
    used = set(placement.values())
    for camera in config.cameras:
        device = placement[camera.name]
        period = 1.0 / camera.served_rate
        # Half a period is how early max_rate still lets a frame in.
        tolerance = 0.5 * period if camera.served_rate < camera.rate else 0.0
        served[device].append(
            ServedStream(
                id=camera.name,
                time=config.devices[device][camera.config.model].worst
                * config.contention.slowdown(device, used),
                period=period,
                jitter=2.0 * camera.jitter + tolerance,
                priority=camera.config.priority,
            )
        )
    worst: dict[str, float] = {}
    for device in sorted(served, key=lambda device: device.kind == "gpu"):
        interference: list[ServedStream] = []
        if device.kind == "gpu":  # last: it needs the bounds of the frames that it has a share in
            slowdown = config.contention.slowdown(device, used)
            interference = _gpu_shares(config, served, worst, slowdown)
        worst.update(_bounds(config, device, served[device], interference))
    return worst


def _bounds(
    config: PlanConfig,
    device: Device,
    streams: Sequence[ServedStream],
    interference: Sequence[ServedStream],
) -> dict[str, float]:
    batched = config.max_batch > 1 and device.kind != "dla"
    if device in config.copies or batched or any(math.isnan(s.jitter) for s in interference):
        return {stream.id: math.nan for stream in streams}
    return worst_response_times(streams, interference)


def _gpu_shares(
    config: PlanConfig,
    served: Mapping[Device, Sequence[ServedStream]],
    worst: Mapping[str, float],
    slowdown: float,
) -> list[ServedStream]:
    """Return what the frames of other devices ask of a GPU.

    A share falls due when the frame starts on its own device, not when it arrives: what it may
    wait there, which its bound holds together with the camera's jitter, is the share's jitter.
    The GPU serves it as slowly as its own frames.
    """
    return [
        replace(
            stream,
            time=config.gpu_share[device] * slowdown,
            jitter=worst[stream.id] - stream.time,
        )
        for device, streams in served.items()
        if device.kind != "gpu" and config.gpu_share.get(device, 0.0)
        for stream in streams
    ]


def largest_number_of_cameras(
    config: PlanConfig, policy: str, *, progress: Callable[[int], None] | None = None
) -> int:
    """Find the most cameras (the list again and again) with no drop and no missed deadline.

    Each number is simulated for SEARCH_SECONDS, one more at a time, until one does not fit.

    Args:
        config: cameras and devices.
        policy: as in plan_policy.
        progress: called with each number that fits.
    """
    count = 0
    while count < MAX_CAMERAS:
        if not _fits(config.with_cameras(count + 1), policy):
            return count
        count += 1
        if progress is not None:
            progress(count)
    return count


def largest_rate_factor(config: PlanConfig, policy: str) -> float:
    """Find how much faster all cameras may run with no drop and no missed deadline.

    All times of the cameras shrink with their periods. Doubling, then bisection on simulations of
    SEARCH_SECONDS: right if what fits at a rate fits at all lower ones.

    Args:
        config: cameras and devices.
        policy: as in plan_policy.

    Returns:
        Factor on the cameras' rates, below that at which one exceeds the highest rate that a
        stream may expect; 0 if they do not fit at a hundredth of theirs.
    """
    highest = options_of(StreamConfig)["expected_rate"].maximum or math.inf
    limit = highest / max(camera.rate for camera in config.cameras)

    def fits(factor: float) -> bool:
        return factor <= limit and _fits(config.with_rates(factor), policy)

    low, high = (1.0, 2.0) if fits(1.0) else (0.5, 1.0)
    while low < 1.0 and not fits(low):
        low, high = low / 2.0, low
        if low < 0.01:
            return 0.0
    while low >= 1.0 and fits(high):
        low, high = high, high * 2.0
    while high - low > RATE_TOLERANCE * low:
        middle = 0.5 * (low + high)
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def policies_of(config: PlanConfig, wanted: Sequence[str] = ()) -> list[str]:
    """Return the policies to compare: those wanted, or all that make sense for a plan."""
    if wanted:
        return list(wanted)
    first = BY_HAND if config.has_placement_by_hand else "static"
    return [first, "balanced", "dynamic"]
