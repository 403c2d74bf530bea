# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Many cameras through one executor and a real engine, without ROS.

Frames lie in ordinary memory, as a camera driver's messages do; one thread submits them, evenly
spread over the period. What a run can hold is what the executor, the copies and the engine hold:
transport is not in it (that is `bench ros`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.core.frame import Frame
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.detectors.factory import create_detector, sized_for
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
    options: CamerasOptions,
    cameras: int,
    max_batch: int,
    overlap: bool,
    *,
    window: Callable[[float], tuple[float, float] | None] | None = None,
) -> dict[str, Any]:
    """Measure one number of cameras.

    Args:
        options: the images and the detector.
        cameras: number of cameras.
        max_batch: most images of a call.
        overlap: whether calls overlap.
        window: asked at each image, with the executor's time, for the beginning and the end of
            what is measured; None while that is not known. By default the options' seconds, after
            _WARMUP.
    """
    height, width = options.size
    wanted = dataclasses.replace(options.detector, max_batch=max_batch, calls=cameras)
    detector = create_detector(sized_for(wanted, options.size))
    images = _images(options.encoding, height, width, 2 * cameras)
    ids = [f"camera{i}" for i in range(cameras)]
    results: list[tuple[str, float, float, float]] = []

    def on_result(result: StreamResult) -> None:
        received = result.timing.received
        share = 1.0 / result.timing.batch_size
        results.append((result.frame.stream_id, received, executor.clock() - received, share))

    with InferenceExecutor([detector], overlap=overlap) as executor:
        for name in ids:
            executor.add_stream(
                StreamConfig(id=name, expected_rate=options.rate, queue_depth=options.queue_depth),
                on_result=on_result,
            )
        executor.wait_started(timeout=120.0)
        begin = executor.clock() + _WARMUP
        fixed = (begin, begin + options.seconds)
        submitted: list[float] = []
        bounds: tuple[float, float] | None = None
        pacer = Pacer(options.rate * cameras, catch_up=True)
        while bounds is None or executor.clock() < bounds[1] + _WARMUP:
            pacer.wait()
            index = len(submitted)
            camera = index % cameras
            received = executor.clock()
            bounds = window(received) if window else fixed
            submitted.append(received)
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
    # Frames are counted by their time of arrival, so that a drop and a result are the same.
    first, last = bounds
    measured = [each for each in results if first <= each[1] < last]
    expected = sum(first <= each < last for each in submitted)
    latencies = {name: [each[2] for each in measured if each[0] == name] for name in ids}
    p50, p99 = percentiles([each[2] for each in measured], 50, 99)
    return {
        "cameras": cameras,
        "max_batch": max_batch,
        "overlap": "yes" if overlap else "no",
        "per_second": len(measured) / (last - first),
        "expected": expected,
        "missed": expected - len(measured),
        "p50_ms": p50 * 1e3,
        "p99_ms": p99 * 1e3,
        "worst_p99_ms": max(percentiles(each, 99)[0] for each in latencies.values()) * 1e3,
        "frames_per_call": len(measured) / max(sum(each[3] for each in measured), 1e-9),
    }


def _images(encoding: str, height: int, width: int, count: int) -> list[Any]:
    layout = ENCODINGS[encoding]
    size = int(height * layout.rows_per_height) * width * layout.bytes_per_pixel
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    return [np.roll(noise, 997 * i) for i in range(count)]
