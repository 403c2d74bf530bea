# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PlacementPolicy: the protocol of the three policies."""

from __future__ import annotations

from typing import Protocol

from yolox_trt.core.device import Device
from yolox_trt.executor.placement.problem import PlacementProblem


class PlacementPolicy(Protocol):
    """Gives each stream a device.

    Attributes:
        name: "static", "balanced" or "dynamic".
        per_frame: whether each frame is placed when a device becomes free; `place` then only
            gives the starting point.
        replans: whether `place` is asked again when rates or times change.
    """

    name: str
    per_frame: bool
    replans: bool

    def place(self, problem: PlacementProblem) -> dict[str, Device]:
        """Return a device for each stream that any device can serve."""
        ...
