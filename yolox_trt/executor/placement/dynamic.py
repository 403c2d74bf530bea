# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DynamicPlacement: each frame on the device that will finish it first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from yolox_trt.core.contention import Contention, finish_times
from yolox_trt.core.device import Device
from yolox_trt.executor.device_state import DeviceState
from yolox_trt.executor.placement.greedy import place_greedily
from yolox_trt.executor.placement.problem import PlacementProblem
from yolox_trt.executor.snapshot import DeviceStatus
from yolox_trt.executor.stream import Stream

#: Seconds by which a frame is not called late: rounding.
_ROUNDING = 1e-9

#: Device -> the streams whose waiting frame it would take, in the order of service.
_Shares = dict[DeviceState, list[Stream]]
#: Device -> seconds of the calls that it has before it, as if alone.
_Queues = dict[Device, list[float]]


class DynamicPlacement:
    """Earliest finish time, decided when a device becomes free.

    The waiting frames are walked through in the order of service, and each is given to the device
    where it would end first, counting what runs there and what was given before it. A device stays
    idle for a frame that a faster, busy device would still finish earlier. A stream's next frame
    starts only when its last result is delivered, so its order is kept.
    """

    name = "dynamic"
    replans = False

    def place(self, problem: PlacementProblem) -> dict[str, Device]:
        """Return a starting point: where the streams are, and the least load for new ones."""
        fixed = {
            stream.id: stream.current
            for stream in problem.streams
            if stream.current is not None and stream.current in stream.times
        }
        return place_greedily(problem, fixed)

    def devices_for(
        self,
        stream: Stream,
        streams: Mapping[str, Stream],
        devices: Mapping[Device, DeviceState],
        contention: Contention,
        now: float,
    ) -> list[DeviceState]:
        """Return the devices that must ask for work because a stream's frame waits.

        Any idle device might be asked, and all but one would find nothing to do: to wake them
        costs more than to find out here. One whose worker is kept by a callback may be overtaken
        by whoever asks, so that all idle ones are asked then.

        Args:
            stream: the stream; no frame of it is being worked on.
            streams: all streams.
            devices: all devices.
            contention: how they slow one another down.
            now: the present, in seconds.
        """
        idle = [state for state in stream.devices if state.has_room]
        if not idle:
            return idle
        for other in streams.values():
            if other.queue and not other.busy and other is not stream:
                # This frame may take the other's place, and send it to a device that sleeps.
                return [state for state in devices.values() if state.has_room]
        if len(idle) == 1 or not contention.none:
            return idle
        fastest = idle[0]
        for state in idle:
            if stream.devices[state].time < stream.devices[fastest].time:
                fastest = state
        # Else a device that is busy may end it sooner.
        if fastest.waiting and self.frames_for(fastest, [stream], devices, contention, now):
            return [fastest]
        return idle

    def frames_for(
        self,
        state: DeviceState,
        ready: Sequence[Stream],
        devices: Mapping[Device, DeviceState],
        contention: Contention,
        now: float,
    ) -> list[Stream]:
        """Give each ready frame to the device that would end it first; return this device's.

        Args:
            state: the device that asks.
            ready: streams with a waiting frame, in the order of service.
            devices: all devices.
            contention: how they slow one another down.
            now: the present, in seconds.
        """
        free_at = {
            other: other.free_at(now) if other.under_way else now
            for other in devices.values()
            if other.status is DeviceStatus.IN_SERVICE
        }
        own: list[Stream] = []
        contended = not contention.none
        shares: _Shares = {other: [] for other in free_at} if contended else {}
        shares[state] = own
        overtaken: Stream | None = None
        for stream in ready:
            best: DeviceState | None = None
            best_end = math.inf
            for other, model in stream.devices.items():
                end = free_at[other] + model.time
                if end < best_end:
                    best, best_end = other, end
            if best is None:
                continue
            if best is state:
                own.append(stream)
            elif contended:
                shares[best].append(stream)
            if (
                overtaken is None
                and not own
                and state in stream.devices
                and free_at[best] > stream.queue[0].submitted + 1.0 / stream.rate(now)
            ):
                # It could not begin there before its stream's next frame comes.
                overtaken = stream
            free_at[best] = best_end
        if overtaken is not None and not own:
            return [overtaken]  # better late than never: an overload leaves no device idle
        return _in_time(shares, contention, now)[state] if contended else own


def _in_time(shares: _Shares, contention: Contention, now: float) -> _Shares:
    """Give frames to other devices if that is how none of them is late.

    A frame that ends first on one device may slow another one down meanwhile, beyond the deadline
    of what runs there: five frames for the GPU and three for two DLAs can be worse than four and
    four. It is looked for only where it may exist: under overload it would cost much and gain
    nothing.
    """
    streams = [stream for mine in shares.values() for stream in mine]
    last = max((stream.queue[0].deadline for stream in streams), default=math.inf)
    if last == math.inf:
        return shares
    queues: _Queues = {}
    room = 0.0
    for state, mine in shares.items():
        queue = queues[state.device] = []
        running = state.running
        if running is not None:
            running.advance(now)
            left = running.model.alone * len(running.frames) - running.done
            queue.append(abs(left))  # overdue: as in DeviceState.free_at
            if now + queue[0] > min(p.deadline for p in running.frames) + _ROUNDING:
                return shares  # late whatever is done
            queue += [
                call.model.alone * len(call.frames)
                for call in itertools.islice(state.under_way, 1, None)
            ]
        fastest = min(model.alone for model in state.models.values())
        room += max(0.0, (last - now - sum(queue)) // fastest)
        queue += [stream.devices[state].alone for stream in mine]
    if room < len(streams) or not _late(queues, shares, contention, now):
        return shares
    for changed_queues, changed in _alternatives(queues, shares):
        if not _late(changed_queues, changed, contention, now):
            return changed
    return shares


def _alternatives(queues: _Queues, shares: _Shares) -> Iterator[tuple[_Queues, _Shares]]:
    """Yield what comes of giving the last one or two frames of a device to others."""
    for source, streams in shares.items():
        others = [state for state in shares if state is not source]
        for count in (1, 2):
            if len(streams) < count:
                break
            moving = streams[-count:]
            for targets in itertools.product(others, repeat=count):
                if any(t not in s.devices for t, s in zip(targets, moving, strict=True)):
                    continue
                changed_queues = {**queues, source.device: queues[source.device][:-count]}
                changed = {**shares, source: streams[:-count]}
                for target, stream in zip(targets, moving, strict=True):
                    seconds = stream.devices[target].alone
                    queue = changed_queues[target.device]
                    changed_queues[target.device] = [*queue, seconds]
                    changed[target] = [*changed[target], stream]
                yield changed_queues, changed


def _late(queues: _Queues, shares: _Shares, contention: Contention, now: float) -> bool:
    """Tell whether a frame would end after its deadline."""
    states = {state.device: state for state in shares}
    for device, index, end in finish_times(queues, contention):
        state = states[device]
        under_way = state.under_way
        if index < len(under_way):
            deadline = min(pending.deadline for pending in under_way[index].frames)
        else:
            deadline = shares[state][index - len(under_way)].queue[0].deadline
        if now + end > deadline + _ROUNDING:
            return True
    return False
