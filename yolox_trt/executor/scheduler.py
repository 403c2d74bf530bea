# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Scheduler: which frame runs next on which device. No threads and no clock of its own."""

from __future__ import annotations

import itertools
import logging
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from yolox_trt.core.contention import Contention, finish_times
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.frame import Frame
from yolox_trt.detectors.detector import StageTimes
from yolox_trt.executor.device_state import Batch, DeviceState, ModelServer
from yolox_trt.executor.outcomes import DropReason, SubmitOutcome
from yolox_trt.executor.placement import PlacementPolicy, PlacementProblem, StreamDemand
from yolox_trt.executor.placement.greedy import place_greedily
from yolox_trt.executor.scheduler_options import SchedulerOptions
from yolox_trt.executor.snapshot import (
    DeviceStatus,
    ExecutorSnapshot,
    ExecutorState,
)
from yolox_trt.executor.stream import DropCallback, PendingFrame, ResultCallback, Stream
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.executor.timeline import Timeline

#: Seconds for one frame that are assumed before a detector has been timed.
ASSUMED_TIME = 0.010
#: Seconds by which a frame is not called late: rounding.
_ROUNDING = 1e-9
#: What is wrong after an error that CUDA keeps giving to every further call of a process.
BROKEN_CONTEXT = (
    "the CUDA context of this process is broken, and every call on it fails from now on; "
    "fix: restart the process"
)


