# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""BalancedPlacement: the placement with the least highest load, exactly."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.contention import Contention, contended_loads
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
#: Placements that are all looked at where contention is known (0.1 s); of more, only neighbours of
#: good ones.
MOST_PLACEMENTS = 4000


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

    Where contention is known (PlacementProblem.contention), a load depends on the loads of the
    other devices, and the problem is no linear program any more. Then all placements are compared
    by the same objectives, up to MOST_PLACEMENTS of them (equal streams counted, so eight cameras
    of one rate on three devices have 45); of more, those that are found by single moves and swaps
    from the linear programs' answers without contention and with all of it.

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
        if problem.contention.none:
            counts = _least_highest_load(problem, groups, columns, self.slack)
        else:
            counts = _least_contended(problem, groups, columns, self.slack)
        return _deal(groups, columns, counts)


def _load_matrix(
    problem: PlacementProblem, groups: list[list[StreamDemand]], columns: list[tuple[int, Device]]
) -> npt.NDArray[np.float64]:
    """Return the load (devices, columns) that one stream of each column puts on each device."""
    load = np.zeros((len(problem.devices), len(columns)))
    for j, (g, device) in enumerate(columns):
        rate = sum(s.rate for s in groups[g]) / len(groups[g])
        for where, seconds in groups[g][0].seconds_on(device, problem.gpu).items():
            load[problem.devices.index(where), j] = rate * seconds
    return load


def _least_highest_load(
    problem: PlacementProblem,
    groups: list[list[StreamDemand]],
    columns: list[tuple[int, Device]],
    slack: float,
) -> list[int]:
    """Return how many streams of each group go to each device, in the order of `columns`."""
    optimize = require("scipy.optimize", purpose="the balanced placement")
    devices = problem.devices
    # Variables: how many of each group on each device; the excess of each device; the highest load.
    excess = len(columns)
    highest = excess + len(devices)
    width = highest + 1
    load = np.zeros((len(devices), width))
    load[:, :excess] = _load_matrix(problem, groups, columns)
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
        minimise(load[devices.index(problem.gpu)], 0.0)
    minimise(load.sum(axis=0), 0.0)
    return [round(float(value)) for value in found[-1][:excess]]


def _least_contended(
    problem: PlacementProblem,
    groups: list[list[StreamDemand]],
    columns: list[tuple[int, Device]],
    slack: float,
) -> list[int]:
    """Return what _least_highest_load returns, for loads that depend on one another."""
    devices, gpu = problem.devices, problem.gpu
    load = _load_matrix(problem, groups, columns)
    shortest = [problem.shortest_time(device) for device in devices]
    per_drop = [min(shortest) / time for time in shortest]
    known: dict[tuple[int, ...], tuple[float, float, float, float]] = {}

    def objectives(counts: tuple[int, ...]) -> tuple[float, float, float, float]:
        found = known.get(counts)
        if found is None:
            demand = dict(zip(devices, (load @ np.array(counts)).tolist(), strict=True))
            loads = contended_loads(demand, problem.contention)
            drops = sum(
                max(0.0, loads[device] - 1.0) * weight
                for device, weight in zip(devices, per_drop, strict=True)
            )
            found = known[counts] = (
                round(drops / LOAD_TOLERANCE) * LOAD_TOLERANCE,
                max(loads.values()),
                0.0 if gpu is None else demand[gpu],
                sum(demand.values()),
            )
        return found

    places = [[j for j, (g, _) in enumerate(columns) if g == i] for i in range(len(groups))]
    if (
        math.prod(
            math.comb(len(group) + len(where) - 1, len(where) - 1)
            for group, where in zip(groups, places, strict=True)
        )
        <= MOST_PLACEMENTS
    ):
        ways = [_ways(len(group), len(where)) for group, where in zip(groups, places, strict=True)]
        for choice in itertools.product(*ways):
            objectives(tuple(itertools.chain.from_iterable(choice)))
    else:
        alone = replace(problem, contention=Contention())
        factors = {d: problem.contention.slowdown(d, devices) for d in devices}
        worst = [
            [replace(s, times={d: t * factors[d] for d, t in s.times.items()}) for s in group]
            for group in groups
        ]
        for start in (
            _least_highest_load(alone, groups, columns, slack),
            _least_highest_load(alone, worst, columns, slack),
        ):
            best = tuple(start)
            while True:
                step = min(_neighbours(best, columns), key=objectives, default=best)
                if objectives(step) >= objectives(best):
                    break
                best = step
    candidates = list(known)
    for index, allowed in enumerate((0.0, slack, 0.0, 0.0)):
        least = min(known[counts][index] for counts in candidates)
        bound = least * (1.0 + allowed) + LOAD_TOLERANCE
        candidates = [counts for counts in candidates if known[counts][index] <= bound]
    return list(candidates[0])


def _ways(items: int, places: int) -> list[tuple[int, ...]]:
    """Return all ways to put equal items in so many places."""
    if places == 1:
        return [(items,)]
    return [
        (first, *rest) for first in range(items + 1) for rest in _ways(items - first, places - 1)
    ]


def _neighbours(
    counts: tuple[int, ...], columns: list[tuple[int, Device]]
) -> Iterator[tuple[int, ...]]:
    """Yield what one stream's move, or two streams' exchange of devices, makes of a placement."""
    moves = [
        (a, b)
        for a, b in itertools.permutations(range(len(columns)), 2)
        if columns[a][0] == columns[b][0] and counts[a] > 0
    ]

    def moved(*chosen: tuple[int, int]) -> tuple[int, ...]:
        changed = list(counts)
        for source, target in chosen:
            changed[source] -= 1
            changed[target] += 1
        return tuple(changed)

    for move in moves:
        yield moved(move)
    for first, second in itertools.combinations(moves, 2):
        there, back = columns[first[0]][1], columns[first[1]][1]
        if (columns[second[1]][1], columns[second[0]][1]) == (there, back):
            yield moved(first, second)


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
