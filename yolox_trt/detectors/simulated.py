# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""SimulatedDetector: a Detector that sleeps; for planning, tests and benchmarks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.errors import EngineError
from yolox_trt.core.frame import Frame
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.detector import Detector, Ticket
from yolox_trt.engines.simulated import (
    Fault,
    FaultInjector,
    LatencyModel,
    SharedMemoryChip,
    simulated_spec,
)

_GREY = Frame.view(bytes(3), height=1, width=1, encoding="bgr8")


@dataclass(eq=False)
class _Call(Ticket):
    frames: Sequence[Frame] = ()
    end: float = 0.0  # time.monotonic() at which it ends
    fault: Fault | None = None  # strikes at collect()


class SimulatedDetector(Detector):
    """Takes the time of a latency model and reads no pixel.

    Args:
        device: where it pretends to run.
        latency: how long a call takes when no other is under way.
        spec: what its network would take; None for simulated_spec().
        max_batch: most frames of one call (1 on a DLA).
        max_calls: most calls under way. With 1 a call takes its time in enqueue().
        copy: part of a frame's latency, in seconds, in which enqueue() is busy where calls overlap.
        faults: commands faults; None never fails.
        fails_in: where they strike.
        chip: other devices that slow it down, where calls do not overlap; None for none.
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
        max_calls: int = 1,
        copy: float = 0.0,
        faults: FaultInjector | None = None,
        fails_in: Literal["enqueue", "collect"] = "enqueue",
        chip: SharedMemoryChip | None = None,
        result: Callable[[Frame], Detections] | None = None,
        seed: int = 0,
    ) -> None:
        batch = 1 if device.kind == "dla" else max_batch
        super().__init__(device, spec or simulated_spec(), batch, max_calls)
        self._latency = latency
        self._copy = copy
        self._faults = faults
        self._fails_in = fails_in
        self._chip = chip or SharedMemoryChip()
        self._result = result
        self._rng = np.random.default_rng(seed)
        self._idle_from = -math.inf

    def warmup(self) -> None:
        """Run once; faults strike here too."""
        self.detect([_GREY], [PostprocessOptions()])

    def close(self) -> None:
        """Refuse further calls."""
        self._closed = True

    def _start(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> Ticket:
        call = _Call(len(frames), frames=list(frames), fault=self._take("enqueue", len(frames)))
        seconds = self._latency.sample(self._rng, len(frames))
        if self.max_calls > 1:
            copying = self._copy * len(frames)
            time.sleep(copying)
            self._idle_from = max(self._idle_from, time.monotonic()) + max(0.0, seconds - copying)
            call.end = self._idle_from
        else:
            self._chip.work(self.device, seconds)
            _refuse_nan(call.fault)
        return call

    def _finish(self, ticket: Ticket) -> list[Detections]:
        assert isinstance(ticket, _Call)
        time.sleep(max(0.0, ticket.end - time.monotonic()))
        _refuse_nan(ticket.fault or self._take("collect", ticket.batch))
        if self._result is None:
            return [Detections.empty() for _ in ticket.frames]
        return [self._result(frame) for frame in ticket.frames]

    def _take(self, where: str, batch: int) -> Fault | None:
        if self._faults is None or where != self._fails_in:
            return None
        return self._faults.take(batch)


def _refuse_nan(fault: Fault | None) -> None:
    if fault is Fault.NAN:
        raise EngineError(
            "simulated fault: NaN in the network's outputs",
            fix="clear the fault (FaultInjector.clear)",
        )
