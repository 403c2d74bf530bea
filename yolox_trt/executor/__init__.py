# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The shared inference executor: streams, devices, placement."""

from yolox_trt.detectors.detector import Detector, StageTimes
from yolox_trt.executor.inference_executor import InferenceExecutor
from yolox_trt.executor.outcomes import DropReason, SubmitOutcome
from yolox_trt.executor.scheduler_options import SchedulerOptions
from yolox_trt.executor.snapshot import (
    DeviceSnapshot,
    DeviceStatus,
    ExecutorSnapshot,
    ExecutorState,
    StreamSnapshot,
)
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.executor.stream_result import ResultTiming, StreamResult
from yolox_trt.executor.worker_pool import DetectorFactory

__all__ = [
    "Detector",
    "DetectorFactory",
    "DeviceSnapshot",
    "DeviceStatus",
    "DropReason",
    "ExecutorSnapshot",
    "ExecutorState",
    "InferenceExecutor",
    "ResultTiming",
    "SchedulerOptions",
    "StageTimes",
    "StreamConfig",
    "StreamResult",
    "StreamSnapshot",
    "SubmitOutcome",
]
