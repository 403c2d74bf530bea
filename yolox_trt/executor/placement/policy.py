# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PlacementPolicy: the protocol of the three policies."""

from __future__ import annotations

from typing import Protocol

from yolox_trt.core.device import Device
from yolox_trt.executor.placement.problem import PlacementProblem


class PlacementPolicy(Protocol):
    """Gives each stream a device; DynamicPlacement places each frame as well.

    Attributes:
        name: "static", "balanced" or "dynamic".
        replans: whether `place` is asked again when rates or times change.
    """

    name: str
    replans: bool

    def place(self, problem: PlacementProblem) -> dict[str, Device]:
        """Return a device for each stream that any device can serve."""
        ...
