# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Many cameras through one executor and a real engine, without ROS.

Frames lie in ordinary memory, as a camera driver's messages do; one thread submits them, evenly
spread over the period. What a run can hold is what the executor, the copies and the engine hold:
transport is not in it (that is `bench ros`).
"""

from __future__ import annotations

import dataclasses
import threading
import time
from itertools import product
from typing import Any

import numpy as np

from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.core.frame import Frame
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.detectors.factory import create_detector
from yolox_trt.evaluation.bench.report import Report, Table
from yolox_trt.evaluation.bench.timing import percentiles
from yolox_trt.evaluation.options import CamerasOptions
from yolox_trt.evaluation.pacing import Pacer
from yolox_trt.executor.inference_executor import InferenceExecutor
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.executor.stream_result import StreamResult

#: Seconds at the start that are not measured.
_WARMUP = 0.5
_COLUMNS = {
    "cameras": "{cameras}",
    "max batch": "{max_batch}",
    "overlap": "{overlap}",
    "results/s": "{per_second:.0f}",
    "missed": "{missed} of {expected}",
    "latency p50 ms": "{p50_ms:.2f}",
    "p99": "{p99_ms:.2f}",
    "frames a call": "{frames_per_call:.2f}",
}


def measure(options: CamerasOptions, on_progress: Progress = no_progress) -> Report:
    """Measure every number of cameras with every largest batch, with overlap and without."""
    figures = []
    runs = list(product(options.max_batch, options.overlap, options.cameras))
    for done, (max_batch, overlap, cameras) in enumerate(runs):
        on_progress("measuring", done, len(runs))
        figures.append(measure_cameras(options, cameras, max_batch, overlap == "yes"))
    return Report(figures, [Table.of(_COLUMNS, figures)])


def measure_cameras(
    options: CamerasOptions, cameras: int, max_batch: int, overlap: bool
) -> dict[str, Any]:
    """Measure one number of cameras."""
    detector = create_detector(dataclasses.replace(options.detector, max_batch=max_batch))
    height, width = options.size
    images = _images(options.encoding, height, width, 2 * cameras)
    ids = [f"camera{i}" for i in range(cameras)]
    latencies: list[float] = []
    calls: list[float] = []
    lock = threading.Lock()
    first = last = 0.0

    def on_result(result: StreamResult) -> None:
        now = executor.clock()
        # Frames are counted by their time of arrival, so that a drop and a result are the same.
        if first <= result.timing.received < last:
            with lock:
                latencies.append(now - result.timing.received)
                calls.append(1.0 / result.timing.batch_size)

    with InferenceExecutor([detector], overlap=overlap) as executor:
        for name in ids:
            executor.add_stream(
                StreamConfig(id=name, expected_rate=options.rate, queue_depth=options.queue_depth),
                on_result=on_result,
            )
        executor.wait_started(timeout=120.0)
        first = executor.clock() + _WARMUP
        last = first + options.seconds
        expected = 0
        rate = options.rate * cameras
        pacer = Pacer(rate, catch_up=True)
        for index in range(int((options.seconds + 2 * _WARMUP) * rate)):
            pacer.wait()
            camera = index % cameras
            received = executor.clock()
            expected += first <= received < last
            executor.submit(
                Frame.view(
                    images[camera + cameras * (index // cameras % 2)],
                    height=height,
                    width=width,
                    encoding=options.encoding,
                    stream_id=ids[camera],
                    received_ns=int(received * 1e9),
                )
            )
        time.sleep(0.2)  # the last results
    p50, p99 = percentiles(latencies, 50, 99)
    return {
        "cameras": cameras,
        "max_batch": max_batch,
        "overlap": "yes" if overlap else "no",
        "per_second": len(latencies) / options.seconds,
        "expected": expected,
        "missed": expected - len(latencies),
        "p50_ms": p50 * 1e3,
        "p99_ms": p99 * 1e3,
        "frames_per_call": len(calls) / max(sum(calls), 1e-9),
    }


def _images(encoding: str, height: int, width: int, count: int) -> list[Any]:
    layout = ENCODINGS[encoding]
    size = int(height * layout.rows_per_height) * width * layout.bytes_per_pixel
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    return [np.roll(noise, 997 * i) for i in range(count)]
