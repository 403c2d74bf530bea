# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DynamicPlacement: each frame on the device that will finish it first."""

from __future__ import annotations

from yolox_trt.core.device import Device
from yolox_trt.executor.placement.greedy import place_greedily
from yolox_trt.executor.placement.problem import PlacementProblem


class DynamicPlacement:
    """Earliest finish time, decided when a device becomes free.

    The Scheduler does the choosing (`Scheduler.next_batch`): it walks through the waiting frames
    in the order of service and gives each to the device where it would end first, counting what
    is running and what was given before it. A device stays idle for a frame that a faster, busy
    device would still finish earlier. A stream's next frame starts only when its last result is
    delivered, so its order is kept.
    """

    name = "dynamic"
    per_frame = True
    replans = False

    def place(self, problem: PlacementProblem) -> dict[str, Device]:
        """Return a starting point: where the streams are, and the least load for new ones."""
        fixed = {
            stream.id: stream.current
            for stream in problem.streams
            if stream.current is not None and stream.current in stream.times
        }
        return place_greedily(problem, fixed)
