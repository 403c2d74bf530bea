# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PlacementProblem: the streams' demands and the devices' speeds; PlacementPolicy solves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from yolox_trt.core.contention import Contention, contended_loads
from yolox_trt.core.device import Device


@dataclass(frozen=True)
class StreamDemand:
    """What one stream asks of the devices.

    Attributes:
        id: the stream.
        rate: frames a second.
        times: device that may serve it -> seconds of that device for one frame.
        current: the device that serves it now, None if none.
        pinned: the device that its configuration names, None for "auto".
        deadline: seconds, 0 = none.
    """

    id: str
    rate: float
    times: Mapping[Device, float]
    current: Device | None = None
    pinned: Device | None = None
    deadline: float = 0.0

    @property
    def choices(self) -> tuple[Device, ...]:
        """Devices to choose from: the pinned one if it may serve the stream, else all that may."""
        if self.pinned is not None and self.pinned in self.times:
            return (self.pinned,)
        return tuple(sorted(self.times))


@dataclass(frozen=True)
class PlacementProblem:
    """All demands at one moment.

    Attributes:
        streams: the demands; a stream without `times` cannot be placed and is left out.
        devices: devices in service, sorted.
        gpu: the device that bears `gpu_share`, None without a GPU.
        drifted: whether only measured rates and times changed since the last placement; then a
            policy may keep a placement that is nearly as good.
        contention: how the devices slow one another down, as far as that is known; `times` are
            those of a device that works alone then.
        gpu_share: device -> seconds of the GPU for one frame that runs on that device
            (preprocessing and format conversion of a DLA's frames); missing means 0.
    """

    streams: tuple[StreamDemand, ...]
    devices: tuple[Device, ...]
    gpu: Device | None = None
    drifted: bool = False
    contention: Contention = field(default_factory=Contention)
    gpu_share: Mapping[Device, float] = field(default_factory=dict)

    def in_time(self) -> PlacementProblem:
        """Return the problem without devices that miss a stream's deadline even when idle.

        A stream that no device serves in time keeps all of them.
        """

        def restricted(stream: StreamDemand) -> StreamDemand:
            times = {d: t for d, t in stream.times.items() if t <= stream.deadline}
            return replace(stream, times=times) if stream.deadline and times else stream

        return replace(self, streams=tuple(restricted(s) for s in self.streams))

    def seconds_on(self, device: Device, stream: StreamDemand) -> dict[Device, float]:
        """Return the seconds that a frame placed on a device asks of it, and of the GPU."""
        seconds = {device: stream.times[device]}
        share = self.gpu_share.get(device, 0.0)
        if share and self.gpu is not None and self.gpu != device:
            seconds[self.gpu] = share
        return seconds

    def loads(self, placement: Mapping[str, Device]) -> dict[Device, float]:
        """Return each device's load, the share of time that it is busy (1.0 = always)."""
        return contended_loads(self.demand(placement), self.contention)

    def demand(self, placement: Mapping[str, Device]) -> dict[Device, float]:
        """Return each device's load as if no other device slowed it down."""
        loads = dict.fromkeys(self.devices, 0.0)
        for stream in self.streams:
            device = placement.get(stream.id)
            if device is not None and device in stream.times:
                for where, seconds in self.seconds_on(device, stream).items():
                    loads[where] += stream.rate * seconds
        return loads

    def drop_rate(self, placement: Mapping[str, Device]) -> float:
        """Return the frames a second that an overloaded placement must drop, at least about.

        A device that is asked for more than all its time loses the excess, in frames of the
        shortest time that a stream may ask of it.
        """
        return sum(
            max(0.0, load - 1.0) / self.shortest_time(device)
            for device, load in self.loads(placement).items()
            if load > 1.0
        )

    def shortest_time(self, device: Device) -> float:
        """Return the seconds of the shortest frame that a stream may ask of a device."""
        times = [s.times[device] for s in self.streams if device in s.choices]
        if not times and device == self.gpu:
            used = {d for s in self.streams for d in s.choices}
            times = [share for d, share in self.gpu_share.items() if d in used and share]
        return min(times, default=1.0)


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
