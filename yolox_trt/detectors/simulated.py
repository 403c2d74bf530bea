# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""SimulatedDetector: a Detector that sleeps; for trials without the hardware, and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.frame import Frame
from yolox_trt.core.mask import Mask
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.detector import Detector, Ticket
from yolox_trt.engines.simulated import LatencyModel, SharedMemoryChip, simulated_spec

_GREY = Frame.view(bytes(3), height=1, width=1, encoding="bgr8")


class SimulatedDetector(Detector):
    """Takes the time of a latency model, reads no pixel and detects nothing.

    A mask that is asked for has class 0 everywhere.

    Args:
        device: where it pretends to run.
        latency: how long a call takes when no other is under way.
        spec: what its network would take; None for simulated_spec().
        max_batch: most frames of one call (1 on a DLA).
        chip: other devices that slow it down; None for none.
    """

    def __init__(
        self,
        device: Device,
        latency: LatencyModel,
        *,
        spec: ModelSpec | None = None,
        max_batch: int = 1,
        chip: SharedMemoryChip | None = None,
    ) -> None:
        batch = 1 if device.kind == "dla" else max_batch
        super().__init__(device, spec or simulated_spec(), batch)
        self._latency = latency
        self._chip = chip or SharedMemoryChip()
        self._rng = np.random.default_rng(0)

    def warmup(self) -> None:
        """Run once."""
        self.detect([_GREY], [PostprocessOptions()])

    def close(self) -> None:
        """Refuse further calls."""
        self._closed = True

    def _start(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> Ticket:
        self._chip.work(self.device, self._latency.sample(self._rng, len(frames)))
        found = [Detections.empty() for _ in frames]
        for index, (frame, option) in enumerate(zip(frames, options, strict=True)):
            if option.masks and self.spec.segmentation is not None:
                nothing = np.zeros((frame.height, frame.width), np.uint8)
                found[index] = replace(found[index], mask=Mask.encode(nothing))
        return Ticket(len(frames), result=found)

    def _finish(self, ticket: Ticket) -> list[Detections]:
        return ticket.result
