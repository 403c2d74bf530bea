# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The executor's own time for each frame, with simulated engines.

The engines sleep for a constant time, so what is left is the executor: from submit() to the start
of detect() (less the time that the device was still busy with another frame), and from the end of
detect() to the call of on_result.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.frame import Frame
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.detectors.simulated import SimulatedDetector
from yolox_trt.engines.simulated import ConstantLatency
from yolox_trt.evaluation.bench.report import Report, Table
from yolox_trt.evaluation.bench.timing import describe_machine, percentiles
from yolox_trt.evaluation.options import ExecutorOptions
from yolox_trt.evaluation.pacing import Pacer
from yolox_trt.executor.inference_executor import InferenceExecutor
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.executor.stream_result import StreamResult

#: Times of every frame in arrays made before the run, in seconds of time.monotonic(), by
#: Frame.stamp_ns. A list or dictionary of frames would grow while it is measured, and Python's
#: garbage collector would walk through it at the cost of the frames that wait meanwhile.
_STAMPS = ("submitted", "device_free", "begin", "end", "delivered")
_Stamps: TypeAlias = "Mapping[str, npt.NDArray[np.float64]]"
_PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
_STAGES = {
    "to_engine": "queue to engine",
    "to_result": "engine to result",
    "own": "the executor's own",
    "engine": "engine (asked to sleep)",
    "total": "submit to result",
}


class _StampingDetector(SimulatedDetector):
    """Notes when each detect() call begins and ends."""

    def __init__(self, device: Device, seconds: float, stamps: _Stamps) -> None:
        super().__init__(device, ConstantLatency(seconds))
        self._stamps = stamps
        self._last_end = 0.0

    def detect(
        self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]
    ) -> list[Detections]:
        """Detect, and note the end of the call before, begin and end for the frame."""
        begin = time.monotonic()
        results = super().detect(frames, options)
        end = time.monotonic()
        for frame in frames:
            if frame.stream_id:  # the executor's own grey frames have none
                self._stamps["device_free"][frame.stamp_ns] = self._last_end
                self._stamps["begin"][frame.stamp_ns] = begin
                self._stamps["end"][frame.stamp_ns] = end
        self._last_end = end
        return results


def measure(options: ExecutorOptions, on_progress: Progress = no_progress) -> Report:
    """Run the load.

    The document has percentiles in seconds by stage ("to_engine", "to_result", "own", "engine",
    "total"), each a dict of p50, p90, p99 and max; counters; CPU seconds for each frame. Progress
    is told once a second: what it takes of this process is measured, too.
    """
    figures = measure_executor(options, on_progress)
    figures["machine"] = describe_machine("numpy")
    stages = [
        {"stage": title} | {key: 1e3 * value for key, value in figures["stages"][name].items()}
        for name, title in _STAGES.items()
    ]
    devices = ", ".join(map(str, options.devices))
    title = (
        f"{options.streams} streams x {options.rate:g} Hz ({options.arrival}), engines of "
        f"{options.engine_ms:g} ms on {devices}, {options.policy}, {figures['frames']} frames"
    )
    counters = (
        f"received {figures['received']}, processed {figures['processed']}, dropped "
        f"{figures['dropped']}; CPU {figures['cpu_seconds_per_frame'] * 1e3:.3f} ms a frame "
        "(with the source of the frames)"
    )
    columns = {"ms": "{stage}", **{key: f"{{{key}:.3f}}" for key in _PERCENTILES}}
    table = Table.of(columns, stages, title)
    return Report(figures, [table], [counters, figures["machine"]])


def measure_executor(
    options: ExecutorOptions, on_progress: Progress = no_progress
) -> dict[str, Any]:
    """Run the load and return the figures of `measure`."""
    streams, rate, seconds = options.streams, options.rate, options.seconds
    engine_seconds = options.engine_ms / 1e3
    periods = int((1.0 + seconds) * rate)
    stamps = {name: np.full(periods * streams, np.nan) for name in _STAMPS}
    detectors = [_StampingDetector(device, engine_seconds, stamps) for device in options.devices]

    def on_result(result: StreamResult) -> None:
        stamps["delivered"][result.frame.stamp_ns] = time.monotonic()

    names = [f"camera{i}" for i in range(streams)]
    executor = InferenceExecutor(detectors, policy=options.policy)
    for name in names:
        executor.add_stream(StreamConfig(id=name, expected_rate=rate), on_result)
    with executor:
        executor.wait_started(10.0)
        source = threading.Thread(
            target=_submit,
            args=(executor, names, rate, options.arrival == "staggered", periods, stamps),
            daemon=True,
        )
        time.sleep(0.2)
        begin, cpu_begin = time.monotonic(), time.process_time()
        source.start()
        for second in itertools.count():
            on_progress("measuring", second, int(1.0 + seconds))
            source.join(1.0)
            if not source.is_alive():
                break
        elapsed, cpu = time.monotonic() - begin, time.process_time() - cpu_begin
        time.sleep(0.05 + 2.0 * engine_seconds)
        snapshot = executor.snapshot()
    counted = (stamps["submitted"] >= begin + 1.0) & np.isfinite(stamps["delivered"])
    to_engine = stamps["begin"] - np.fmax(stamps["submitted"], stamps["device_free"])
    to_result = stamps["delivered"] - stamps["end"]
    stages = {
        "to_engine": to_engine,
        "to_result": to_result,
        "own": to_engine + to_result,
        "engine": stamps["end"] - stamps["begin"],
        "total": stamps["delivered"] - stamps["submitted"],
    }
    counters = snapshot.streams.values()
    return {
        "stages": {
            name: dict(
                zip(_PERCENTILES, percentiles(values[counted], *_PERCENTILES.values()), strict=True)
            )
            for name, values in stages.items()
        },
        "frames": int(counted.sum()),
        "received": sum(s.received for s in counters),
        "processed": sum(s.processed for s in counters),
        "dropped": sum(s.dropped_total for s in counters),
        "moves": sum(s.moves for s in counters),
        "cpu_seconds_per_frame": cpu / stamps["submitted"].size,
        "frames_per_second": stamps["submitted"].size / elapsed,
    }


def _submit(
    executor: InferenceExecutor,
    names: Sequence[str],
    rate: float,
    staggered: bool,
    periods: int,
    stamps: _Stamps,
) -> None:
    """Submit frames on time, as a node's callback thread does."""
    pixels = np.zeros(3, np.uint8)
    pacer = Pacer(rate * len(names) if staggered else rate, catch_up=True)
    for number in range(periods * len(names)):
        index = number % len(names)
        if staggered or index == 0:
            pacer.wait()
        received = time.monotonic_ns()
        name = names[index]
        frame = Frame(
            pixels, 1, 1, "bgr8", 3, stamp_ns=number, stream_id=name, received_ns=received
        )
        stamps["submitted"][number] = time.monotonic()
        executor.submit(frame)
