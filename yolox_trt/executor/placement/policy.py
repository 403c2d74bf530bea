# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PlacementPolicy: the protocol of the policies, and what those add that place each frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from yolox_trt.core.contention import Contention
from yolox_trt.core.device import Device
from yolox_trt.executor.device_state import DeviceState
from yolox_trt.executor.placement.problem import PlacementProblem
from yolox_trt.executor.stream import Stream


class PlacementPolicy(Protocol):
    """Gives each stream a device.

    Attributes:
        name: "static", "balanced" or "dynamic".
        replans: whether `place` is asked again when rates or times change.
    """

    name: str
    replans: bool

    def place(self, problem: PlacementProblem) -> dict[str, Device]:
        """Return a device for each stream that any device can serve."""
        ...


@runtime_checkable
class FramePolicy(PlacementPolicy, Protocol):
    """Places each frame when a device becomes free; `place` only gives the starting point."""

    def frames_for(
        self,
        state: DeviceState,
        ready: Sequence[Stream],
        devices: Mapping[Device, DeviceState],
        contention: Contention,
        now: float,
    ) -> list[Stream]:
        """Return the streams whose waiting frame a device should take, in the order of service.

        Args:
            state: the device that asks.
            ready: streams with a waiting frame, in the order of service.
            devices: all devices.
            contention: how they slow one another down.
            now: the present, in seconds.
        """
        ...

    def devices_for(
        self,
        stream: Stream,
        streams: Mapping[str, Stream],
        devices: Mapping[Device, DeviceState],
        contention: Contention,
        now: float,
    ) -> list[DeviceState]:
        """Return the devices that must ask for work because a stream's frame waits.

        Args:
            stream: the stream; no frame of it is being worked on.
            streams: all streams.
            devices: all devices.
            contention: how they slow one another down.
            now: the present, in seconds.
        """
        ...
