# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""SimulatedDetector: a Detector that sleeps; for planning, tests and benchmarks."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from yolox_trt.core.bound_network import BoundNetwork
from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.errors import EngineError
from yolox_trt.core.frame import Frame
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.detector import StageTimes
from yolox_trt.engines.simulated import (
    Fault,
    FaultInjector,
    LatencyModel,
    SharedMemoryChip,
    simulated_spec,
)

_DEFAULTS = PostprocessOptions()


class SimulatedDetector(BoundNetwork):
    """Takes the time of a latency model and reads no pixel. Implements detector.Detector.

    Args:
        device: where it pretends to run.
        latency: how long a call takes.
        spec: what its network would take; None for simulated_spec().
        max_batch: most frames of one call (1 on a DLA).
        faults: commands faults; None never fails.
        chip: other devices that slow it down; None for none.
        result: detections of a frame; None gives no detection.
        seed: of the latency model's randomness.
    """

    def __init__(
        self,
        device: Device,
        latency: LatencyModel,
        *,
        spec: ModelSpec | None = None,
        max_batch: int = 1,
        faults: FaultInjector | None = None,
        chip: SharedMemoryChip | None = None,
        result: Callable[[Frame], Detections] | None = None,
        seed: int = 0,
    ) -> None:
        self._device = device
        self._latency = latency
        self._spec = spec or simulated_spec()
        self._max_batch = 1 if device.kind == "dla" else max_batch
        self._faults = faults
        self._chip = chip or SharedMemoryChip()
        self._result = result
        self._rng = np.random.default_rng(seed)
        self._stage_times = StageTimes()
        self._closed = False

    @property
    def stage_times(self) -> StageTimes:
        """Time of the last detect() call; all of it counts as inference."""
        return self._stage_times

    def detect(
        self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]
    ) -> list[Detections]:
        """Sleep, then return the results; see detectors.detector.Detector."""
        self._check_call(frames, options)
        self._run(len(frames))
        return self._results(frames)

    def warmup(self) -> None:
        """Run once; faults strike here too."""
        self._run(1)

    def close(self) -> None:
        """Refuse further calls."""
        self._closed = True

    def _check_call(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> None:
        if not 1 <= len(frames) <= self._max_batch or len(frames) != len(options):
            raise ValueError(
                f"{len(frames)} frames with {len(options)} options; expected 1 to "
                f"{self._max_batch} of both"
            )

    def _results(self, frames: Sequence[Frame]) -> list[Detections]:
        if self._result is None:
            return [Detections.empty() for _ in frames]
        return [self._result(frame) for frame in frames]

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("detect() of a closed detector", expected="an open one")

    def _run(self, batch: int) -> None:
        self._check_open()
        start = time.perf_counter()
        fault = self._faults.take(batch) if self._faults is not None else None
        self._chip.work(self._device, self._latency.sample(self._rng, batch))
        self._stage_times = StageTimes(inference=time.perf_counter() - start)
        _refuse_nan(fault)


def _refuse_nan(fault: Fault | None) -> None:
    if fault is Fault.NAN:
        raise EngineError(
            "simulated fault: NaN in the network's outputs",
            fix="clear the fault (FaultInjector.clear)",
        )


class _Ticket(NamedTuple):
    """A call under way: its frames, when it ends (time.monotonic), and a fault that waits."""

    frames: list[Frame]
    end: float
    fault: Fault | None


class OverlappingSimulatedDetector(SimulatedDetector):
    """A SimulatedDetector whose calls overlap. Implements detector.OverlappingDetector.

    Args:
        device: where it pretends to run.
        latency: how long a call takes when no other is under way.
        copy: part of a frame's latency, in seconds, in which the host is busy with its copy.
        max_calls: most calls under way.
        max_batch: most frames of one call (1 on a DLA).
        faults: commands faults; None never fails.
        fails_in: where they strike.
        result: detections of a frame; None gives no detection.
    """

    def __init__(
        self,
        device: Device,
        latency: LatencyModel,
        *,
        copy: float,
        max_calls: int = 2,
        max_batch: int = 1,
        faults: FaultInjector | None = None,
        fails_in: Literal["enqueue", "collect"] = "enqueue",
        result: Callable[[Frame], Detections] | None = None,
    ) -> None:
        super().__init__(device, latency, max_batch=max_batch, faults=faults, result=result)
        self.max_calls = max_calls
        self._copy = copy
        self._fails_in = fails_in
        self._under_way: deque[_Ticket] = deque()
        self._idle_from = -math.inf

    def enqueue(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> _Ticket:
        """Start a call; sleeps for the copy. See detector.OverlappingDetector."""
        self._check_open()
        self._check_call(frames, options)
        if len(self._under_way) >= self.max_calls:
            raise RuntimeError(f"{self.max_calls} calls under way; collect() the oldest first")
        fault = self._take("enqueue", len(frames))
        copying = self._copy * len(frames)
        time.sleep(copying)
        computing = max(0.0, self._latency.sample(self._rng, len(frames)) - copying)
        self._idle_from = max(self._idle_from, time.monotonic()) + computing
        ticket = _Ticket(list(frames), self._idle_from, fault)
        self._under_way.append(ticket)
        return ticket

    def collect(self, ticket: _Ticket) -> list[Detections]:
        """Sleep until the call ends and return its results."""
        if not self._under_way or self._under_way[0] is not ticket:
            raise RuntimeError("not the oldest call under way")
        self._under_way.popleft()
        time.sleep(max(0.0, ticket.end - time.monotonic()))
        _refuse_nan(ticket.fault or self._take("collect", len(ticket.frames)))
        return self._results(ticket.frames)

    def detect(
        self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]
    ) -> list[Detections]:
        """Enqueue and collect; no other call may be under way."""
        begin = time.perf_counter()
        results = self.collect(self.enqueue(frames, options))
        self._stage_times = StageTimes(inference=time.perf_counter() - begin)
        return results

    def warmup(self) -> None:
        """Run once; faults strike here too."""
        self.detect([Frame.view(bytes(3), height=1, width=1, encoding="bgr8")], [_DEFAULTS])

    def _take(self, where: str, batch: int) -> Fault | None:
        if self._faults is None or where != self._fails_in:
            return None
        return self._faults.take(batch)
