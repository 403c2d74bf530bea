# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Detector: the protocol of preprocess + Engine + decode and NMS on one Device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.frame import Frame
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.postprocess_options import PostprocessOptions


@dataclass(frozen=True)
class StageTimes:
    """Wall-clock seconds of the stages of one detect() call (0.0 where not told apart).

    On CUDA the stages are measured by events on the Detector's stream when profiling is on.
    """

    preprocess: float = 0.0
    inference: float = 0.0
    postprocess: float = 0.0

    @property
    def total(self) -> float:
        """Sum of the stages, in seconds."""
        return self.preprocess + self.inference + self.postprocess


@runtime_checkable
class Detector(Protocol):
    """Preprocess + Engine + decode and NMS on one Device, with buffers and a stream of its own.

    Used by one thread at a time. Implementations: CpuDetector (host engines), CudaDetector
    (CUDA engines on the GPU and the DLA), SimulatedDetector (latency model, no network).
    """

    @property
    def device(self) -> Device:
        """Where it runs."""
        ...

    @property
    def spec(self) -> ModelSpec:
        """What its network takes and gives."""
        ...

    @property
    def max_batch(self) -> int:
        """Most frames of one detect() call; 1 on the DLA."""
        ...

    @property
    def stage_times(self) -> StageTimes:
        """Times of the last detect() call."""
        ...

    def detect(
        self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]
    ) -> list[Detections]:
        """Detect in 1 to max_batch frames (of different sizes and encodings, if need be).

        Args:
            frames: the images; their buffers are read before the call returns.
            options: thresholds, one for each frame.

        Returns:
            Detections in source pixels, one for each frame, in order.

        Raises:
            EngineError: the network failed, gave NaN, or its Device is lost.
            FrameError: a frame cannot be read; the Detector stays usable.
        """
        ...

    def warmup(self) -> None:
        """Run once on grey frames, so that the first real frame is not slow."""
        ...

    def close(self) -> None:
        """Release engine, buffers and stream."""
        ...


@runtime_checkable
class OverlappingDetector(Detector, Protocol):
    """A Detector that can be given its next call while the last one computes.

    The copies of the one then overlap the computation of the other. `detect` is
    `collect(enqueue(...))`, and may be called only while no call is under way. An attribute
    `max_calls` (int), if it is there, tells how many calls may be under way; 2 if it is not.
    """

    def enqueue(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> Any:
        """Start a call and return a ticket for `collect`, without waiting for its end.

        Args:
            frames: as in detect(); their buffers must stay unchanged until the call is collected.
            options: thresholds, one for each frame.

        Raises:
            EngineError, FrameError: as detect(); calls before this one are still to be collected.
            RuntimeError: (this very class) not while other calls are under way; collect them.
        """
        ...

    def collect(self, ticket: Any) -> list[Detections]:
        """Wait for the oldest call under way and return what detect() would.

        Raises:
            EngineError: as detect(). The call is over, too.
        """
        ...


def calls_under_way(detector: Detector) -> int:
    """Return how many calls of a detector may be under way at a time: 1 if they cannot overlap."""
    if not (hasattr(detector, "enqueue") and hasattr(detector, "collect")):
        return 1
    return int(getattr(detector, "max_calls", 2))
