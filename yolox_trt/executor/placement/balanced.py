# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""BalancedPlacement: the placement with the least highest load, exactly."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.contention import contended_loads
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
        search = _Search(problem, self.slack)
        if len(search.columns) == len(search.groups):  # nothing to choose
            return place_greedily(problem)
        if problem.contention.none:
            return search.deal(search.least_highest_load(search.load))
        return search.deal(search.least_contended())


class _Search:
    """The search for how many streams of each group go to each device.

    Args:
        problem: demands and speeds.
        slack: as of BalancedPlacement.

    Attributes:
        groups: streams with equal demands.
        columns: (index of a group, one of its devices): what is counted. `counts` elsewhere has
            the number of the group's streams on that device, in the order of the columns.
        load: what one stream of each column puts on each device, float64 (devices, columns).
        per_drop: for each device, how many frames are dropped for the excess of its load, to scale:
            of order 1, as loads are.
    """

    def __init__(self, problem: PlacementProblem, slack: float) -> None:
        self._problem = problem
        self._slack = slack
        classes: dict[Any, list[StreamDemand]] = defaultdict(list)
        for stream in problem.streams:
            key = (
                round(math.log(max(stream.rate, 1e-3)) / math.log1p(RATE_STEP)),
                stream.choices,
                tuple(round(stream.times[d], 6) for d in stream.choices),
            )
            if stream.times:
                classes[key].append(stream)
        self.groups = list(classes.values())
        self.columns = [(g, d) for g, group in enumerate(self.groups) for d in group[0].choices]
        self.load = np.zeros((len(problem.devices), len(self.columns)))
        for j, (g, device) in enumerate(self.columns):
            rate = sum(s.rate for s in self.groups[g]) / len(self.groups[g])
            for where, seconds in problem.seconds_on(device, self.groups[g][0]).items():
                self.load[problem.devices.index(where), j] = rate * seconds
        shortest = np.array([problem.shortest_time(device) for device in problem.devices])
        self.per_drop = shortest.min(initial=math.inf) / shortest

    def least_highest_load(self, load: npt.NDArray[np.float64]) -> list[int]:
        """Return the counts with the least highest load, for loads that are sums of `load`."""
        optimize = require("scipy.optimize", purpose="the balanced placement")
        devices = len(load)
        # Variables: the counts; the excess of each device; the highest load.
        excess = len(self.columns)
        highest = excess + devices
        width = highest + 1
        load = np.pad(load, ((0, 0), (0, devices + 1)))
        all_placed = np.zeros((len(self.groups), width))
        for j, (g, _) in enumerate(self.columns):
            all_placed[g, j] = 1.0
        sizes = np.array([len(group) for group in self.groups], float)
        below_highest = load.copy()
        below_highest[:, highest] = -1.0
        within_time = load.copy()
        within_time[:, excess:highest] = -np.eye(devices)
        constraints = [
            optimize.LinearConstraint(all_placed, sizes, sizes),
            optimize.LinearConstraint(below_highest, -np.inf, 0.0),
            optimize.LinearConstraint(within_time, -np.inf, 1.0),
        ]
        upper = np.array([sizes[g] for g, _ in self.columns] + [np.inf] * (devices + 1))
        found: list[Any] = []

        def minimise(objective: Any, slack: float = 0.0) -> None:
            """Minimise, then keep the objective within slack of its least value."""
            result = optimize.milp(
                objective,
                constraints=constraints,
                bounds=optimize.Bounds(np.zeros(width), upper),
                integrality=np.arange(width) < excess,
                options={"mip_rel_gap": 0.0, "time_limit": TIME_LIMIT},
            )
            if result.x is not None:
                found.append(result.x)
            if not found:
                raise DeviceError(
                    f"no placement of {len(self.groups)} groups of streams ({result.message})",
                    expected="finite rates and times",
                    fix="check the devices' times and the cameras' rates",
                )
            bound = float(objective @ found[-1]) * (1.0 + slack) + LOAD_TOLERANCE
            constraints.append(optimize.LinearConstraint(objective[None, :], -np.inf, bound))

        drops = np.zeros(width)
        drops[excess:highest] = self.per_drop
        minimise(drops)
        minimise(np.arange(width) == highest, self._slack)
        if self._problem.gpu is not None:
            minimise(load[self._problem.devices.index(self._problem.gpu)])
        minimise(load.sum(axis=0))
        return [round(float(value)) for value in found[-1][:excess]]

    def least_contended(self) -> tuple[int, ...]:
        """Return what `least_highest_load` would, for loads that depend on one another."""
        devices, gpu, contention = (
            self._problem.devices,
            self._problem.gpu,
            self._problem.contention,
        )
        known: dict[tuple[int, ...], tuple[float, float, float, float]] = {}

        def objectives(counts: tuple[int, ...]) -> tuple[float, float, float, float]:
            if counts not in known:
                demand = dict(zip(devices, (self.load @ np.array(counts)).tolist(), strict=True))
                loads = contended_loads(demand, contention)
                drops = sum(
                    max(0.0, loads[device] - 1.0) * weight
                    for device, weight in zip(devices, self.per_drop, strict=True)
                )
                known[counts] = (
                    round(drops / LOAD_TOLERANCE) * LOAD_TOLERANCE,
                    max(loads.values()),
                    0.0 if gpu is None else demand[gpu],
                    sum(demand.values()),
                )
            return known[counts]

        sizes = [(len(group), len(group[0].choices)) for group in self.groups]
        if math.prod(math.comb(n + m - 1, m - 1) for n, m in sizes) <= MOST_PLACEMENTS:
            for choice in itertools.product(*(_ways(*size) for size in sizes)):
                objectives(tuple(itertools.chain.from_iterable(choice)))
        else:
            worst = [[contention.slowdown(device, devices)] for device in devices]
            for load in (self.load, self.load * worst):
                step, best = tuple(self.least_highest_load(load)), None
                while best is None or objectives(step) < objectives(best):
                    best = step
                    step = min(self._neighbours(best), key=objectives, default=best)
        candidates = list(known)
        for index, allowed in enumerate((0.0, self._slack, 0.0, 0.0)):
            least = min(known[counts][index] for counts in candidates)
            bound = least * (1.0 + allowed) + LOAD_TOLERANCE
            candidates = [counts for counts in candidates if known[counts][index] <= bound]
        return candidates[0]

    def _neighbours(self, counts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Yield what one stream's move, or two streams' exchange of devices, makes of counts."""
        moves = [
            (a, b)
            for a, b in itertools.permutations(range(len(counts)), 2)
            if self.columns[a][0] == self.columns[b][0] and counts[a] > 0
        ]
        devices = [device for _, device in self.columns]
        exchanges = [
            ((a, b), (c, d))
            for (a, b), (c, d) in itertools.combinations(moves, 2)
            if (devices[a], devices[b]) == (devices[d], devices[c])
        ]
        for chosen in [*((move,) for move in moves), *exchanges]:
            changed = list(counts)
            for source, target in chosen:
                changed[source] -= 1
                changed[target] += 1
            yield tuple(changed)

    def deal(self, counts: Sequence[int]) -> dict[str, Device]:
        """Give each stream a device; streams that may stay where they are do."""
        placement: dict[str, Device] = {}
        for g, group in enumerate(self.groups):
            free = [
                device
                for (owner, device), count in zip(self.columns, counts, strict=True)
                for _ in range(count)
                if owner == g
            ]
            for stream in group:
                if stream.current in free:
                    free.remove(stream.current)
                    placement[stream.id] = stream.current
            rest = [stream for stream in group if stream.id not in placement]
            placement.update({s.id: d for s, d in zip(rest, free, strict=True)})
        return placement


def _ways(items: int, places: int) -> list[tuple[int, ...]]:
    """Return all ways to put equal items in so many places."""
    if places == 1:
        return [(items,)]
    return [
        (first, *rest) for first in range(items + 1) for rest in _ways(items - first, places - 1)
    ]
