# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What known contention does to loads and to the ends of calls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from yolox_trt.core.device import Device
from yolox_trt.engines.simulated import Contention

#: Seconds of work that count as none: rounding.
_NOTHING = 1e-12


def contended_loads(demand: Mapping[Device, float], contention: Contention) -> dict[Device, float]:
    """Return the share of time that each device is busy, slowed by the others.

    All devices are taken to begin together, as cameras that are triggered together let them: the
    times in which two work then overlap as much as they can.

    Args:
        demand: device -> load if it worked alone.
        contention: factors.

    Returns:
        Device -> its load; above 1, 1 + the share of work that stays undone, as if alone.
    """
    if contention.none:
        return dict(demand)
    left = {device: work for device, work in demand.items() if work > 0.0}
    loads = dict.fromkeys(demand, 0.0)
    now = 0.0
    while left and now < 1.0:
        factors = {device: contention.slowdown(device, left) for device in left}
        step = min(1.0 - now, *(work * factors[device] for device, work in left.items()))
        now += step
        for device, factor in factors.items():
            left[device] -= step / factor
            if left[device] <= _NOTHING:
                loads[device] = now
                del left[device]
    loads.update({device: 1.0 + work for device, work in left.items()})
    return loads


def finish_times(
    queues: Mapping[Device, Sequence[float]], contention: Contention
) -> Iterator[tuple[Device, int, float]]:
    """Yield the ends of calls, in their order, if all devices begin now and go on without a pause.

    Args:
        queues: device -> seconds of its calls, as if alone, in their order.
        contention: factors.

    Yields:
        Device, index of the call in its queue, and seconds from now to its end.
    """
    left = {device: queue[0] for device, queue in queues.items() if queue}
    index = dict.fromkeys(left, 0)
    factors = {device: contention.slowdown(device, left) for device in left}
    now = 0.0
    while left:
        step = math.inf
        for device, work in left.items():
            step = min(step, work * factors[device])
        now += step
        ended = False
        for device, factor in factors.items():
            left[device] -= step / factor
            if left[device] > _NOTHING:
                continue
            yield device, index[device], now
            index[device] += 1
            if index[device] < len(queues[device]):
                left[device] = queues[device][index[device]]
            else:
                del left[device]
                ended = True
        if ended:
            factors = {device: contention.slowdown(device, left) for device in left}
