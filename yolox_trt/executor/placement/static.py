# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""StaticPlacement: each stream on the device that its configuration names."""

from __future__ import annotations

from yolox_trt.core.device import Device
from yolox_trt.executor.placement.greedy import place_greedily
from yolox_trt.executor.placement.problem import PlacementProblem


class StaticPlacement:
    """The camera's parameter `device` decides.

    A stream with device "auto" is placed once, where the load is least, and stays there. A
    stream whose device is out of service moves to the least loaded one that may serve it, and
    returns when its device does.
    """

    name = "static"
    replans = False

    def place(self, problem: PlacementProblem) -> dict[str, Device]:
        """Return a device for each stream that any device can serve."""
        fixed = {}
        for stream in problem.streams:
            if stream.pinned is not None and stream.pinned in stream.times:
                fixed[stream.id] = stream.pinned
            elif stream.current is not None and stream.current in stream.times:
                fixed[stream.id] = stream.current
        return place_greedily(problem, fixed)
