# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Greedy placement: a substitute at once, and the order in which free choices are made."""

from __future__ import annotations

from collections.abc import Mapping

from yolox_trt.core.device import Device
from yolox_trt.executor.placement.problem import PlacementProblem


def place_greedily(
    problem: PlacementProblem, fixed: Mapping[str, Device] | None = None
) -> dict[str, Device]:
    """Place the streams that are not in `fixed` one by one where the load ends up least.

    The stream with the greatest demand goes first (longest processing time first, Graham 1969).
    It takes microseconds, not milliseconds: used when a device has just died.

    Args:
        problem: demands and devices.
        fixed: streams that stay where they are.

    Returns:
        A device for each stream that has a choice.
    """
    placement = dict(fixed or {})
    loads = problem.demand(placement)  # contention is the policy's affair
    rest = [s for s in problem.streams if s.id not in placement and s.times]
    rest.sort(key=lambda s: (-s.rate * min(s.times[d] for d in s.choices), s.id))
    for stream in rest:
        best = min(stream.choices, key=lambda d: (loads[d] + stream.rate * stream.times[d], d))
        placement[stream.id] = best
        for where, seconds in problem.seconds_on(best, stream).items():
            loads[where] += stream.rate * seconds
    return placement
