# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""SimulatedDetector: a Detector that sleeps; for planning, tests and benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from yolox_trt.core.bound_network import BoundNetwork
from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.errors import EngineError
from yolox_trt.core.frame import Frame
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.options import PostprocessOptions
from yolox_trt.engines.simulated import (
    Fault,
    FaultInjector,
    LatencyModel,
    SharedMemoryChip,
    simulated_spec,
)
from yolox_trt.executor.detector import StageTimes


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
        """Sleep, then return the results; see executor.detector.Detector."""
        if not 1 <= len(frames) <= self._max_batch or len(frames) != len(options):
            raise ValueError(
                f"{len(frames)} frames with {len(options)} options; expected 1 to "
                f"{self._max_batch} of both"
            )
        self._run(len(frames))
        if self._result is None:
            return [Detections.empty() for _ in frames]
        return [self._result(frame) for frame in frames]

    def warmup(self) -> None:
        """Run once; faults strike here too."""
        self._run(1)

    def close(self) -> None:
        """Refuse further calls."""
        self._closed = True

    def _run(self, batch: int) -> None:
        if self._closed:
            raise EngineError("detect() of a closed detector", expected="an open one")
        start = time.perf_counter()
        fault = self._faults.take(batch) if self._faults is not None else None
        self._chip.work(self._device, self._latency.sample(self._rng, batch))
        self._stage_times = StageTimes(inference=time.perf_counter() - start)
        if fault is Fault.NAN:
            raise EngineError(
                "simulated fault: NaN in the network's outputs",
                fix="clear the fault (FaultInjector.clear)",
            )
