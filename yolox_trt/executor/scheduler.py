# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Scheduler: which frame runs next on which device. No threads and no clock of its own."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from yolox_trt.core.contention import Contention
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.faults import DeviceBrokenError, HungError
from yolox_trt.core.frame import Frame
from yolox_trt.detectors.detector import StageTimes
from yolox_trt.executor.batch_limits import BatchLimits
from yolox_trt.executor.device_state import NO_STAGES, Batch, DeviceState, LoadedModel
from yolox_trt.executor.ledger import NOTHING, Ledger, Outcome
from yolox_trt.executor.outcomes import (
    REFUSALS,
    DropReason,
    SubmitOutcome,
    malformed,
    worth_logging,
)
from yolox_trt.executor.placement import DynamicPlacement, PlacementPolicy
from yolox_trt.executor.placements import Placements
from yolox_trt.executor.removed_streams import RemovedStreams
from yolox_trt.executor.scheduler_options import SchedulerOptions
from yolox_trt.executor.service_order import ServiceOrder
from yolox_trt.executor.snapshot import DeviceStatus, ExecutorSnapshot, ExecutorState, state_of
from yolox_trt.executor.stream import DropCallback, ResultCallback, Stream
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.executor.timeline import Timeline

#: Why a device is given up, and what mends that.
_BROKEN_CONTEXT = (
    "the CUDA context of this process is broken, and every call on it fails from now on; "
    "fix: restart the process"
)
_HANGS = "it hangs; only the return of its call brings it back"
#: Attributes of a StreamConfig that a placement depends on.
_PLACING = ("model", "device", "allow_model_change", "enabled", "max_rate", "expected_rate")


