# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Worst-case response times on one device: analysis of a non-preemptive server."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: Comparisons of times, in seconds.
EPSILON = 1e-9
#: Instances of a stream that are looked at before the analysis gives up (loads close to 1).
MAX_INSTANCES = 1_000


@dataclass(frozen=True, kw_only=True)
class ServedStream:
    """One stream on a device.

    Attributes:
        id: the stream.
        time: longest service of a frame, C, in seconds.
        period: shortest mean time between frames, T, in seconds.
        jitter: longest delay of a frame behind its period, J, in seconds.
        priority: a higher number goes first.
    """

    id: str
    time: float
    period: float
    jitter: float = 0.0
    priority: int = 0


def worst_response_times(
    streams: Sequence[ServedStream], interference: Sequence[ServedStream] = ()
) -> dict[str, float]:
    """Bound the time from a frame's arrival to its result.

    A device serves one frame at a time and never interrupts it. For stream i let hp be the
    streams of its own or a higher priority (others) and B the longest service of a lower one,
    which may just have begun. The instance q = 0, 1, ... of a busy period that starts with a
    frame of every stream begins its service at the least fixed point of

        w(q) = B + q C_i + sum over j in hp of (floor((w(q) + J_j) / T_j) + 1) C_j

    and the bound is the greatest w(q) + C_i - q T_i + J_i over the instances of the busy period,
    which ends when no frame of i or hp waits (it may go on after an early instance of i).
    Streams of one priority all count as going first, which holds for every order among them
    (round robin, earliest deadline first).

    Source: L. George, N. Rivierre, M. Spuri, "Preemptive and non-preemptive real-time
    uniprocessor scheduling", INRIA RR-2966 (1996); all instances of the busy period as in R. I.
    Davis, A. Burns, R. J. Bril, J. J. Lukkien, "Controller Area Network (CAN) schedulability
    analysis: refuted, revisited and revised", Real-Time Systems 35 (2007).

    It holds where no frame is dropped (bound <= period) and no stream waits as long as the
    scheduler's `starvation_limit`, and without batching.

    Args:
        streams: what the device serves.
        interference: work that takes time away from any service under way, such as the GPU's
            share of frames that run on a DLA.

    Returns:
        Seconds by stream id; infinity where the load of the stream, its hp and the interference
        reaches 1, or comes so close that the busy period has more than MAX_INSTANCES instances, and
        where one of them has an infinite jitter.
    """
    return {stream.id: _response(stream, streams, interference) for stream in streams}


def _response(
    stream: ServedStream, streams: Sequence[ServedStream], interference: Sequence[ServedStream]
) -> float:
    others = [s for s in streams if s.id != stream.id and s.priority >= stream.priority]
    blocking = max((s.time for s in streams if s.priority < stream.priority), default=0.0)
    everybody = (stream, *others, *interference)
    load = sum(s.time / s.period for s in everybody)
    if load > 1.0 - EPSILON or any(math.isinf(s.jitter) for s in everybody):
        return math.inf

    def waiting(length: float) -> float:
        """Frames that come within a busy period take this much time."""
        return blocking + sum(
            math.ceil((length + s.jitter - EPSILON) / s.period) * s.time for s in everybody
        )

    def end_of(instance: int) -> float:
        """Return the end of an instance's service, from the start of the busy period."""
        own = blocking + (instance + 1) * stream.time
        return _fixed_point(
            lambda end: (
                own
                + sum(_arrivals(s, end - stream.time) * s.time for s in others)
                + sum(_arrivals(s, end) * s.time for s in interference)
            ),
            own,
        )

    start = blocking + sum(s.time for s in everybody)
    length = _fixed_point(waiting, start, MAX_INSTANCES * stream.period)
    if math.isinf(length):
        return math.inf
    instances = math.ceil((length + stream.jitter - EPSILON) / stream.period)
    return max(
        end_of(instance) - instance * stream.period + stream.jitter
        for instance in range(max(1, instances))
    )


def _fixed_point(
    following: Callable[[float], float], start: float, limit: float = math.inf
) -> float:
    """Return the least fixed point above `start`; infinity beyond `limit`."""
    value = start
    while (after := following(value)) > value + EPSILON:
        if after > limit:
            return math.inf
        value = after
    return after


def _arrivals(stream: ServedStream, until: float) -> int:
    return math.floor((until + stream.jitter + EPSILON) / stream.period) + 1
