# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A SimulatedDetector whose calls overlap, fail on command, and detect what a test says."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.errors import EngineError
from yolox_trt.core.frame import Frame
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors import simulated
from yolox_trt.detectors.detector import Ticket
from yolox_trt.engines.simulated import Fault, FaultInjector, LatencyModel


@dataclass(eq=False)
class _Call(Ticket):
    frames: Sequence[Frame] = ()
    end: float = 0.0  # time.monotonic() at which it ends
    fault: Fault | None = None  # strikes at collect()


class SimulatedDetector(simulated.SimulatedDetector):
    """The package's own, with more to command.

    Args:
        device, latency, spec, max_batch: as there.
        max_calls: most calls under way. With 1 a call takes its time in enqueue().
        copy: part of a frame's latency, in seconds, in which enqueue() is busy where calls overlap.
        faults: commands faults; None never fails.
        fails_in: where they strike.
        result: detections of a frame; None gives no detection.
    """

    def __init__(
        self,
        device: Device,
        latency: LatencyModel,
        spec: ModelSpec | None = None,
        *,
        max_batch: int = 1,
        max_calls: int = 1,
        copy: float = 0.0,
        faults: FaultInjector | None = None,
        fails_in: Literal["enqueue", "collect"] = "enqueue",
        result: Callable[[Frame], Detections] | None = None,
    ) -> None:
        super().__init__(device, latency, spec=spec, max_batch=max_batch)
        self.max_calls = max_calls
        self._copy = copy
        self._faults = faults
        self._fails_in = fails_in
        self._result = result
        self._idle_from = -math.inf

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
