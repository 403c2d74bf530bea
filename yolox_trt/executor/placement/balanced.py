# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""BalancedPlacement: the placement with the least highest load, exactly."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np

from yolox_trt.core.device import Device
from yolox_trt.core.errors import DeviceError
from yolox_trt.core.optional import require
from yolox_trt.executor.placement.greedy import place_greedily
from yolox_trt.executor.placement.problem import PlacementProblem, StreamDemand

#: Loads that differ by less count as equal; the solver's own tolerance is 1e-6.
LOAD_TOLERANCE = 1e-5
#: Rates are told apart in steps of 1 %: cameras of one rate are never measured quite alike.
RATE_STEP = 0.01
#: Seconds for each objective, after which the best placement found so far is taken. Eight streams
#: with eight different rates take 0.1 s, sixteen 2 s; streams of one rate take milliseconds.
TIME_LIMIT = 2.0


class BalancedPlacement:
    """Minimises the highest device load by a mixed-integer linear program (HiGHS).

    The load of device d is the sum, over the streams placed on it, of rate x time(d), plus (for
    the GPU) rate x gpu_share of the frames that run on a DLA. Objectives, each among the optima
    of those before it:

    1. the fewest frames are dropped: where a load exceeds 1, the excess divided by the time of a
       frame; nothing to choose where every load can stay below 1;
    2. the highest load is least (up to `slack`);
    3. the load of the GPU is least: the GPU also preprocesses, and other nodes need it; a DLA
       does nothing else;
    4. the sum of all loads is least (power, memory traffic).

    A device that cannot meet a stream's deadline even when idle is left to other streams, unless
    frames would be dropped for that.

    Streams with equal demands (rates within RATE_STEP of each other) are counted, not told apart,
    so that the program stays small; who goes where among equals is chosen so that the fewest
    streams move.

    Args:
        slack: share by which the highest load may exceed its least value in favour of the
            objectives that follow (0.02 = 2 %): measured times are not more exact than that.
        hysteresis: when only measured rates and times have drifted, the running placement is
            kept unless the drops or the highest load fall by at least this share (0.05 = 5 %):
            noise in a measurement is not worth a move.

    Raises:
        MissingDependencyError: SciPy is not installed.
    """

    name = "balanced"
    per_frame = False
    replans = True

    def __init__(self, slack: float = 0.02, hysteresis: float = 0.05) -> None:
        self.slack = slack
        self.hysteresis = hysteresis
        # Imported here, not at the first placement: it takes a second, while frames would wait.
        require("scipy.optimize", purpose="the balanced placement")

    def place(self, problem: PlacementProblem) -> dict[str, Device]:
        """Return a device for each stream that any device can serve.

        Raises:
            DeviceError: the solver found no placement (it does not happen for finite demands).
        """
        streams = [s for s in problem.streams if s.times]
        if not streams:
            return {}
        current = {
            s.id: s.current for s in streams if s.current is not None and s.current in s.choices
        }
        best = self._solve(problem.in_time())
        if problem.drop_rate(best) > LOAD_TOLERANCE:
            best = self._solve(problem)
        if problem.drifted and len(current) == len(streams):
            keep = 1.0 - self.hysteresis
            drops_now, drops_best = problem.drop_rate(current), problem.drop_rate(best)
            highest_now = max(problem.loads(current).values())
            highest_best = max(problem.loads(best).values())
            if drops_best >= drops_now * keep - LOAD_TOLERANCE and (
                drops_now > LOAD_TOLERANCE or highest_best >= highest_now * keep - LOAD_TOLERANCE
            ):
                return current
        return best

    def _solve(self, problem: PlacementProblem) -> dict[str, Device]:
        streams = [s for s in problem.streams if s.times]
        classes: dict[Any, list[StreamDemand]] = defaultdict(list)
        for stream in streams:
            key = (
                round(math.log(max(stream.rate, 1e-3)) / math.log1p(RATE_STEP)),
                stream.choices,
                tuple(round(stream.times[d], 6) for d in stream.choices),
                tuple(round(stream.gpu_share.get(d, 0.0), 6) for d in stream.choices),
            )
            classes[key].append(stream)
        groups = list(classes.values())
        columns = [(g, d) for g, group in enumerate(groups) for d in group[0].choices]
        if len(columns) == len(groups):  # nothing to choose
            return place_greedily(problem)
        counts = _least_highest_load(problem, groups, columns, self.slack)
        return _deal(groups, columns, counts)