class Scheduler:
    """Streams, devices and placement as a passive state machine.

    The InferenceExecutor drives it with threads and real time, the simulation with an event loop
    and virtual time: both run this code. Every method takes the present time; none blocks. Not
    thread safe.

    Order of service on a device: streams that have starved (`starvation_limit`), longest first;
    then by priority; within a priority by weighted round robin (each round serves a stream at
    most `weight` times), and within a round by deadline (earliest first), then least recently
    served. So a waiting stream is passed over by another of its priority at most twice its
    weight in times.

    Args:
        devices: for each Device, its models.
        policy: the placement policy.
        options: knobs.
        timeline: where spans are recorded, None for nowhere.
        gpu_share: DLA device -> seconds of the GPU for each of its frames, as the planner
            reckons with; missing means 0.
        contention: how the devices slow one another down, if that is known: measured times are
            freed of it, and placements reckon with it. None: nothing is known; it is part of the
            measured times.
    """

    def __init__(
        self,
        devices: Mapping[Device, Mapping[str, ModelServer]],
        policy: PlacementPolicy,
        options: SchedulerOptions | None = None,
        *,
        timeline: Timeline | None = None,
        gpu_share: Mapping[Device, float] | None = None,
        contention: Contention | None = None,
    ) -> None:
        self.options = options or SchedulerOptions()
        self.policy = policy
        self.timeline = timeline
        self.devices = {d: DeviceState(d, dict(devices[d])) for d in sorted(devices)}
        self.streams: dict[str, Stream] = {}
        self.accepting = False
        self.replan_needed = False
        self.placements = 0
        #: Accepted frames that were dropped, for on_drop; the owner takes and clears the list.
        self.drops: list[tuple[Stream, Frame, DropReason]] = []
        #: What happened to devices and placements, for the log; the owner takes and clears it.
        self.events: list[tuple[int, str]] = []
        self._gpu_share = dict(gpu_share or {})
        self._contention = contention or Contention()
        self._gpu = next((d for d in self.devices if d.kind == "gpu"), None)
        self._leaving: list[Stream] = []
        self._removed_received = 0
        self._removed_processed = 0
        self._removed_dropped = 0
        self._unknown_stream = 0
        self._services = 0
        self._planned_for: dict[str, float] = {}
        self._has_drifted = False

    # Streams ---------------------------------------------------------------------------------

    def add_stream(
        self,
        config: StreamConfig,
        on_result: ResultCallback,
        on_drop: DropCallback | None,
        now: float,
    ) -> None:
        """Add a stream and place it.

        Raises:
            ConfigurationError: the id is taken, or no device has its model (or its device).
        """
        if config.id in self.streams:
            raise ConfigurationError(
                f"a second stream with the id '{config.id}'",
                expected="unique ids",
                fix="rename the camera, or remove the first one",
            )
        self._check_servable(config)
        stream = Stream(config, on_result, on_drop)
        self.streams[config.id] = stream
        self._refresh(stream)
        self._place_missing(f"stream {config.id} added", now)
        self.replan_needed = True

    def remove_stream(self, stream_id: str, now: float) -> None:
        """Remove a stream; its waiting frames are dropped (stopped), a running one discarded.

        Raises:
            ConfigurationError: no stream has the id.
        """
        stream = self.stream(stream_id)
        del self.streams[stream_id]
        stream.removed = True
        while stream.queue:
            self._drop(stream, stream.queue.popleft(), DropReason.STOPPED, now)
        self._put(stream, None)
        self._leaving.append(stream)
        self._settle_leaving()
        self.replan_needed = True

    def update_stream(self, stream_id: str, changes: Mapping[str, Any], now: float) -> StreamConfig:
        """Change attributes of a stream's configuration and return the new one.

        Raises:
            ConfigurationError: no such stream or attribute, a bad value, or no device for it.
        """
        stream = self.stream(stream_id)
        if "id" in changes and changes["id"] != stream_id:
            raise ConfigurationError(
                f"a change of the id of stream '{stream_id}'",
                expected="an id that stays",
                fix="remove the stream and add it under the new id",
            )
        try:
            config = replace(stream.config, **changes)
        except TypeError as error:
            raise ConfigurationError(
                f"unknown attribute for stream '{stream_id}' ({error})",
                expected="attributes of StreamConfig",
                fix="correct the name",
            ) from None
        self._check_servable(config)
        old, stream.config = stream.config, config
        while len(stream.queue) > config.queue_depth:
            self._drop(stream, stream.queue.popleft(), DropReason.OVERFLOW, now)
        if old.enabled and not config.enabled:
            while stream.queue:
                self._drop(stream, stream.queue.popleft(), DropReason.DISABLED, now)
            stream.waiting_since = math.nan
        stream.credits = min(stream.credits, config.weight)
        placing = ("model", "device", "allow_model_change", "enabled", "max_rate", "expected_rate")
        if any(getattr(old, name) != getattr(config, name) for name in placing):
            self._refresh(stream)
            if stream.placed is not None and stream.placed not in stream.devices:
                self._put(stream, None)
            self._place_missing("configuration changed", now)
            self.replan_needed = True
        return config

    def stream(self, stream_id: str) -> Stream:
        """Return a stream.

        Raises:
            ConfigurationError: no stream has the id.
        """
        try:
            return self.streams[stream_id]
        except KeyError:
            raise ConfigurationError(
                f"stream '{stream_id}'",
                expected=f"one of {', '.join(sorted(self.streams)) or 'no stream at all'}",
                fix="add the stream first",
            ) from None

    def _check_servable(self, config: StreamConfig) -> None:
        models = sorted({name for state in self.devices.values() for name in state.servers})
        if config.model not in models and not config.allow_model_change:
            raise ConfigurationError(
                f"model '{config.model}' of stream '{config.id}'",
                expected=f"a model that is loaded: {', '.join(models)}",
                fix="set `model`, or load the model on a device",
            )
        pinned = config.pinned_device
        if pinned is None:
            return
        if pinned not in self.devices:
            raise ConfigurationError(
                f"device '{pinned}' of stream '{config.id}'",
                expected=f"auto or one of {', '.join(str(d) for d in self.devices)}",
                fix="set `device`, or configure a detector on that device",
            )
        if config.model not in self.devices[pinned].servers and not config.allow_model_change:
            raise ConfigurationError(
                f"device '{pinned}' of stream '{config.id}' without the model '{config.model}'",
                expected=f"one of its models: {', '.join(sorted(self.devices[pinned].servers))}",
                fix="set `device` or `model`, or set allow_model_change",
            )

    # Frames ----------------------------------------------------------------------------------

    def submit(self, stream_id: str, frame: Frame, received: float, now: float) -> SubmitOutcome:
        """Offer a frame to its stream.

        Args:
            stream_id: the stream.
            frame: the frame.
            received: time of arrival, in seconds.
            now: the present, in seconds.

        Returns:
            What became of it; `drops` may have grown.
        """
        stream = self.streams.get(stream_id)
        if stream is None:
            self._unknown_stream += 1
            return SubmitOutcome.UNKNOWN_STREAM
        stream.received += 1
        stream.arrivals.add(now)
        config = stream.config
        if not self.accepting:
            return self._refuse(stream, DropReason.STOPPED, SubmitOutcome.STOPPED, now)
        if not config.enabled:
            return self._refuse(stream, DropReason.DISABLED, SubmitOutcome.DISABLED, now)
        if not stream.served:
            return self._refuse(stream, DropReason.NO_DEVICE, SubmitOutcome.NO_DEVICE, now)
        if config.stale_after and now - received > config.stale_after:
            return self._refuse(stream, DropReason.STALE, SubmitOutcome.STALE, now)
        outcome = SubmitOutcome.ACCEPTED
        full = len(stream.queue) >= config.queue_depth
        if full and config.overflow == "drop_newest":
            return self._refuse(stream, DropReason.OVERFLOW, SubmitOutcome.QUEUE_FULL, now)
        if not stream.allow_rate(now):
            return self._refuse(stream, DropReason.RATE, SubmitOutcome.RATE_LIMITED, now)
        if full:
            self._drop(stream, stream.queue.popleft(), DropReason.OVERFLOW, now)
            outcome = SubmitOutcome.REPLACED_OLDEST
        deadline = received + config.deadline if config.deadline else math.inf
        stream.enqueue(PendingFrame(frame, received, now, deadline), replaces=full)
        return outcome

    def _refuse(
        self, stream: Stream, reason: DropReason, outcome: SubmitOutcome, now: float
    ) -> SubmitOutcome:
        stream.dropped[reason] += 1
        if self.timeline is not None:
            self.timeline.add_drop(now, stream.config.id, reason)
        return outcome

    def _drop(self, stream: Stream, pending: PendingFrame, reason: DropReason, now: float) -> None:
        stream.dropped[reason] += 1
        self.drops.append((stream, pending.frame, reason))
        if self.timeline is not None:
            self.timeline.add_drop(now, stream.config.id, reason)

    def drop_waiting(self, now: float) -> None:
        """Drop every waiting frame (stopped)."""
        for stream in self.streams.values():
            while stream.queue:
                self._drop(stream, stream.queue.popleft(), DropReason.STOPPED, now)
            stream.waiting_since = math.nan

    # Choice of the next batch ----------------------------------------------------------------

    def idle_devices(self, stream: Stream) -> list[DeviceState]:
        """Devices that should ask for work after a frame of the stream came in."""
        if stream.busy:
            return []
        if not self.policy.per_frame:
            state = self.devices.get(stream.placed) if stream.placed is not None else None
            return [state] if state is not None and state.has_room else []
        return [self.devices[device] for device in stream.devices if self.devices[device].has_room]

    def devices_to_ask(
        self, stream: Stream, now: float
    ) -> tuple[list[DeviceState], DeviceState | None]:
        """Return whom to wake for a stream's waiting frame, for who drives devices by threads.

        Where each frame goes to the device that ends it first, every idle device might be asked,
        and all but one would find nothing to do; to wake them costs more than to find out.

        Returns:
            The devices that should ask; and, if that is certain, the one of them that will take
            the frame as soon as it asks.
        """
        idle = self.idle_devices(stream)
        if not idle or not self.policy.per_frame:
            return idle, None
        if any(
            other.queue and not other.busy and other is not stream
            for other in self.streams.values()
        ):
            # This frame may take the other one's place, and send it to a device that sleeps.
            return [state for state in self.devices.values() if state.has_room], None
        if len(idle) == 1 or not self._contention.none:
            return idle, None
        fastest = min(idle, key=lambda s: s.servers[stream.devices[s.device]].time)
        # Else a device that is busy may end it sooner.
        return idle, fastest if self._finishing_first_on(fastest, [stream], now) else None

    def next_batch(self, device: Device, now: float) -> Batch | float | None:
        """Choose what a device runs next, and start it.

        A device is given its next call while it works on the last one, if its detector's calls
        may overlap and the model is the same.

        Returns:
            The started batch; or the time at which to ask again (a batch is gathering); or None
            if nothing is there for this device until something changes.
        """
        state = self.devices[device]
        if state.status is not DeviceStatus.IN_SERVICE or not state.has_room:
            return None
        ready = self._ready(None if self.policy.per_frame else state.placed, now)
        if not ready:
            return None
        if len(ready) > 1:
            ready.sort(key=lambda s: self._order(s, now))
        if self.policy.per_frame:
            ready = self._finishing_first_on(state, ready, now)
            if not ready:
                # A busy device should end them sooner. Should it hang, this one takes over.
                return now + min(server.time for server in state.servers.values())
        first = ready[0]
        server = state.servers[first.devices[device]]
        if state.running is not None and state.running.server is not server:
            return None  # another detector, whose calls would not wait for this one's
        chosen = [first]
        limit = self._batch_limit(state, server, now)
        if limit > 1:
            chosen = [s for s in ready if s.devices[device] == server.name][:limit]
            wait_until = first.gathering_since + self.options.batch_window
            if now < wait_until and len(chosen) < self._gatherable(state, server, limit):
                return wait_until
        self._spend_credits(ready, chosen)
        frames = [stream.take(now) for stream in chosen]
        watchdog = max(
            self.options.watchdog or math.inf,
            self.options.watchdog_factor * server.time * len(frames),
        )
        batch = Batch(device, server, chosen, frames, now, watchdog)
        state.take(batch, now)
        self._speeds_changed(now)
        for stream in chosen:
            if stream.placed is not device and stream.placed != device:
                self._move(stream, device, "free earlier (dynamic placement)", now)
        return batch

    def _ready(self, placed: list[Stream] | None, now: float) -> list[Stream]:
        ready = []
        for stream in self.streams.values() if placed is None else placed:
            if stream.busy or not stream.queue or not stream.devices:
                continue
            stale_after = stream.config.stale_after
            if stale_after:
                queue = stream.queue
                while queue and now - queue[0].received > stale_after:
                    self._drop(stream, queue.popleft(), DropReason.STALE, now)
                if not queue:
                    continue
            ready.append(stream)
        return ready

    def _order(self, stream: Stream, now: float) -> tuple[float, float, float, float, int]:
        waiting_since = stream.waiting_since
        if now - waiting_since > self.options.starvation_limit:
            return (0.0, waiting_since, 0.0, 0.0, 0)
        return (
            1.0,
            -stream.config.priority,
            stream.credits <= 0,
            stream.queue[0].deadline,
            stream.served_order,
        )

    def _speeds_changed(self, now: float) -> None:
        """A call has begun or ended: the others go on faster or slower from now on."""
        if self._contention.none:
            return
        running = {d: s.running for d, s in self.devices.items() if s.running is not None}
        for device, batch in running.items():
            batch.settle(now)
            batch.slowdown = self._contention.slowdown(device, running)

    def _finishing_first_on(
        self, state: DeviceState, ready: list[Stream], now: float
    ) -> list[Stream]:
        """Give each ready frame to the device that would end it first; return this device's."""
        mine = state.device
        free_at = {}
        for device, other in self.devices.items():
            if other.status is DeviceStatus.IN_SERVICE:
                under_way = other.under_way
                if not under_way:
                    free_at[device] = now
                    continue
                end = under_way[0].expected_end
                # A call that is overdue may hang: the longer it has been, the longer it may.
                end = end if end > now else now + (now - end)
                for queued in itertools.islice(under_way, 1, None):
                    end += queued.server.time * len(queued.frames)
                free_at[device] = end
        own: list[Stream] = []
        # For all devices only where it is asked for: devices are slow keys.
        given: dict[Device, list[Stream]] | None = None
        if not self._contention.none:
            given = {device: own if device == mine else [] for device in free_at}
        overtaken: Stream | None = None
        for stream in ready:
            best: Device | None = None
            best_end = math.inf
            for device, model in stream.devices.items():
                end = free_at[device] + self.devices[device].servers[model].time
                if end < best_end:
                    best, best_end = device, end
            if best is None:
                continue
            if given is not None:
                given[best].append(stream)
            elif best == mine:
                own.append(stream)
            if (
                overtaken is None
                and not own
                and mine in stream.devices
                and free_at[best] > stream.queue[0].submitted + 1.0 / stream.rate(now)
            ):
                # It could not begin there before its stream's next frame comes.
                overtaken = stream
            free_at[best] = best_end
        if overtaken is not None and not own:
            return [overtaken]  # better late than never: an overload leaves no device idle
        return own if given is None else self._in_time(given, now)[mine]

    def _in_time(self, given: dict[Device, list[Stream]], now: float) -> dict[Device, list[Stream]]:
        """Give frames to other devices if that is how none of them is late.

        A frame that ends first on one device may slow another one down meanwhile, beyond the
        deadline of what runs there: five frames for the GPU and three for two DLAs can be worse
        than four and four. It is looked for only where it may exist: under overload it would cost
        much and gain nothing.
        """
        streams = [stream for mine in given.values() for stream in mine]
        last = max((stream.queue[0].deadline for stream in streams), default=math.inf)
        if last == math.inf:
            return given
        queues: dict[Device, list[float]] = {}
        room = 0.0
        for device, mine in given.items():
            queue = queues[device] = []
            running = self.devices[device].running
            if running is not None:
                running.settle(now)
                left = running.server.alone * len(running.frames) - running.done
                queue.append(abs(left))  # overdue: as in _finishing_first_on
                if now + queue[0] > min(p.deadline for p in running.frames) + _ROUNDING:
                    return given  # late whatever is done
                queue += [
                    b.server.alone * len(b.frames)
                    for b in itertools.islice(self.devices[device].under_way, 1, None)
                ]
            fastest = min(server.alone for server in self.devices[device].servers.values())
            room += max(0.0, (last - now - sum(queue)) // fastest)
            queue += [self._seconds_alone(stream, device) for stream in mine]
        if room < len(streams) or not self._late(queues, given, now):
            return given
        for changed_queues, changed in self._alternatives(queues, given):
            if not self._late(changed_queues, changed, now):
                return changed
        return given

    def _seconds_alone(self, stream: Stream, device: Device) -> float:
        return self.devices[device].servers[stream.devices[device]].alone

    def _alternatives(
        self, queues: dict[Device, list[float]], given: dict[Device, list[Stream]]
    ) -> Iterator[tuple[dict[Device, list[float]], dict[Device, list[Stream]]]]:
        """Yield what comes of giving the last one or two frames of a device to others."""
        for source, streams in given.items():
            others = [device for device in given if device != source]
            for count in (1, 2):
                if len(streams) < count:
                    break
                moving = streams[-count:]
                for targets in itertools.product(others, repeat=count):
                    if any(t not in s.devices for t, s in zip(targets, moving, strict=True)):
                        continue
                    changed_queues = {**queues, source: queues[source][:-count]}
                    changed = {**given, source: streams[:-count]}
                    for target, stream in zip(targets, moving, strict=True):
                        seconds = self._seconds_alone(stream, target)
                        changed_queues[target] = [*changed_queues[target], seconds]
                        changed[target] = [*changed[target], stream]
                    yield changed_queues, changed

    def _late(
        self,
        queues: Mapping[Device, list[float]],
        given: Mapping[Device, list[Stream]],
        now: float,
    ) -> bool:
        """Tell whether a frame would end after its deadline."""
        for device, index, end in finish_times(queues, self._contention):
            under_way = self.devices[device].under_way
            if index < len(under_way):
                deadline = min(pending.deadline for pending in under_way[index].frames)
            else:
                deadline = given[device][index - len(under_way)].queue[0].deadline
            if now + end > deadline + _ROUNDING:
                return True
        return False

    def _batch_limit(self, state: DeviceState, server: ModelServer, now: float) -> int:
        if state.device.kind == "dla":
            return 1
        if (
            server.batch_limit < server.max_batch
            and now - server.limited_at > self.options.batch_recovery
        ):
            server.batch_limit = min(server.max_batch, server.batch_limit * 2)
            server.limited_at = now
            self.events.append(
                (
                    logging.INFO,
                    f"{state.device}: batch of {server.name} grows to {server.batch_limit} again",
                )
            )
        return server.batch_limit

    def _gatherable(self, state: DeviceState, server: ModelServer, limit: int) -> int:
        """Most frames that waiting could bring together on this device."""
        streams = self.streams.values() if self.policy.per_frame else state.placed
        count = sum(
            1
            for s in streams
            if not s.busy and s.config.enabled and s.devices.get(state.device) == server.name
        )
        return min(limit, count)

    def _spend_credits(self, ready: list[Stream], chosen: list[Stream]) -> None:
        for stream in chosen:
            if stream.credits <= 0:
                # Nobody of this priority who waits has a service left: a new round begins.
                priority = stream.config.priority
                for other in ready:
                    if other.config.priority == priority:
                        other.credits = other.config.weight
            stream.credits -= 1
            self._services += 1
            stream.served_order = self._services

    # End of a batch --------------------------------------------------------------------------

    def finish(
        self,
        batch: Batch,
        now: float,
        failures: Sequence[DropReason | None] | None = None,
        stages: StageTimes | None = None,
    ) -> bool:
        """Take in the end of a batch; `release` must follow when the results are delivered.

        Args:
            batch: what next_batch returned.
            now: the end, in seconds.
            failures: for each frame, why it gave no result, or None; None if all succeeded.
            stages: stage times for the timeline.

        Returns:
            False if the batch was given up before (a hung call that returned late, a device
            that was taken out of service): its results must be discarded.
        """
        state = self.devices[batch.device]
        if batch not in state.under_way:
            state.late_results += 1
            return False
        batch.settle(now)
        state.end(batch, now)
        state.batches += 1
        self._speeds_changed(now)
        if failures is None:
            batch.server.record(now - batch.began, len(batch.frames), batch.done)
        for i, (stream, pending) in enumerate(zip(batch.streams, batch.frames, strict=True)):
            stream.running = None
            reason = failures[i] if failures is not None else None
            if stream.removed:
                reason = reason or DropReason.STOPPED
            if reason is not None:
                self._drop(stream, pending, reason, now)
                continue
            state.frames += 1
            stream.processed += 1
            stream.results.add(now)
            stream.latencies.append(now - pending.received)
            if now > pending.deadline:
                stream.deadline_missed += 1
        if self.timeline is not None:
            self.timeline.add_batch(batch, now, stages)
        return True

    def release(self, batch: Batch) -> None:
        """Let the batch's streams start their next frame: the results are delivered."""
        for stream in batch.streams:
            stream.busy = False
            if stream.removed:
                self._settle_leaving()

    def _settle_leaving(self) -> None:
        for stream in list(self._leaving):
            if not stream.in_flight:
                self._leaving.remove(stream)
                self._removed_received += stream.received
                self._removed_processed += stream.processed
                self._removed_dropped += sum(stream.dropped.values())

    # Devices ---------------------------------------------------------------------------------

    def device_started(
        self, device: Device, now: float, times: Mapping[str, float] | None = None
    ) -> None:
        """Put a device in service, for the first time or after a restart.

        Args:
            device: the device.
            now: the present.
            times: model -> measured seconds for one frame, where none was known before.
        """
        state = self.devices[device]
        first = state.status is DeviceStatus.STARTING
        for model, seconds in (times or {}).items():
            if not state.servers[model].measured:
                state.servers[model].record(seconds, 1)
        state.status = DeviceStatus.IN_SERVICE
        state.retry_at = math.nan
        state.in_service_since = now
        if not first:
            state.restarts += 1
            self.events.append((logging.INFO, f"{device} is back in service"))
            self._event(now, device, "back in service")
        self._devices_changed("" if first else f"{device} came back", now)

    def device_failed(self, device: Device, now: float, error: str, *, hung: bool = False) -> None:
        """Take a device out of service; its running frames are lost, its streams move.

        Args:
            device: the device.
            now: the present.
            error: what happened, for the log and the snapshot.
            hung: whether a watchdog found it.
        """
        state = self.devices[device]
        state.errors += 1
        state.hangs += hung
        state.last_error = error
        options = self.options
        proved = now - state.in_service_since > 10.0 * max(state.backoff, options.backoff)
        state.backoff = (
            min(2.0 * state.backoff, options.backoff_max)
            if state.backoff and not proved
            else options.backoff
        )
        state.in_service_since = math.nan
        state.status = DeviceStatus.OUT_OF_SERVICE
        state.retry_at = now + state.backoff
        if state.running is not None:
            state.record_busy(state.running.began, now)
        lost, state.under_way = state.under_way, deque()
        self._speeds_changed(now)
        for batch in lost:
            for stream, pending in zip(batch.streams, batch.frames, strict=True):
                stream.running = None
                stream.busy = False
                self._drop(stream, pending, DropReason.FAILED, now)
            if self.timeline is not None:
                self.timeline.add_batch(batch, now, None, failed=True)
        self.events.append(
            (logging.ERROR, f"{device} is out of service, retry in {state.backoff:g} s: {error}")
        )
        self._event(now, device, f"out of service: {error}")
        self._devices_changed(f"{device} out of service", now)
        self._settle_leaving()

    def device_restarting(self, device: Device) -> None:
        """Note that a restart has begun."""
        self.devices[device].status = DeviceStatus.RESTARTING

    def device_lost(self, device: Device) -> None:
        """Note that nothing can replace a hanging device until its call returns."""
        state = self.devices[device]
        state.status = DeviceStatus.LOST
        state.retry_at = math.nan
        self.events.append(
            (logging.ERROR, f"{device} hangs; it can be retried only when the call returns")
        )

    def device_broken(self, device: Device) -> None:
        """Note that no restart inside this process can bring a device back that has failed."""
        state = self.devices[device]
        state.status = DeviceStatus.BROKEN
        state.retry_at = math.nan
        state.last_error += f"; {BROKEN_CONTEXT}"
        self.events.append((logging.ERROR, f"{device} is not retried any more: {BROKEN_CONTEXT}"))

    def callback_hangs(self, stream: Stream, name: str, since: float, now: float) -> None:
        """Note that a callback has not returned in time."""
        stream.callback_hangs += 1
        stream.callback_blocked_since = since
        if stream.callback_hangs & (stream.callback_hangs - 1) == 0:  # 1st, 2nd, 4th, 8th ...
            self.events.append(
                (
                    logging.ERROR,
                    f"{name} of stream {stream.config.id} has not returned for {now - since:.2f} s "
                    f"({stream.callback_hangs} so far): the stream gets no results until it does, "
                    "the others go on; fix: hand long work in the callback to a thread of its own",
                )
            )

    def shrink_batch(self, batch: Batch, limit: int, now: float) -> None:
        """Note an out-of-memory error: calls of this model take fewer frames from now on."""
        state = self.devices[batch.device]
        state.out_of_memory += 1
        batch.server.batch_limit = max(1, limit)
        batch.server.limited_at = now
        self.events.append(
            (
                logging.WARNING,
                f"{batch.device} out of memory: batch of {batch.server.name} shrinks to "
                f"{batch.server.batch_limit}",
            )
        )
        self._event(now, batch.device, f"out of memory, batch {batch.server.batch_limit}")

    def _event(self, now: float, device: Device, text: str) -> None:
        if self.timeline is not None:
            self.timeline.add_event(now, str(device), text)

    def _devices_changed(self, reason: str, now: float) -> None:
        for stream in self.streams.values():
            self._refresh(stream)
            if not stream.served and (stream.placed is not None or stream.queue):
                while stream.queue:
                    self._drop(stream, stream.queue.popleft(), DropReason.NO_DEVICE, now)
                stream.waiting_since = math.nan
                self.events.append(
                    (logging.ERROR, f"stream {stream.config.id}: no device left ({reason})")
                )
                self._put(stream, None)
        self._place_missing(reason, now)
        self.replan_needed = True

    # Placement -------------------------------------------------------------------------------

    def refresh_streams(self) -> None:
        """Find anew which devices may serve each stream, after states were set from outside."""
        for stream in self.streams.values():
            self._refresh(stream)

    def _refresh(self, stream: Stream) -> None:
        """Find the devices that may serve a stream now."""
        config = stream.config
        coming = (DeviceStatus.IN_SERVICE, DeviceStatus.STARTING)
        same = [s for s in self.devices.values() if config.model in s.servers]
        able = {s.device: config.model for s in same if s.status is DeviceStatus.IN_SERVICE}
        served = any(s.status in coming for s in same)
        if config.allow_model_change and not served:
            for state in self.devices.values():
                if state.status is DeviceStatus.IN_SERVICE and state.servers:
                    able[state.device] = min(
                        state.servers,
                        key=lambda name, s=state: s.servers[name].time,  # type: ignore[misc]
                    )
            served = any(s.status in coming and s.servers for s in self.devices.values())
        pinned = config.pinned_device
        stream.devices = {pinned: able[pinned]} if pinned is not None and pinned in able else able
        stream.served = served

    def problem(self, now: float, *, drifted: bool = False) -> PlacementProblem:
        """Return demands and speeds as they are now, for a policy."""
        demands = []
        for stream in self.streams.values():
            if not stream.config.enabled or not stream.devices:
                continue
            demands.append(
                StreamDemand(
                    id=stream.config.id,
                    rate=stream.rate(now),
                    times={
                        device: self.devices[device].servers[model].alone
                        for device, model in stream.devices.items()
                    },
                    gpu_share={
                        device: self._gpu_share[device]
                        for device in stream.devices
                        if device in self._gpu_share
                    },
                    current=stream.placed if stream.settled else None,
                    pinned=stream.config.pinned_device,
                    deadline=stream.config.deadline,
                )
            )
        in_service = tuple(
            d for d, s in self.devices.items() if s.status is DeviceStatus.IN_SERVICE
        )
        gpu = self._gpu if self._gpu in in_service else None
        return PlacementProblem(tuple(demands), in_service, gpu, drifted, self._contention)

    def drifted(self, now: float, tolerance: float = 0.2) -> bool:
        """Tell whether a rate or a time has changed by more than `tolerance` since the plan.

        Only the second time in a row counts: one late frame is no change of a camera's rate.
        """
        demands = self._demands(now)
        before, self._has_drifted = (
            self._has_drifted,
            any(
                abs(value - self._planned_for.get(key, math.inf)) > tolerance * max(value, 1e-9)
                for key, value in demands.items()
            ),
        )
        return before and self._has_drifted

    def _demands(self, now: float) -> dict[str, float]:
        demands = {
            f"rate {s.config.id}": s.rate(now) for s in self.streams.values() if s.config.enabled
        }
        for device, state in self.devices.items():
            if state.status is DeviceStatus.IN_SERVICE:
                demands.update(
                    {f"time {device} {name}": s.alone for name, s in state.servers.items()}
                )
        return demands

    def note_planned(self, now: float) -> None:
        """Remember the demands that a placement is being made for (see `drifted`)."""
        self._planned_for = self._demands(now)
        self._has_drifted = False
        self.replan_needed = False

    def apply_placement(self, placement: Mapping[str, Device], reason: str, now: float) -> None:
        """Put streams where a policy wants them; what has changed since it was asked is left."""
        self.placements += 1
        for stream_id, device in placement.items():
            stream = self.streams.get(stream_id)
            if stream is None or device not in stream.devices:
                continue
            if not stream.settled:
                stream.settled = True
                self._put(stream, device)
            elif stream.placed != device:
                self._move(stream, device, reason, now)

    def replan(self, now: float, reason: str, *, drifted: bool = False) -> None:
        """Ask the policy and apply its answer, at once (the simulation's way)."""
        problem = self.problem(now, drifted=drifted)
        self.note_planned(now)
        self.apply_placement(self.policy.place(problem), reason, now)

    def _place_missing(self, reason: str, now: float) -> None:
        """Give every stream that stands nowhere a device at once; the policy may better it."""
        lost = [
            s
            for s in self.streams.values()
            if s.devices and (s.placed is None or s.placed not in s.devices)
        ]
        if not lost:
            return
        problem = self.problem(now)
        fixed = {
            s.config.id: s.placed
            for s in self.streams.values()
            if s.placed is not None and s.placed in s.devices
        }
        placement = place_greedily(problem, fixed)
        for stream in lost:
            device = placement.get(stream.config.id)
            if device is None:  # disabled streams have no demand
                device = min(stream.devices)
            self._move(stream, device, reason, now)

    def _move(self, stream: Stream, device: Device, reason: str, now: float) -> None:
        old = stream.placed
        self._put(stream, device)
        if old is None or not stream.settled:
            return
        stream.moves += 1
        first_dynamic = not stream.last_move
        stream.last_move = f"{old} -> {device}: {reason}"
        if not self.policy.per_frame or reason != "free earlier (dynamic placement)":
            self.events.append(
                (logging.WARNING, f"stream {stream.config.id} moves {stream.last_move}")
            )
            self._event(now, device, f"{stream.config.id} from {old}: {reason}")
        elif first_dynamic:
            self.events.append(
                (
                    logging.INFO,
                    f"stream {stream.config.id} runs where its frame ends first; further moves "
                    "are counted, not logged",
                )
            )

    def _put(self, stream: Stream, device: Device | None) -> None:
        if stream.placed is not None:
            placed = self.devices[stream.placed].placed
            if stream in placed:
                placed.remove(stream)
        stream.placed = device
        if device is not None:
            self.devices[device].placed.append(stream)

    # State -----------------------------------------------------------------------------------

    def state(self) -> ExecutorState:
        """Return the health of the whole."""
        if not self.accepting:
            return ExecutorState.STOPPED
        enabled = [s for s in self.streams.values() if s.config.enabled]
        statuses = [s.status for s in self.devices.values()]
        if any(not s.served for s in enabled):
            return ExecutorState.ERROR
        if any(s is DeviceStatus.STARTING for s in statuses):
            return ExecutorState.STARTING
        if all(s is DeviceStatus.IN_SERVICE for s in statuses):
            return ExecutorState.RUNNING
        if not any(s is DeviceStatus.IN_SERVICE for s in statuses):
            return ExecutorState.ERROR
        return ExecutorState.DEGRADED

    def snapshot(self, now: float) -> ExecutorSnapshot:
        """Return all counters and states."""
        streams = {name: stream.snapshot(now) for name, stream in self.streams.items()}
        devices = {
            device: state.snapshot(now, tuple(s.config.id for s in state.placed))
            for device, state in self.devices.items()
        }
        return ExecutorSnapshot(
            time=now,
            state=self.state(),
            policy=self.policy.name,
            streams=streams,
            devices=devices,
            removed_received=self._removed_received,
            removed_processed=self._removed_processed,
            removed_dropped=self._removed_dropped,
            unknown_stream=self._unknown_stream,
            placements=self.placements,
        )