class Scheduler:
    """Streams, devices and placement as a passive state machine.

    The InferenceExecutor drives it with threads and real time, the simulation with an event loop
    and virtual time: both run this code. Methods take the present time, never block, and return
    what they brought about (Outcome). Not thread safe.

    Args:
        devices: for each Device, its models.
        policy: the placement policy.
        options: times of batching, watchdogs and restarts.
        timeline: where spans are recorded, None for nowhere.
        gpu_share: DLA device -> seconds of the GPU for each of its frames, as the planner
            reckons with; missing means 0.
        contention: how the devices slow one another down, if that is known: measured times are
            freed of it, and placements reckon with it. None: nothing is known; it is part of the
            measured times.

    Attributes:
        accepting: whether frames are let in.
        placements: where the streams are placed.
    """

    def __init__(
        self,
        devices: Mapping[Device, Mapping[str, LoadedModel]],
        policy: PlacementPolicy,
        options: SchedulerOptions | None = None,
        *,
        timeline: Timeline | None = None,
        gpu_share: Mapping[Device, float] | None = None,
        contention: Contention | None = None,
    ) -> None:
        self.options = options or SchedulerOptions()
        self.policy = policy
        self.devices = {d: DeviceState(d, dict(devices[d])) for d in sorted(devices)}
        self.streams: dict[str, Stream] = {}
        self.accepting = False
        self._timeline = timeline
        self._ledger = Ledger(timeline)
        self._batch_limits = BatchLimits(self.options.batch_recovery, self._ledger)
        self._contention = contention or Contention()
        self._contended = not self._contention.none
        self.placements = Placements(
            self.streams, self.devices, self._ledger, self._contention, gpu_share
        )
        # With one device there is nothing to choose for a frame.
        choose = len(self.devices) > 1
        self._frame_policy = policy if isinstance(policy, DynamicPlacement) and choose else None
        self._order = ServiceOrder(self.options.starvation_limit)
        self._watchdog = self.options.watchdog or math.inf
        self._removed = RemovedStreams()
        self._unknown_stream = 0

    # Streams ---------------------------------------------------------------------------------

    def add_stream(
        self,
        config: StreamConfig,
        on_result: ResultCallback,
        on_drop: DropCallback | None,
        now: float,
    ) -> Outcome:
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
        self.placements.check(config)
        stream = Stream(config, on_result, on_drop)
        self.streams[config.id] = stream
        self.placements.refresh(stream)
        self.placements.place_missing(f"stream {config.id} added", now)
        self.placements.needed = True
        return self._ledger.outcome()

    def remove_stream(self, stream_id: str, now: float) -> Outcome:
        """Remove a stream; what waits, or is not delivered, is dropped (stopped).

        A frame that a device works on is dropped when that ends.

        Raises:
            ConfigurationError: no stream has the id.
        """
        stream = self.stream(stream_id)
        del self.streams[stream_id]
        stream.removed = True
        self._drop_waiting(stream, DropReason.STOPPED, now)
        if stream.undelivered is not None:
            stream.processed -= 1
            self._ledger.drop(stream, stream.undelivered.frame, DropReason.STOPPED, now)
            stream.undelivered = None
        self.placements.put(stream, None)
        self._removed.add(stream)
        self.placements.needed = True
        return self._ledger.outcome()

    def update_stream(self, stream_id: str, changes: Mapping[str, Any], now: float) -> Outcome:
        """Change attributes of a stream's configuration.

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
        with ConfigurationError.instead_of(
            TypeError,
            f"unknown attribute for stream '{stream_id}'",
            expected="attributes of StreamConfig",
            fix="correct the name",
        ):
            config = replace(stream.config, **changes)
        self.placements.check(config)
        old, stream.config = stream.config, config
        while len(stream.queue) > config.queue_depth:
            self._drop_oldest(stream, DropReason.OVERFLOW, now)
        if old.enabled and not config.enabled:
            self._drop_waiting(stream, DropReason.DISABLED, now)
        stream.credits = min(stream.credits, config.weight)
        if any(getattr(old, name) != getattr(config, name) for name in _PLACING):
            self.placements.refresh(stream)
            if stream.placed is not None and stream.placed not in stream.devices:
                self.placements.put(stream, None)
            self.placements.place_missing("configuration changed", now)
            self.placements.needed = True
        return self._ledger.outcome()

    def stream(self, stream_id: str) -> Stream:
        """Return a stream.

        Raises:
            ConfigurationError: no stream has the id.
        """
        if stream_id not in self.streams:
            fix = "add the stream first"
            raise ConfigurationError.unknown("stream", stream_id, sorted(self.streams), fix=fix)
        return self.streams[stream_id]

    # Frames ----------------------------------------------------------------------------------

    def submit(
        self, frame: Frame, received: float, now: float, age: float = 0.0, model: str = ""
    ) -> tuple[SubmitOutcome, Sequence[DeviceState], Outcome]:
        """Offer a frame to the stream that it names.

        Args:
            frame: the frame.
            received: time of arrival, in seconds.
            now: the present, in seconds.
            age: how old it was when it arrived, in seconds; 0 where that is not known.
            model: the model that it is for; the stream's own where no device has that, or "".

        Returns:
            What became of it, the devices that must ask for work now, and drops of older frames.
        """
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            self._unknown_stream += 1
            return SubmitOutcome.UNKNOWN_STREAM, (), self._ledger.outcome()
        answer = stream.offer(frame, received, now, age, model, accepting=self.accepting)
        if answer is SubmitOutcome.REPLACED_OLDEST:
            self._drop_oldest(stream, DropReason.OVERFLOW, now)
        elif answer is not SubmitOutcome.ACCEPTED:
            self._ledger.refuse(stream, REFUSALS[answer], now)
            return answer, (), self._ledger.outcome()
        ledger = self._ledger
        outcome = NOTHING if ledger.empty else ledger.outcome()
        return answer, self._devices_for(stream, now), outcome

    def drop_waiting(self, now: float) -> Outcome:
        """Drop every waiting frame (stopped)."""
        for stream in self.streams.values():
            self._drop_waiting(stream, DropReason.STOPPED, now)
        return self._ledger.outcome()

    def _drop_waiting(self, stream: Stream, reason: DropReason, now: float) -> None:
        while stream.queue:
            self._drop_oldest(stream, reason, now)
        stream.waiting_since = math.nan

    def _drop_oldest(self, stream: Stream, reason: DropReason, now: float) -> None:
        self._ledger.drop(stream, stream.queue.popleft().frame, reason, now)

    def _devices_for(self, stream: Stream, now: float) -> Sequence[DeviceState]:
        """Return the devices that must ask for work because a stream's frame waits."""
        if stream.busy:
            return ()
        if self._frame_policy is not None:
            return self._frame_policy.devices_for(
                stream, self.streams, self.devices, self._contention, now
            )
        state = stream.placed
        return (state,) if state is not None and state.has_room else ()

    # Calls -----------------------------------------------------------------------------------

    def next_batch(self, device: Device, now: float) -> tuple[Batch | float | None, Outcome]:
        """Choose what a device runs next, and start it.

        A device is given its next call while it works on the last one, if its detector's calls
        may overlap and the model is the same.

        Returns:
            The started batch; or the time at which to ask again (a batch is gathering); or None
            if nothing is there for this device until something changes. And what else happened.
        """
        return self.next_batch_of(self.devices[device], now)

    def next_batch_of(self, state: DeviceState, now: float) -> tuple[Batch | float | None, Outcome]:
        """Do what next_batch does, for one of `devices`: to look up a Device calls Python."""
        choice, ledger = self._choose(state, now), self._ledger
        return choice, NOTHING if ledger.empty else ledger.outcome()

    def _choose(self, state: DeviceState, now: float) -> Batch | float | None:
        under_way = state.under_way
        if state.status is not DeviceStatus.IN_SERVICE or (under_way and not state.has_room):
            return None
        policy = self._frame_policy
        ready = self._ready(state.placed if policy is None else self.streams.values(), now)
        if not ready:
            return None
        if len(ready) > 1:
            self._order.sort(ready, now)
        if policy is not None:
            ready = policy.frames_for(state, ready, self.devices, self._contention, now)
            if not ready:
                # A busy device should end them sooner. Should it hang, this one takes over.
                return now + min(model.time for model in state.models.values())
        first = ready[0]
        model = first.model_on(state)
        assert model is not None
        if under_way and under_way[0].model is not model:
            return None  # another detector, whose calls would not wait for this one's
        chosen = [first]
        if model.max_batch > 1:
            limit = self._batch_limits.of(state, model, now)
            chosen = [s for s in ready if s.model_on(state) is model][:limit]
            window_ends = first.gathering_since + self.options.batch_window
            if now < window_ends and len(chosen) < self._gatherable(state, model, limit):
                return window_ends
        for stream in chosen:
            if stream.config.options.class_thresholds and self._drop_unfit(chosen, model, now):
                return self._choose(state, now)
        self._order.count(chosen, ready)
        frames = [stream.take(now) for stream in chosen]
        # Beside others, a call has only its part of the device.
        longest = self.options.watchdog_factor * model.warm_up * len(frames) * model.at_once
        watchdog = max(self._watchdog, longest)
        batch = Batch(state, model, chosen, frames, watchdog)
        state.take(batch, now)
        if self._contended:
            self._speeds_changed(now)
        for stream in chosen:
            if stream.placed is not state:
                self.placements.follow_frame(stream, state, now)
        return batch

    def _drop_unfit(self, streams: Iterable[Stream], model: LoadedModel, now: float) -> bool:
        """Drop the oldest frames of streams whose options the model cannot work by, if any.

        Only here is it known which model it is: a substitute, or that of the frame.
        """
        found = False
        for stream in streams:
            if error := model.refuses(stream):
                found = True
                self._drop_oldest(stream, DropReason.MALFORMED, now)
                stream.waiting_since = now if stream.queue else math.nan
                if worth_logging(count := stream.dropped[DropReason.MALFORMED]):
                    text = malformed(stream.config.id, error, count)
                    self._ledger.happened(now, text, level=logging.WARNING)
        return found

    def _ready(self, streams: Iterable[Stream], now: float) -> list[Stream]:
        """Return the streams with a frame that may start now; stale frames are dropped."""
        ready = []
        for stream in streams:
            queue = stream.queue
            if stream.busy or not queue or not stream.devices:
                continue
            stale_after = stream.config.stale_after
            if stale_after:
                while queue and now - queue[0].born > stale_after:
                    self._drop_oldest(stream, DropReason.STALE, now)
                if not queue:
                    continue
            ready.append(stream)
        return ready

    def _speeds_changed(self, now: float) -> None:
        """A call has begun or ended: the others go on faster or slower from now on."""
        running = {d: s.running for d, s in self.devices.items() if s.running is not None}
        for device, batch in running.items():
            batch.advance(now)
            batch.slowdown = self._contention.slowdown(device, running)

    def _gatherable(self, state: DeviceState, model: LoadedModel, limit: int) -> int:
        """Return the most frames that waiting could bring together on this device."""
        streams = state.placed if self._frame_policy is None else self.streams.values()
        able = (s for s in streams if not s.busy and s.config.enabled)
        return min(limit, sum(s.model_on(state) is model for s in able))

    def finish(self, batch: Batch, now: float, stages: StageTimes = NO_STAGES) -> Outcome | None:
        """Take in the end of a batch; `release` must follow for each of its streams.

        Args:
            batch: what next_batch returned. Its frames' `failure` tells which gave no result.
            now: the end, in seconds.
            stages: stage times for the timeline.

        Returns:
            None if the batch was given up before (a hung call that returned late, a device that
            was taken out of service): its results must be discarded.
        """
        state = batch.state
        if batch not in state.under_way:
            state.late_results += 1
            return None
        if self._contended:
            batch.advance(now)
        state.end(batch, now)
        batch.ended, batch.stages = now, stages
        state.batches += 1
        if self._contended:
            self._speeds_changed(now)
        whole = True
        for stream, pending in zip(batch.streams, batch.frames, strict=True):
            if pending.failure is not None:
                whole = False
            reason = stream.end(pending, now)
            if reason is None:
                state.frames += 1
            else:
                self._ledger.drop(stream, pending.frame, reason, now)
        if whole:
            seconds, model = now - batch.began, batch.model
            model.record(seconds, batch.done if self._contended else seconds, len(batch.frames))
            if (model.time > self.options.slow_factor * model.warm_up) is not model.slow:
                self._slowness_changed(state, model, now)
        if self._timeline is not None:
            self._timeline.add_batch(batch, now, stages)
        return NOTHING if self._ledger.empty else self._ledger.outcome()

    def _slowness_changed(self, state: DeviceState, model: LoadedModel, now: float) -> None:
        model.slow = not model.slow
        model.slow_count += model.slow
        if model.slow and worth_logging(model.slow_count):
            times = f"{1e3 * model.time:.3g} ms instead of {1e3 * model.warm_up:.3g} ms"
            text = f"{state.name} is slow: {model.name} takes {times} as at its warm-up"
            self._ledger.happened(now, text, level=logging.WARNING, device=state.name, mark="slow")

    def release(self, streams: Sequence[Stream], now: float) -> Sequence[DeviceState]:
        """Let streams start their next frames: what came of their last ones is delivered.

        Returns:
            The devices that must ask for work now: those of streams that have moved meanwhile.
        """
        for stream in streams:
            stream.busy = False
            stream.undelivered = None
            if stream.removed:
                self._removed.count()
        return [d for s in streams if s.queue for d in self._devices_for(s, now)]

    # Devices ---------------------------------------------------------------------------------

    def start(self, going_on: Collection[Device] = ()) -> None:
        """Let frames in, and expect all devices to start but those that were given up.

        Args:
            going_on: devices that have not come to rest since the last stop; they just go on.
        """
        self.accepting = True
        for device, state in self.devices.items():
            given_up = state.status in (DeviceStatus.LOST, DeviceStatus.BROKEN)
            if not given_up and device not in going_on:
                state.status = DeviceStatus.STARTING
        for stream in self.streams.values():
            self.placements.refresh(stream)

    def add_model(self, name: str, loaded: Mapping[Device, LoadedModel], now: float) -> Outcome:
        """Let devices run a further model, for which their workers have detectors.

        Raises:
            ConfigurationError: no such device, or one that has a model of that name.
        """
        for device in loaded:
            if device not in self.devices:
                fix = "give detectors of these devices alone"
                raise ConfigurationError.unknown("device", str(device), self.devices, fix=fix)
            if name in self.devices[device].models:
                raise ConfigurationError(
                    f"a second model '{name}' on {device}",
                    expected="one of each name on a device",
                    fix="name each model, and each size of it, once",
                )
        for device, model in loaded.items():
            self.devices[device].models[name] = model
        return self._devices_changed(f"model {name} added", now)

    def device_started(
        self, device: Device, now: float, times: Mapping[str, float] | None = None
    ) -> Outcome:
        """Put a device in service, for the first time or after a restart.

        Args:
            device: the device.
            now: the present.
            times: model -> measured seconds for one frame, where none was known before.
        """
        state = self.devices[device]
        first = state.status is DeviceStatus.STARTING
        for name, seconds in (times or {}).items():
            if not state.models[name].measured:
                state.models[name].record(seconds, seconds, 1)
        state.start(now)
        if not first:
            state.restarts += 1
            mark = "back in service"
            text = f"{device} is {mark}"
            self._ledger.happened(now, text, level=logging.INFO, device=state.name, mark=mark)
        return self._devices_changed("" if first else f"{device} came back", now)

    def device_failed(self, device: Device, now: float, error: BaseException) -> Outcome:
        """Take a device out of service; its running frames are lost, its streams move.

        A CUDA context that a restart finds broken as well is not tried again.

        Args:
            device: the device.
            now: the present.
            error: what happened: a HungError if a watchdog found it.
        """
        state = self.devices[device]
        broken = isinstance(error, DeviceBrokenError) and state.status is DeviceStatus.RESTARTING
        state.hangs += isinstance(error, HungError)
        text = f"{type(error).__name__}: {error}"
        for batch in state.fail(now, text, self.options):
            for stream, pending in zip(batch.streams, batch.frames, strict=True):
                stream.running = None
                stream.busy = False
                self._ledger.drop(stream, pending.frame, DropReason.FAILED, now)
            if self._timeline is not None:
                self._timeline.add_batch(batch, now, None, failed=True)
        if self._contended:
            self._speeds_changed(now)
        self._ledger.happened(
            now,
            f"{device} is out of service, retry in {state.retry_at - now:g} s: {text}",
            device=state.name,
            mark=f"out of service: {text}",
        )
        if broken:
            state.last_error += f"; {_BROKEN_CONTEXT}"
            self._give_up(state, DeviceStatus.BROKEN, _BROKEN_CONTEXT, now)
        self._removed.count()
        return self._devices_changed(f"{device} out of service", now)

    def device_lost(self, device: Device, now: float) -> Outcome:
        """Note that nothing can replace a hanging device until its call returns."""
        self._give_up(self.devices[device], DeviceStatus.LOST, _HANGS, now)
        return self._devices_changed(f"{device} lost", now)

    def _give_up(self, state: DeviceState, status: DeviceStatus, why: str, now: float) -> None:
        """Plan no restart of a device any more."""
        state.status = status
        state.retry_at = math.nan
        self._ledger.happened(now, f"{state.name} is not retried any more: {why}")

    def callback_hangs(self, stream: Stream, name: str, since: float, now: float) -> Outcome:
        """Note that a callback has not returned in time."""
        stream.callback_hangs += 1
        stream.callback_blocked_since = since
        if worth_logging(stream.callback_hangs):
            self._ledger.happened(
                now,
                f"{name} of stream {stream.config.id} has not returned for {now - since:.2f} s "
                f"({stream.callback_hangs} so far): the stream gets no results until it does, the "
                "others go on; fix: hand long work in the callback to a thread of its own",
            )
        return self._ledger.outcome()

    def shrink_batch(self, batch: Batch, limit: int, now: float) -> Outcome:
        """Note an out-of-memory error: calls of this model take fewer frames from now on."""
        batch.state.out_of_memory += 1
        self._batch_limits.shrink(batch.state, batch.model, limit, now)
        return self._ledger.outcome()

    def _devices_changed(self, reason: str, now: float) -> Outcome:
        for stream in self.streams.values():
            self.placements.refresh(stream)
            if not stream.served and (stream.placed is not None or stream.queue):
                self._drop_waiting(stream, DropReason.NO_DEVICE, now)
                self._ledger.happened(now, f"stream {stream.config.id}: no device left ({reason})")
                self.placements.put(stream, None)
        self.placements.place_missing(reason, now)
        self.placements.needed = True
        return self._ledger.outcome()

    # Placement -------------------------------------------------------------------------------

    def apply_placement(self, placement: Mapping[str, Device], reason: str, now: float) -> Outcome:
        """Put streams where a policy wants them; what has changed since it was asked is left."""
        self.placements.apply(placement, f"{reason} ({self.policy.name} placement)", now)
        return self._ledger.outcome()

    def replan(self, now: float, reason: str, *, drifted: bool = False) -> Outcome:
        """Ask the policy and apply its answer, at once (the simulation's way)."""
        problem = self.placements.problem(now, drifted=drifted)
        self.placements.note_planned(now)
        return self.apply_placement(self.policy.place(problem), reason, now)

    # State -----------------------------------------------------------------------------------

    def state(self) -> ExecutorState:
        """Return the health of the whole."""
        if not self.accepting:
            return ExecutorState.STOPPED
        all_served = all(s.served for s in self.streams.values() if s.config.enabled)
        return state_of({s.status for s in self.devices.values()}, all_served=all_served)

    def snapshot(self, now: float) -> ExecutorSnapshot:
        """Return all counters and states."""
        return ExecutorSnapshot(
            time=now,
            state=self.state(),
            policy=self.policy.name,
            streams={name: stream.snapshot(now) for name, stream in self.streams.items()},
            devices={device: state.snapshot(now) for device, state in self.devices.items()},
            removed_received=self._removed.received,
            removed_processed=self._removed.processed,
            removed_dropped=self._removed.dropped,
            unknown_stream=self._unknown_stream,
            placements=self.placements.count,
        )
