# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Detector: preprocess + Engine + decode and NMS on one Device."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.errors import EngineError, ModelError, YoloxTrtError
from yolox_trt.core.faults import DeviceBusyError, library_fault
from yolox_trt.core.frame import Frame
from yolox_trt.core.model_spec import HeadLayout, ModelSpec
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.plausibility import Plausibility


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


_NOT_TOLD_APART = StageTimes()


@dataclass(eq=False)
class Ticket:
    """A call under way: made by enqueue(), given to collect() once.

    Attributes:
        batch: its frames.
        number: running number of the Detector's call.
        result: its Detections, where they are known before collect().
    """

    batch: int
    number: int = 0
    result: list[Detections] = field(default_factory=list)


class Detector(ABC):
    """Preprocess + Engine + decode and NMS on one Device, with buffers and a stream of its own.

    `detect` is `collect(enqueue(...))`. Where `max_calls` is more than 1, the next call may be
    enqueued before the last one is collected: its copies then overlap the other's computation, or
    cores of their own work on both (`at_once`). Used by one thread at a time. Implementations:
    CpuDetector (host engines), CudaDetector (CUDA engines on the GPU and the DLA),
    SimulatedDetector (latency model, no network).

    Attributes:
        device: where it runs.
        spec: what its network takes and gives.
        max_batch: most frames of one call; 1 on the DLA.
        max_calls: calls that may be under way at a time.
        at_once: calls of them that it works on at the same time; where it is 1, each has the device
            for itself when its turn comes.
        stage_times: times of the last detect() call.
        plausibility: says once that what the network gives cannot be meant so.
        reads_device_arrays: whether it takes frames whose bytes lie on a CUDA device.
    """

    reads_device_arrays = False
    at_once = 1

    def __init__(self, device: Device, spec: ModelSpec, max_batch: int, max_calls: int = 1) -> None:
        if spec.head is HeadLayout.NONE:
            raise ModelError(
                f"a network of model type {spec.model_type} ({', '.join(spec.output_names)})",
                expected="a detector",
                fix="name its kind as model type, or time it by yolox_trt bench network --model "
                "MODEL",
            )
        self.device = device
        self.spec = spec
        self.max_batch = max_batch
        self.max_calls = max_calls
        self.stage_times = _NOT_TOLD_APART
        self.plausibility = Plausibility(device, spec)
        self._closed = False
        self._under_way: deque[Ticket] = deque()

    @property
    def in_flight(self) -> int:
        """Calls enqueued and not yet collected, at most max_calls."""
        return len(self._under_way)

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
            OutOfMemoryError: memory is full; a smaller batch may fit.
            DeviceBrokenError: the CUDA context is broken.
            DeviceBusyError: max_calls are under way already.
            EngineError: the network failed or gave NaN.
            FrameError: a frame cannot be read; the Detector stays usable.
        """
        start = time.perf_counter()
        self.stage_times = _NOT_TOLD_APART
        ticket = self.enqueue(frames, options)
        self._spin()
        detections = self.collect(ticket)
        if self.stage_times is _NOT_TOLD_APART:
            self.stage_times = StageTimes(inference=time.perf_counter() - start)
        return detections

    def enqueue(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> Ticket:
        """Start a call, without waiting for its end where calls overlap.

        Args:
            frames: as in detect(); their buffers must stay unchanged until the call is collected.
            options: thresholds, one for each frame.

        Raises:
            EngineError, FrameError: as detect(); calls before this one are still to be collected.
        """
        if self._closed:
            raise EngineError("a call of a closed detector", expected="an open one")
        if not 1 <= len(frames) <= self.max_batch or len(frames) != len(options):
            raise ValueError(
                f"{len(frames)} frames with {len(options)} options; expected 1 to "
                f"{self.max_batch} of both"
            )
        if len(self._under_way) >= self.max_calls:
            raise DeviceBusyError(
                f"{len(self._under_way)} calls under way on {self.device}",
                expected=f"at most {self.max_calls}",
                fix="collect() the oldest first",
            )
        ticket = self._start(frames, options)
        self._under_way.append(ticket)
        return ticket

    def collect(self, ticket: Ticket) -> list[Detections]:
        """Wait for the oldest call under way and return what detect() would.

        Raises:
            EngineError: as detect(). The call is over, too.
            RuntimeError: another call comes first, or the ticket was collected before.
        """
        if not self._under_way or self._under_way[0] is not ticket:
            raise RuntimeError(f"{ticket} is not the oldest call under way")
        self._under_way.popleft()
        return self._finish(ticket)

    def warmup(self) -> None:
        """Run once on grey frames, so that the first real frame is not slow."""
        self._detect_grey(self.max_batch)

    @abstractmethod
    def close(self) -> None:
        """Release engine, buffers and stream; the detector cannot be used afterwards."""

    @abstractmethod
    def _start(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> Ticket:
        """Start a call that has been checked."""

    @abstractmethod
    def _finish(self, ticket: Ticket) -> list[Detections]:
        """Wait for the oldest call."""

    def _spin(self) -> None:  # noqa: B027 - most have nothing to spin for
        """Wait for the call under way with a core, where that ends sooner than collect()."""

    def _raise(self, error: Exception, what: str) -> NoReturn:
        """Raise a library's error as a fault; one of this package passes through."""
        if isinstance(error, YoloxTrtError):
            raise error
        raise library_fault(
            error,
            f"{what} on {self.device} failed",
            expected="the device to work",
            fix="see the log; if the device is lost, restart the process",
        ) from error

    def _detect_grey(self, batch: int) -> None:
        grey = np.full((self.spec.input_height, self.spec.input_width, 3), 114, np.uint8)
        frame = Frame.from_array(grey)
        self.detect([frame] * batch, [PostprocessOptions()] * batch)
