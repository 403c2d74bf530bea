# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Simulation: the Scheduler in virtual time. Deterministic, and much faster than real time."""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.contention import Contention
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, EngineError
from yolox_trt.core.frame import Frame
from yolox_trt.core.option import Kind, OptionGroup, option
from yolox_trt.detectors.detector import StageTimes
from yolox_trt.engines.simulated import LatencyModel
from yolox_trt.executor.device_state import Batch, DeviceState, LoadedModel
from yolox_trt.executor.outcomes import DropReason
from yolox_trt.executor.placement import PlacementPolicy, create_policy
from yolox_trt.executor.placements import DRIFT_PERIOD
from yolox_trt.executor.scheduler import Scheduler
from yolox_trt.executor.scheduler_options import SchedulerOptions
from yolox_trt.executor.snapshot import ExecutorSnapshot
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.executor.timeline import Timeline

#: Events between looks at whether a frame has been lost, for runs that end there.
_LOOK_EVENTS = 256


@dataclass(frozen=True, kw_only=True)
class CameraLoad(OptionGroup):
    """One simulated camera.

    Attributes:
        config: its stream.
    """

    config: StreamConfig
    rate: float = option(kind=Kind.DOUBLE, above=0.0, unit="Hz", help="Frames a second.")
    phase: float = option(0.0, minimum=0.0, unit="s", help="Time of the first frame.")
    jitter: float = option(
        0.0, minimum=0.0, unit="s", help="Each frame comes up to so much early or late (uniform)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.jitter >= 0.5 / self.rate:
            raise ConfigurationError(
                f"jitter = {1e3 * self.jitter:g} ms of camera {self.config.id}",
                expected=f"less than half a period, {500.0 / self.rate:g} ms",
                fix="set `jitter`",
            )


@dataclass(frozen=True)
class Outage:
    """A device that fails at `start` and may be restarted from `end` on, in seconds."""

    device: Device
    start: float
    end: float


@dataclass(frozen=True)
class SimulationResult:
    """What came out.

    Attributes:
        duration: virtual seconds during which frames arrived.
        snapshot: the scheduler's counters at the end (nothing is in flight any more, but for runs
            that ended at a lost frame).
        latencies: stream -> seconds from arrival to result, float64 (processed,).
        loads: device -> share of the duration that it was busy.
        device_shares: stream -> device -> share of its results that came from there.
        timeline: spans of the end of the run, if recorded.
    """

    duration: float
    snapshot: ExecutorSnapshot
    latencies: Mapping[str, npt.NDArray[np.float64]]
    loads: Mapping[Device, float]
    device_shares: Mapping[str, Mapping[Device, float]]
    timeline: Timeline | None

    @property
    def received(self) -> int:
        """Frames that arrived."""
        return sum(s.received for s in self.snapshot.streams.values())

    @property
    def processed(self) -> int:
        """Frames with a result."""
        return sum(s.processed for s in self.snapshot.streams.values())

    @property
    def refused(self) -> int:
        """Frames beyond their stream's `max_rate`: not served because that was asked for."""
        return sum(s.refused for s in self.snapshot.streams.values())

    @property
    def dropped(self) -> int:
        """Frames without a result that were not refused."""
        return sum(s.lost for s in self.snapshot.streams.values())

    @property
    def deadline_missed(self) -> int:
        """Results after their stream's deadline."""
        return sum(s.deadline_missed for s in self.snapshot.streams.values())

    @property
    def fits(self) -> bool:
        """Whether no frame was dropped and none was late; those refused do not count."""
        return self.dropped == 0 and self.deadline_missed == 0

    @property
    def drop_rate(self) -> float:
        """Share of the frames that were dropped."""
        return self.dropped / max(1, self.received)

    @property
    def latency_max(self) -> float:
        """Longest latency of all streams, in seconds, NaN without results."""
        return max((float(v.max()) for v in self.latencies.values() if len(v)), default=math.nan)

    @property
    def latency_mean(self) -> float:
        """Mean latency over all results, in seconds, NaN without results."""
        values = [v for v in self.latencies.values() if len(v)]
        return float(np.concatenate(values).mean()) if values else math.nan


@dataclass(slots=True, eq=False)
class _Work:
    """A call and how much of it is left, in seconds of undisturbed work.

    `copied` and `computed` are for calls that overlap: whether these halves of it are over.
    """

    batch: Batch
    left: float
    since: float
    factor: float = 1.0
    version: int = 0
    copied: bool = False
    computed: bool = False


class Simulation:
    """Cameras, devices and a Scheduler on an event clock.

    The Scheduler, its streams and its policy are the ones that the InferenceExecutor runs. The
    same arguments give the same result.

    Args:
        cameras: the load.
        devices: for each Device, the latency of each of its models.
        policy: "static", "balanced", "dynamic", or a PlacementPolicy.
        options: knobs of the scheduler.
        contention: how the devices slow one another down while they work; None: not at all.
        gpu_share: DLA device -> seconds of the GPU for each of its frames. They are part of the
            DLA's time, and lengthen the call that the GPU runs at that moment.
        max_batch: most frames of one call on the GPU and the CPU.
        copies: device whose calls overlap -> the part of a frame's time, in seconds, in which the
            host copies it: then the device may work on the call before it.
        outages: failures to simulate; a failed device loses its running frames.
        seed: of latencies and jitter.
        timeline_capacity: entries of the timeline; 0 = none.

    Attributes:
        now: the virtual time, in seconds.
        scheduler: the scheduler.
    """

    def __init__(
        self,
        cameras: Sequence[CameraLoad],
        devices: Mapping[Device, Mapping[str, LatencyModel]],
        *,
        policy: str | PlacementPolicy = "balanced",
        options: SchedulerOptions | None = None,
        contention: Contention | None = None,
        gpu_share: Mapping[Device, float] | None = None,
        max_batch: int = 1,
        copies: Mapping[Device, float] | None = None,
        outages: Sequence[Outage] = (),
        seed: int = 0,
        timeline_capacity: int = 0,
    ) -> None:
        self.now = 0.0
        self._cameras = list(cameras)
        self._latencies = devices
        self._contention = contention or Contention()
        self._gpu_share = dict(gpu_share or {})
        self._copies = dict(copies or {})
        self._rng = np.random.default_rng(seed)
        self._timeline = Timeline(timeline_capacity) if timeline_capacity else None
        self.scheduler = Scheduler(
            {
                device: {
                    # Known from a device that works alone, as after a warm-up.
                    name: LoadedModel(
                        name,
                        latency.mean,
                        max_batch=1 if device.kind == "dla" else max_batch,
                        calls=2 if device in self._copies else 1,
                    )
                    for name, latency in models.items()
                }
                for device, models in devices.items()
            },
            create_policy(policy),
            options,
            timeline=self._timeline,
            gpu_share=gpu_share,
            contention=contention,
        )
        self._outages = list(outages)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._working: dict[Device, _Work] = {}
        #: Calls under way of devices whose calls overlap, oldest first.
        self._calls: dict[Device, list[_Work]] = {device: [] for device in self._copies}
        #: Devices whose worker waits for the oldest call, and takes no other frame meanwhile.
        self._collecting: set[Device] = set()
        self._busy_time = dict.fromkeys(devices, 0.0)
        self._wake_at: dict[DeviceState, float] = {}
        self._measured: dict[str, array[float]] = {}
        self._served_by: dict[str, dict[Device, int]] = {}
        self._duration = 0.0
        # Pixels do not matter here: all frames of a camera are this one.
        self._frames = [
            Frame.view(bytes(3), height=1, width=1, encoding="bgr8", stream_id=camera.config.id)
            for camera in self._cameras
        ]

    def run(
        self,
        duration: float,
        progress: Callable[[float], None] | None = None,
        *,
        until_lost: bool = False,
    ) -> SimulationResult:
        """Let frames arrive for `duration` seconds, then let the devices finish.

        Args:
            duration: virtual seconds.
            progress: called now and then with the virtual time.
            until_lost: end soon after the first frame that is dropped or late, with frames still
                in flight: for a caller who asks only whether there is one.
        """
        scheduler = self.scheduler
        self._duration = duration
        for camera in self._cameras:
            config = camera.config
            if not config.expected_rate:
                config = replace(config, expected_rate=camera.rate)
            scheduler.add_stream(config, _ignore, None, 0.0)
            self._measured[config.id] = array("d")
            self._served_by[config.id] = dict.fromkeys(scheduler.devices, 0)
        for device in scheduler.devices:
            scheduler.device_started(device, 0.0)
        scheduler.accepting = True
        self._replan("start")
        for index, camera in enumerate(self._cameras):
            self._at(camera.phase, self._arrive, index, 0)
        for outage in self._outages:
            self._at(outage.start, self._fail, outage)
        if scheduler.policy.replans:
            self._at(DRIFT_PERIOD, self._check_drift)
        steps = 0
        while self._events:
            self.now, _, action, arguments = heapq.heappop(self._events)
            action(*arguments)
            if scheduler.placements.needed:
                self._replan("streams or devices changed")
            steps += 1
            if progress is not None and steps % 20_000 == 0:
                progress(min(self.now, duration))
            if until_lost and steps % _LOOK_EVENTS == 0 and self._any_lost():
                break
        end = max(self.now, duration)
        scheduler.drop_waiting(end)
        return SimulationResult(
            duration=duration,
            snapshot=scheduler.snapshot(end),
            latencies={k: np.frombuffer(v, np.float64) for k, v in self._measured.items()},
            loads={d: busy / duration for d, busy in self._busy_time.items()},
            device_shares={
                name: {d: n / max(1, sum(counts.values())) for d, n in counts.items() if n}
                for name, counts in self._served_by.items()
            },
            timeline=self._timeline,
        )

    def _any_lost(self) -> bool:
        return any(
            stream.deadline_missed
            or any(n for reason, n in stream.dropped.items() if reason is not DropReason.RATE)
            for stream in self.scheduler.streams.values()
        )

    # Events ----------------------------------------------------------------------------------

    def _at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (time, self._sequence, action, arguments))

    def _arrive(self, index: int, count: int) -> None:
        camera = self._cameras[index]
        now = self.now
        _, asked, _ = self.scheduler.submit(self._frames[index], now, now)
        # Times are multiples of the period, not sums, so that no rounding piles up.
        following = camera.phase + (count + 1) / camera.rate
        if camera.jitter:
            following += float(self._rng.uniform(-camera.jitter, camera.jitter))
        if following < self._duration:
            self._at(max(following, now), self._arrive, index, count + 1)
        for state in asked:
            self._dispatch(state)

    def _dispatch(self, state: DeviceState) -> None:
        calls = self._calls.get(state.device) if self._calls else None
        if calls and (state.device in self._collecting or not calls[-1].copied):
            return  # its worker is in a call of the detector
        now = self.now
        choice, _ = self.scheduler.next_batch(state.device, now)
        if choice is None:
            return
        if isinstance(choice, Batch):
            self._start(choice, now)
        elif not now < self._wake_at.get(state, -math.inf) <= choice:
            self._wake_at[state] = choice
            self._at(choice, self._wake, state)

    def _wake(self, state: DeviceState) -> None:
        self._wake_at.pop(state, None)
        self._dispatch(state)

    def _start(self, batch: Batch, now: float) -> None:
        device = batch.state.device
        latency = self._latencies[device][batch.model.name]
        work = _Work(batch, latency.sample(self._rng, len(batch.frames)), now)
        if device not in self._copies:
            self._compute(work, now)
            return
        copying = min(work.left, self._copies[device] * len(batch.frames))
        work.left -= copying
        self._calls[device].append(work)
        self._at(now + copying, self._copied, work)

    def _copied(self, work: _Work) -> None:
        """The worker is back from enqueueing a call: another one, or wait for the oldest."""
        now = self.now
        state = work.batch.state
        calls = self._calls[state.device]
        if work not in calls:
            return  # lost in an outage
        work.copied = True
        if calls[0] is work:
            self._compute(work, now)
        elif calls[0].computed:
            self._compute(work, now)
            self._finish(calls.pop(0), now)
            return
        self._dispatch(state)
        if calls[-1].copied:
            self._collecting.add(state.device)

    def _compute(self, work: _Work, now: float) -> None:
        device = work.batch.state.device
        work.since = now
        self._working[device] = work
        share = self._gpu_share.get(device, 0.0)
        lengthened = None
        if share:
            lengthened = next((w for d, w in self._working.items() if d.kind == "gpu"), None)
            if lengthened is not None:
                self._advance(lengthened, now)
                lengthened.left += share
        if self._contention.none:
            self._schedule_end(work, now)
            if lengthened is not None:
                self._schedule_end(lengthened, now)
        else:
            self._reschedule(now)

    def _advance(self, work: _Work, now: float) -> None:
        work.left -= (now - work.since) / work.factor
        work.since = now

    def _reschedule(self, now: float) -> None:
        """The set of working devices has changed: all go on at their new speeds."""
        for device, work in self._working.items():
            self._advance(work, now)
            work.factor = self._contention.slowdown(device, self._working)
            self._schedule_end(work, now)

    def _schedule_end(self, work: _Work, now: float) -> None:
        work.version += 1
        end = now + max(0.0, work.left) * work.factor
        self._at(end, self._end, work, work.version)

    def _end(self, work: _Work, version: int) -> None:
        device = work.batch.state.device
        if version != work.version or self._working.get(device) is not work:
            return
        now = self.now
        del self._working[device]
        if not self._contention.none:
            self._reschedule(now)
        calls = self._calls.get(device)
        if calls is not None:
            work.computed = True
            following = calls[1] if len(calls) > 1 else None
            if following is not None and not following.copied:
                return  # the worker still copies; it collects afterwards
            self._collecting.discard(device)
            calls.pop(0)
            if following is not None:
                self._compute(following, now)
        self._finish(work, now)

    def _finish(self, work: _Work, now: float) -> None:
        batch = work.batch
        state, device = batch.state, batch.state.device
        self._count_busy(batch.began, now, device)
        self.scheduler.finish(batch, now, StageTimes(inference=now - batch.began))
        for stream, pending in zip(batch.streams, batch.frames, strict=True):
            self._measured[stream.config.id].append(now - pending.received)
            self._served_by[stream.config.id][device] += 1
        asked = self.scheduler.release(batch.streams, now)
        self._dispatch(state)
        calls = self._calls.get(device)
        if calls and calls[-1].copied:
            self._collecting.add(device)
        for other in asked:
            if other is not state:
                self._dispatch(other)

    def _count_busy(self, start: float, end: float, device: Device) -> None:
        self._busy_time[device] += max(0.0, min(end, self._duration) - start)

    def _fail(self, outage: Outage) -> None:
        now = self.now
        work = self._working.pop(outage.device, None)
        running = self.scheduler.devices[outage.device].running
        if running is not None:
            self._count_busy(running.began, now, outage.device)
        self._calls.get(outage.device, []).clear()
        self._collecting.discard(outage.device)
        if work is not None and not self._contention.none:
            self._reschedule(now)
        self.scheduler.device_failed(outage.device, now, EngineError("simulated outage"))
        back = max(outage.end, self.scheduler.devices[outage.device].retry_at)
        self._at(back, self._recover, outage.device)
        self._dispatch_all()

    def _recover(self, device: Device) -> None:
        self.scheduler.device_started(device, self.now)
        self._replan(f"{device} is back")
        self._dispatch_all()

    def _check_drift(self) -> None:
        now = self.now
        if now + DRIFT_PERIOD < self._duration:
            self._at(now + DRIFT_PERIOD, self._check_drift)
        if self.scheduler.placements.drifted(now):
            self.scheduler.replan(now, "rates or times changed", drifted=True)
            self._dispatch_all()

    def _replan(self, reason: str) -> None:
        self.scheduler.replan(self.now, reason)
        self._dispatch_all()

    def _dispatch_all(self) -> None:
        for state in self.scheduler.devices.values():
            if state.has_room:
                self._dispatch(state)


def _ignore(_: Any) -> None:
    """Results of simulated frames go nowhere."""