def _least_highest_load(
    problem: PlacementProblem,
    groups: list[list[StreamDemand]],
    columns: list[tuple[int, Device]],
    slack: float,
) -> list[int]:
    """Return how many streams of each group go to each device, in the order of `columns`."""
    optimize = require("scipy.optimize", purpose="the balanced placement")
    devices = problem.devices
    rows = {device: i for i, device in enumerate(devices)}
    # Variables: how many of each group on each device; the excess of each device; the highest load.
    excess = len(columns)
    highest = excess + len(devices)
    width = highest + 1
    load = np.zeros((len(devices), width))
    rates = [sum(s.rate for s in group) / len(group) for group in groups]
    for j, (g, device) in enumerate(columns):
        demand = groups[g][0]
        load[rows[device], j] += rates[g] * demand.times[device]
        share = demand.gpu_share.get(device, 0.0)
        if share and problem.gpu is not None and device != problem.gpu:
            load[rows[problem.gpu], j] += rates[g] * share
    all_placed = np.zeros((len(groups), width))
    for j, (g, _) in enumerate(columns):
        all_placed[g, j] = 1.0
    sizes = np.array([len(group) for group in groups], float)
    below_highest = load.copy()
    below_highest[:, highest] = -1.0
    within_time = load.copy()
    within_time[:, excess:highest] = -np.eye(len(devices))
    constraints = [
        optimize.LinearConstraint(all_placed, sizes, sizes),
        optimize.LinearConstraint(below_highest, -np.inf, 0.0),
        optimize.LinearConstraint(within_time, -np.inf, 1.0),
    ]
    upper = np.array([sizes[g] for g, _ in columns] + [np.inf] * (len(devices) + 1))
    integrality = np.array([1] * len(columns) + [0] * (len(devices) + 1))

    found: list[Any] = []

    def minimise(objective: Any, slack: float) -> None:
        """Minimise, then keep the objective within slack of its least value."""
        result = optimize.milp(
            objective,
            constraints=constraints,
            bounds=optimize.Bounds(np.zeros(width), upper),
            integrality=integrality,
            options={"mip_rel_gap": 0.0, "time_limit": TIME_LIMIT},
        )
        if result.x is not None:
            found.append(result.x)
        if not found:
            raise DeviceError(
                f"no placement of {len(groups)} groups of streams ({result.message})",
                expected="finite rates and times",
                fix="check the devices' times and the cameras' rates",
            )
        bound = float(objective @ found[-1]) * (1.0 + slack) + LOAD_TOLERANCE
        constraints.append(optimize.LinearConstraint(objective[None, :], -np.inf, bound))

    drops = np.zeros(width)
    shortest = [problem.shortest_time(device) for device in devices]
    drops[excess:highest] = [min(shortest) / time for time in shortest]  # of order 1, as loads are
    minimise(drops, 0.0)
    highest_load = np.zeros(width)
    highest_load[highest] = 1.0
    minimise(highest_load, slack)
    if problem.gpu is not None:
        minimise(load[rows[problem.gpu]], 0.0)
    minimise(load.sum(axis=0), 0.0)
    return [round(float(value)) for value in found[-1][:excess]]


def _deal(
    groups: list[list[StreamDemand]], columns: list[tuple[int, Device]], counts: list[int]
) -> dict[str, Device]:
    """Give each stream a device; streams that may stay where they are do."""
    left: list[dict[Device, int]] = [{} for _ in groups]
    for (g, device), count in zip(columns, counts, strict=True):
        left[g][device] = count
    placement: dict[str, Device] = {}
    for group, room in zip(groups, left, strict=True):
        for stream in group:
            if stream.current is not None and room.get(stream.current, 0) > 0:
                placement[stream.id] = stream.current
                room[stream.current] -= 1
        free = [device for device in sorted(room) for _ in range(room[device])]
        rest = [stream for stream in group if stream.id not in placement]
        placement.update({s.id: d for s, d in zip(rest, free, strict=True)})
    return placement
