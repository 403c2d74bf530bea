# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""StaticPlacement: each stream on the device that its configuration names."""

from __future__ import annotations

from yolox_trt.core.device import Device
from yolox_trt.executor.placement.greedy import place_greedily
from yolox_trt.executor.placement.problem import PlacementProblem


class StaticPlacement:
    """The camera's parameter `device` decides.

    A stream with device "auto" gets a home once, where the load is least. A stream whose device
    is out of service moves to the least loaded one that may serve it, and returns when its device
    does. The homes are chosen again when a device is in service that has never been before: one
    that failed at its start was not there to be chosen.
    """

    name = "static"
    replans = False

    def __init__(self) -> None:
        self._seen: set[Device] = set()
        self._homes: dict[str, Device] = {}

    def place(self, problem: PlacementProblem) -> dict[str, Device]:
        """Return a device for each stream that any device can serve."""
        if not self._seen.issuperset(problem.devices):
            self._seen.update(problem.devices)
            self._homes.clear()
        wanted = {s.id: s.pinned or self._homes.get(s.id) for s in problem.streams}
        fixed = {
            stream.id: device
            for stream in problem.streams
            if (device := wanted[stream.id]) is not None and device in stream.times
        }
        placement = place_greedily(problem, fixed)
        self._homes = {**placement, **self._homes}
        return placement
