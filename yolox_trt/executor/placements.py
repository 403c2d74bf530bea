# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Placements: which device serves which stream, and when a policy is asked again."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from yolox_trt.core.contention import Contention
from yolox_trt.core.device import AUTO, Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import options_of
from yolox_trt.executor.device_state import DeviceState
from yolox_trt.executor.ledger import Ledger
from yolox_trt.executor.placement import PlacementProblem, StreamDemand
from yolox_trt.executor.placement.greedy import place_greedily
from yolox_trt.executor.snapshot import DeviceStatus
from yolox_trt.executor.stream import Stream
from yolox_trt.executor.stream_config import StreamConfig

_OF = options_of(StreamConfig)
#: Seconds between looks at drifted rates and times.
DRIFT_PERIOD = 1.0
#: Share by which one of them must have changed.
DRIFT = 0.2


class Placements:
    """Keeps Stream.devices and Stream.placed, and makes the problems that a policy solves.

    Args:
        streams: the streams by id, as the Scheduler keeps them.
        devices: the devices.
        ledger: where moves are entered.
        contention: how the devices slow one another down.
        gpu_share: DLA device -> seconds of the GPU for each of its frames; missing means 0.

    Attributes:
        needed: whether streams or devices have changed since a policy was asked.
        count: how often a policy has placed the streams.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        devices: Mapping[Device, DeviceState],
        ledger: Ledger,
        contention: Contention,
        gpu_share: Mapping[Device, float] | None,
    ) -> None:
        self.needed = False
        self.count = 0
        self._streams = streams
        self._devices = devices
        self._ledger = ledger
        self._contention = contention
        self._gpu_share = dict(gpu_share or {})
        self._gpu = next((d for d in devices if d.kind == "gpu"), None)
        self._planned_for: dict[tuple[object, str], float] = {}
        self._has_drifted = False

    def check(self, config: StreamConfig) -> None:
        """Refuse what no device, or no model, can do.

        Raises:
            ConfigurationError: no device has the stream's model (or its device).
        """
        models = {name: m for state in self._devices.values() for name, m in state.models.items()}
        if config.model in models:
            if models[config.model].num_classes:
                config.options.threshold_array(models[config.model].num_classes)
        elif not config.allow_model_change:
            what, fix = f"stream '{config.id}': model", "set `model`, or load it on a device"
            raise ConfigurationError.unknown(what, config.model, sorted(models), fix=fix)
        pinned = config.pinned_device
        if pinned is None:
            return
        if pinned not in self._devices:
            what = f"stream '{config.id}': device"
            remedy = ("set ", _OF["device"], ", or add a detector there")
            raise ConfigurationError.unknown(what, str(pinned), [AUTO, *self._devices], fix=remedy)
        if config.model not in self._devices[pinned].models and not config.allow_model_change:
            raise ConfigurationError(
                f"device '{pinned}' of stream '{config.id}' without the model '{config.model}'",
                expected=f"one of its models: {', '.join(sorted(self._devices[pinned].models))}",
                fix=("set ", _OF["device"], " or `model`, or set ", _OF["allow_model_change"]),
            )

    def refresh(self, stream: Stream) -> None:
        """Find the devices that may serve a stream now."""
        config = stream.config
        coming = (DeviceStatus.IN_SERVICE, DeviceStatus.STARTING)
        same = [s for s in self._devices.values() if config.model in s.models]
        able = {s: s.models[config.model] for s in same if s.status is DeviceStatus.IN_SERVICE}
        stream.served = any(s.status in coming for s in same)
        if config.allow_model_change and not stream.served:
            for state in self._devices.values():
                if state.status is DeviceStatus.IN_SERVICE and state.models:
                    able[state] = min(state.models.values(), key=lambda model: model.time)
            stream.served = any(s.status in coming and s.models for s in self._devices.values())
        pinned = self._devices.get(config.pinned_device) if config.pinned_device else None
        stream.devices = {pinned: able[pinned]} if pinned is not None and pinned in able else able

    def put(self, stream: Stream, state: DeviceState | None) -> None:
        """Place a stream without counting that as a move."""
        if stream.placed is not None and stream in stream.placed.placed:
            stream.placed.placed.remove(stream)
        stream.placed = state
        if state is not None:
            state.placed.append(stream)

    def move(self, stream: Stream, state: DeviceState, reason: str, now: float) -> None:
        """Place a stream elsewhere, for a reason that is logged."""
        source = stream.placed
        if self._count_move(stream, state, reason) and source is not None:
            name = stream.config.id
            self._ledger.happened(
                now,
                f"stream {name} moves {stream.last_move}",
                level=logging.WARNING,
                device=state.name,
                mark=f"{name} from {source.name}: {reason}",
            )

    def follow_frame(self, stream: Stream, state: DeviceState, now: float) -> None:
        """Place a stream where its frame has gone; only the first of these moves is logged."""
        first = not stream.last_move
        if self._count_move(stream, state, "free earlier (dynamic placement)") and first:
            text = (
                f"stream {stream.config.id} runs where its frame ends first; further moves are "
                "counted, not logged"
            )
            self._ledger.happened(now, text, level=logging.INFO)

    def _count_move(self, stream: Stream, state: DeviceState, reason: str) -> bool:
        """Place a stream; return whether that counts as a move."""
        source = stream.placed
        self.put(stream, state)
        if source is None or not stream.placed_by_policy:
            return False
        stream.moves += 1
        stream.last_move = f"{source.name} -> {state.name}: {reason}"
        return True

    def place_missing(self, reason: str, now: float) -> None:
        """Give every stream that stands nowhere a device at once; a policy may better it."""
        lost = [s for s in self._streams.values() if s.devices and s.placed not in s.devices]
        if not lost:
            return
        fixed = {
            s.config.id: s.placed.device
            for s in self._streams.values()
            if s.placed is not None and s.placed in s.devices
        }
        placement = place_greedily(self.problem(now), fixed)
        for stream in lost:
            device = placement.get(stream.config.id)
            if device is None:  # disabled streams have no demand
                device = min(state.device for state in stream.devices)
            self.move(stream, self._devices[device], reason, now)

    def problem(self, now: float, *, drifted: bool = False) -> PlacementProblem:
        """Return demands and speeds as they are now, for a policy."""
        demands = [
            StreamDemand(
                id=stream.config.id,
                rate=stream.rate(now),
                times={state.device: model.alone for state, model in stream.devices.items()},
                current=(
                    stream.placed.device
                    if stream.placed is not None and stream.placed_by_policy
                    else None
                ),
                pinned=stream.config.pinned_device,
                deadline=stream.config.deadline,
            )
            for stream in self._streams.values()
            if stream.config.enabled and stream.devices
        ]
        in_service = tuple(
            d for d, s in self._devices.items() if s.status is DeviceStatus.IN_SERVICE
        )
        gpu = self._gpu if self._gpu in in_service else None
        return PlacementProblem(
            tuple(demands), in_service, gpu, drifted, self._contention, self._gpu_share
        )

    def drifted(self, now: float) -> bool:
        """Tell whether a rate or a time has changed by more than DRIFT since the plan.

        Only the second time in a row counts: one late frame is no change of a camera's rate.
        """
        before = self._has_drifted
        self._has_drifted = any(
            abs(value - self._planned_for.get(key, math.inf)) > DRIFT * max(value, 1e-9)
            for key, value in self._figures(now).items()
        )
        return before and self._has_drifted

    def _figures(self, now: float) -> dict[tuple[object, str], float]:
        """Return the rates of enabled streams, and the times of what devices in service run."""
        figures: dict[tuple[object, str], float] = {}
        for stream in self._streams.values():
            if stream.config.enabled:
                figures[stream, "rate"] = stream.rate(now)
        for state in self._devices.values():
            if state.status is DeviceStatus.IN_SERVICE:
                figures.update({(state, name): m.alone for name, m in state.models.items()})
        return figures

    def note_planned(self, now: float) -> None:
        """Remember the demands that a placement is being made for (see `drifted`)."""
        self._planned_for = self._figures(now)
        self._has_drifted = False
        self.needed = False

    def apply(self, placement: Mapping[str, Device], reason: str, now: float) -> None:
        """Put streams where a policy wants them, but those that have changed since it was asked."""
        self.count += 1
        for stream_id, device in placement.items():
            stream = self._streams.get(stream_id)
            state = self._devices.get(device)
            if stream is None or state is None or state not in stream.devices:
                continue
            if not stream.placed_by_policy:
                stream.placed_by_policy = True
                self.put(stream, state)
            elif stream.placed is not state:
                self.move(stream, state, reason, now)
