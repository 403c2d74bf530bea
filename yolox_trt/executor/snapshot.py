# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Snapshots: the executor's counters and states at one moment, for diagnostics and tests."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from yolox_trt.core.device import Device
from yolox_trt.executor.outcomes import DropReason

_Snapshot = TypeVar("_Snapshot")


class ExecutorState(enum.Enum):
    """Health of the whole executor."""

    STOPPED = "stopped"
    """Not started."""
    STARTING = "starting"
    """Detectors are warming up; frames wait in their queues."""
    RUNNING = "running"
    """Every device is in service."""
    DEGRADED = "degraded"
    """A device is out of service; every enabled stream still has one that serves it."""
    ERROR = "error"
    """An enabled stream has no device left."""


class DeviceStatus(enum.Enum):
    """State of one device."""

    STARTING = "starting"
    """Warming up for the first time."""
    IN_SERVICE = "in_service"
    """Takes frames."""
    OUT_OF_SERVICE = "out_of_service"
    """Failed; waits for its next restart."""
    RESTARTING = "restarting"
    """Rebuilds or probes its detectors."""
    LOST = "lost"
    """Hangs, and nothing can replace it until the hung call returns."""
    BROKEN = "broken"
    """The process's CUDA context is broken: only a restart of the process brings it back."""


def state_of(statuses: Collection[DeviceStatus], *, all_served: bool) -> ExecutorState:
    """Return the health of an executor that runs.

    Args:
        statuses: those of its devices.
        all_served: whether each enabled stream has a device.
    """
    if not all_served:
        return ExecutorState.ERROR
    if DeviceStatus.STARTING in statuses:
        return ExecutorState.STARTING
    if set(statuses) == {DeviceStatus.IN_SERVICE}:
        return ExecutorState.RUNNING
    working = DeviceStatus.IN_SERVICE in statuses
    return ExecutorState.DEGRADED if working else ExecutorState.ERROR


def snapshot_of(cls: type[_Snapshot], state: object, **rest: Any) -> _Snapshot:
    """Return a snapshot whose fields are the state's attributes, but for those given."""
    names = [f.name for f in fields(cls) if f.name not in rest]  # type: ignore[arg-type]
    return cls(**{name: getattr(state, name) for name in names}, **rest)


@dataclass(frozen=True, slots=True)
class StreamSnapshot:
    """Counters of one stream since it was added.

    received = processed + sum(dropped) + in_flight holds in every snapshot.

    Attributes:
        id: name of the stream.
        model: the model that it asks for.
        enabled: whether it accepts frames.
        priority: its priority.
        device: where it is placed (with the dynamic policy: where its last frame ran), or None.
        served: whether a device in service may serve it.
        received: frames submitted.
        processed: frames with a result.
        dropped: frames lost, by reason (all reasons present).
        in_flight: frames waiting or being worked on.
        waiting: frames in the queue.
        queue_age: age of the oldest waiting frame, in seconds, 0 if none.
        received_rate: frames a second that arrive, over the last arrivals.
        processed_rate: results a second.
        latency_p50: median seconds from arrival to result over the last 1000 results, NaN if none.
        latency_p99: 99th percentile, likewise.
        latency_max: highest of them, likewise.
        deadline_missed: results after their deadline.
        late: results that were older than `stale_after`, those that were withheld included.
        moves: how often its device changed.
        last_move: why it changed last, "" if never.
        callback_errors: exceptions raised by on_result and on_drop.
        callback_hangs: callbacks that did not return in time (SchedulerOptions.callback_limit).
        callback_blocked: seconds for which such a callback has not returned, 0 if none.
    """

    id: str
    model: str
    enabled: bool
    priority: int
    device: Device | None
    served: bool
    received: int
    processed: int
    dropped: Mapping[DropReason, int]
    in_flight: int
    waiting: int
    queue_age: float
    received_rate: float
    processed_rate: float
    latency_p50: float
    latency_p99: float
    latency_max: float
    deadline_missed: int
    late: int
    moves: int
    last_move: str
    callback_errors: int
    callback_hangs: int
    callback_blocked: float

    @property
    def dropped_total(self) -> int:
        """Frames lost for any reason."""
        return sum(self.dropped.values())

    @property
    def refused(self) -> int:
        """Frames beyond the stream's `max_rate`: not served because that was asked for."""
        return self.dropped[DropReason.RATE]

    @property
    def lost(self) -> int:
        """Frames dropped for any other reason."""
        return self.dropped_total - self.refused


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """State of one device.

    Attributes:
        device: which.
        status: whether it takes frames.
        models: model name -> seconds for one frame (moving average, or as configured).
        warm_up: model name -> seconds for one frame at the warm-up (or as configured).
        slow: models that take SchedulerOptions.slow_factor times as long as at the warm-up.
        implausible: model name -> what is implausible in its results, "" if nothing is.
        batch_limits: model name -> most frames of one call (less than the detector's own after
            an out-of-memory error).
        streams: streams placed on it (dynamic: streams whose last frame ran there).
        load: share of the last 5 seconds that it was busy, 0 to 1.
        frames: frames finished.
        batches: detect() calls finished.
        errors: failures (raised, NaN, hung) since the start.
        hangs: those of them that hung.
        out_of_memory: out-of-memory errors that shrank a batch.
        restarts: returns to service.
        late_results: results of abandoned calls, discarded.
        last_error: text of the last failure, "" if none.
        retry_in: seconds to the next restart, NaN if none is planned.
    """

    device: Device
    status: DeviceStatus
    models: Mapping[str, float]
    warm_up: Mapping[str, float]
    slow: tuple[str, ...]
    implausible: Mapping[str, str]
    batch_limits: Mapping[str, int]
    streams: tuple[str, ...]
    load: float
    frames: int
    batches: int
    errors: int
    hangs: int
    out_of_memory: int
    restarts: int
    late_results: int
    last_error: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class ExecutorSnapshot:
    """The executor at one moment.

    Attributes:
        time: seconds of the executor's clock.
        state: health of the whole.
        policy: name of the placement policy.
        streams: by stream id.
        devices: by Device.
        removed_received: frames received by streams that were removed since.
        removed_processed: results of those streams.
        removed_dropped: frames that those streams lost.
        unknown_stream: frames refused because no stream had their id.
        placements: how often the policy placed the streams anew.
    """

    time: float
    state: ExecutorState
    policy: str
    streams: Mapping[str, StreamSnapshot]
    devices: Mapping[Device, DeviceSnapshot]
    removed_received: int
    removed_processed: int
    removed_dropped: int
    unknown_stream: int
    placements: int
