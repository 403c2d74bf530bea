# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""StreamResult: what a stream's callback gets for one frame."""

from __future__ import annotations

from dataclasses import dataclass

from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.frame import Frame
from yolox_trt.detectors.detector import StageTimes


@dataclass(frozen=True, slots=True)
class ResultTiming:
    """When a frame went where, in seconds of the executor's clock.

    Attributes:
        received: arrival (Frame.received_ns; the time of submit() where that is 0).
        submitted: entry of the queue.
        started: start of detect(); where calls that overlap take turns (Detector.at_once is
            1), the end of the call before it if that is later.
        finished: end of detect().
        stages: the stages of the whole batch, as the detector measured them.
        batch_size: frames that shared the detect() call.
    """

    received: float
    submitted: float
    started: float
    finished: float
    stages: StageTimes
    batch_size: int

    @property
    def service(self) -> float:
        """Seconds inside detect()."""
        return self.finished - self.started

    @property
    def total(self) -> float:
        """Seconds from arrival to the end of detect()."""
        return self.finished - self.received


@dataclass(frozen=True, slots=True)
class StreamResult:
    """Detections of one frame.

    Attributes:
        frame: the frame itself; its header carries the source stamp.
        detections: boxes in source pixels.
        device: where it ran.
        model: the model that ran (another than the stream's only with allow_model_change).
        timing: when.
        deadline_missed: whether it came later than the stream's deadline.
    """

    frame: Frame
    detections: Detections
    device: Device
    model: str
    timing: ResultTiming
    deadline_missed: bool
