# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Cameras as processes, the real multi_camera, its results here.

The names of a camera's figures are those of ros2_benchmark:

- NUM_FRAMES_SENT: images that were published in the measured time.
- NUM_MISSED_FRAMES: of them without a result, wherever they were lost.
- MEAN_PLAYBACK_FRAME_RATE, MEAN_FRAME_RATE: images published and results, a second.
- MEAN_LATENCY, LATENCY_P50, LATENCY_P99, MAX_LATENCY: milliseconds from the image's stamp, before
  publish(), to its result here.
- STD_DEV_JITTER: standard deviation of the time between results, in milliseconds.
- NODE_P50, NODE_P99: milliseconds from the message's arrival in the node to the end of publish().
- DETECT_P50: of them inside Detector.detect().
- OVERHEAD_P50, OVERHEAD_P99: the rest: conversion, waiting for the device, publishing.
- DEVICE: the device that served the camera last.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from vision_msgs.msg import Detection2DArray

from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.evaluation.bench.report import Report, Table
from yolox_trt.evaluation.bench.resources import ResourceMeter, cpu_seconds
from yolox_trt.evaluation.bench.timing import describe_machine, percentiles
from yolox_trt.ros.messages.images import stamp_to_ns
from yolox_trt.ros.middleware import transport_environment
from yolox_trt.ros.rclpy_versions import create_spinner
from yolox_trt.ros.tools.child_process import ACTIVE, ChildProcess, ChildProcesses
from yolox_trt.ros.tools.options import CameraOptions, RosBenchOptions, model_file
from yolox_trt.ros.tools.session import ResultListener, private_domain, ros_node

#: Seconds that everything may take to start; engines may have to be built.
START_TIMEOUT = 600.0
_COLUMNS = {
    "camera": "{name}",
    "device": "{DEVICE}",
    "sent/s": "{MEAN_PLAYBACK_FRAME_RATE:.1f}",
    "results/s": "{MEAN_FRAME_RATE:.1f}",
    "missed": "{NUM_MISSED_FRAMES}",
    "latency p50 / p99 ms": "{LATENCY_P50:.1f} / {LATENCY_P99:.1f}",
    "node p50 / p99": "{NODE_P50:.2f} / {NODE_P99:.2f}",
    "detect p50": "{DETECT_P50:.2f}",
    "overhead p50 / p99": "{OVERHEAD_P50:.2f} / {OVERHEAD_P99:.2f}",
}
#: Figures of what came back, and those of /diagnostics by their keys there.
_RECEIVED = (
    "NUM_FRAMES_SENT", "NUM_MISSED_FRAMES", "MEAN_PLAYBACK_FRAME_RATE", "MEAN_FRAME_RATE",
    "MEAN_LATENCY", "LATENCY_P50", "LATENCY_P99", "MAX_LATENCY", "STD_DEV_JITTER",
)  # fmt: skip
#: Groups of processes whose CPU time is told.
_PARTS = ("multi_camera", "ingest", "cameras")
_DIAGNOSTICS = {
    "NODE_P50": "latency_p50_ms",
    "NODE_P99": "latency_p99_ms",
    "DETECT_P50": "detect_p50_ms",
    "OVERHEAD_P50": "overhead_p50_ms",
    "OVERHEAD_P99": "overhead_p99_ms",
}


class BenchNode(ResultListener):
    """Collects the results of all cameras: (number, stamp, arrival) each."""

    def __init__(self, cameras: Sequence[str]) -> None:
        super().__init__(cameras, self._on_result)
        self.results: dict[str, list[tuple[int, int, int]]] = {name: [] for name in cameras}

    def _on_result(self, name: str, message: Detection2DArray) -> None:
        stamp = stamp_to_ns(message.header.stamp)
        self.results[name].append((int(message.header.frame_id), stamp, time.time_ns()))


def measure(options: RosBenchOptions, on_progress: Progress = no_progress) -> Report:
    """Let cameras send and multi_camera detect, and evaluate what comes back.

    Raises:
        YoloxTrtError: one of the processes ended.
    """
    cameras = camera_names(options.cameras)
    results, usage = run_cameras(options, [cameras], on_progress)
    return _report(options, results, usage)


def camera_names(count: int) -> list[str]:
    """Name the cameras of a benchmark."""
    return [f"camera{index}" for index in range(count)]


def run_cameras(
    options: RosBenchOptions, groups: Sequence[Sequence[str]], on_progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Run cameras, and a multi_camera process for each group of them.

    Args:
        options: of the cameras and of each process.
        groups: names of cameras.
        on_progress: told of each second.

    Returns:
        The figures of each camera, and what all processes that detect took; see ResourceMeter.

    Raises:
        YoloxTrtError: one of the processes ended.
    """
    os.environ.update(private_domain(transport_environment()))
    cameras = [name for group in groups for name in group]
    meter = ResourceMeter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="yolox_trt_bench_")))
        if options.logs:
            logs = options.logs
            stack.callback(lambda: shutil.copytree(folder, logs, dirs_exist_ok=True))
        node, spinner = stack.enter_context(
            ros_node(lambda: BenchNode(cameras), make_executor=create_spinner)
        )
        processes = stack.enter_context(ChildProcesses(folder))
        on_progress("starting multi_camera", 0, None)
        consumers = [
            processes.start_multi_camera(
                _parameters(options, group),
                0.0,
                name="multi_camera" if len(groups) == 1 else f"multi_camera{index}",
            )
            for index, group in enumerate(groups)
        ]
        for consumer in consumers:
            consumer.wait_for(ACTIVE, START_TIMEOUT)
        picture = write_noise(folder, options.size)
        for name in cameras:
            processes.start_camera(
                CameraOptions(
                    name=name,
                    photograph=str(picture),
                    rate=options.rate,
                    size=options.size,
                    still=True,
                    numbered=True,
                    compressed=options.compressed,
                )
            )
        return _measure(options, node, spinner, processes, consumers, meter, on_progress)


def _parameters(options: RosBenchOptions, cameras: Sequence[str]) -> dict[str, dict[str, Any]]:
    model = model_file(options.model)
    return {
        "/**": {
            "queue_depth": options.queue_depth,
            "qos_depth": options.qos_depth,
            "transport": "compressed" if options.compressed else "raw",
            "decoder": options.decoder,
        },
        "multi_camera": {
            "cameras": list(cameras),
            "model": str(model),
            "devices": [str(device or "auto") for device in options.devices],
            "engine": options.engine,
            "precision": options.precision or "",
            "placement": options.placement,
            "max_batch": options.max_batch,
            "batch_window": options.batch_window,
            "ingest_processes": options.ingest,
        },
    }


def write_noise(folder: Path, size: tuple[int, int]) -> Path:
    """Write a picture of coarse noise, a sixteenth of a camera's size; return its path."""
    shape = (size[0] // 16, size[1] // 16, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    cv2.imwrite(str(folder / "picture.png"), noise)
    return folder / "picture.png"


def _measure(
    options: RosBenchOptions,
    node: BenchNode,
    spinner: Any,
    processes: ChildProcesses,
    consumers: Sequence[ChildProcess],
    meter: ResourceMeter,
    on_progress: Progress,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Let it run, and evaluate the images whose stamps lie in the measured time."""
    total = int(options.warmup + options.duration)

    def spin(seconds: float, done_before: float | None = None) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            spinner.spin_once(timeout_sec=min(left, 0.1))
            if done_before is not None:
                on_progress("measuring", int(done_before + seconds - left), total)

    waiting_since = time.monotonic()
    on_progress("waiting for every camera's first result", 0, None)
    while not all(node.results.values()) and time.monotonic() < waiting_since + 30.0:
        spin(0.1)
        processes.check_alive()
    drivers = [child.pid for child in processes.children if child not in consumers]
    spin(options.warmup, 0.0)
    main, others = (
        [psutil.Process(pid) for pid in pids] for pids in ([c.pid for c in consumers], drivers)
    )
    before, drivers_before = cpu_seconds(main), cpu_seconds(others)
    begin = time.time_ns()
    pids = [consumer.pid for consumer in consumers]
    usage = meter.measure(pids, lambda: spin(options.duration, options.warmup))
    finish = time.time_ns()
    per_second = 100.0 / ((finish - begin) * 1e-9)
    usage["multi_camera"] = (cpu_seconds(main) - before) * per_second
    usage["ingest"] = usage["cpu_percent"] - usage["multi_camera"]
    usage["cameras"] = (cpu_seconds(others) - drivers_before) * per_second
    # Images that are still on their way at the end of the time.
    spin(1.5)
    return [_evaluate(node, name, begin, finish) for name in node.results], usage


def _evaluate(node: BenchNode, name: str, begin: int, finish: int) -> dict[str, Any]:
    """Return what one camera gave in the measured time, NaN where there was too little."""
    rows = [row for row in node.results[name] if begin <= row[1] < finish]
    values = node.diagnostics.get(f"stream {name}", {})
    figures: dict[str, Any] = {"name": name}
    if len(rows) < 2:
        figures |= dict.fromkeys((*_RECEIVED, *_DIAGNOSTICS), float("nan"))
        figures |= {"NUM_FRAMES_SENT": 0, "NUM_MISSED_FRAMES": 0, "MEAN_FRAME_RATE": 0.0}
    else:
        numbers, stamps, arrivals = np.array(rows, np.int64).T
        seconds = (stamps[-1] - stamps[0]) * 1e-9
        sent = int(numbers[-1] - numbers[0]) + 1
        latency = (arrivals - stamps) * 1e-6
        received = (
            sent,
            sent - len(rows),
            (sent - 1) / seconds,
            (len(rows) - 1) / seconds,
            latency.mean(),
            *percentiles(latency, 50, 99),
            latency.max(),
            np.diff(arrivals).std() * 1e-6,
        )
        figures |= dict(zip(_RECEIVED, received, strict=True))
        figures |= {key: float(values.get(old, "nan")) for key, old in _DIAGNOSTICS.items()}
    return figures | {"DEVICE": values.get("device", "")}


def _report(
    options: RosBenchOptions, results: list[dict[str, Any]], usage: dict[str, float]
) -> Report:
    model = model_file(options.model)
    height, width = options.size
    devices = [str(device or "auto") for device in options.devices]
    machine = describe_machine("onnxruntime")
    document = {
        "settings": {**asdict(options), "model": str(model), "devices": devices},
        "machine": machine,
        "cameras": results,
        "cpu_percent": {name: usage[name] for name in _PARTS},
        "memory_mb": usage["rss_mb"],
    }
    encoding = f"JPEG (decoder {options.decoder})" if options.compressed else "bgr8"
    title = (
        f"{options.cameras} cameras, {height}x{width} {encoding} at {options.rate:g} Hz, "
        f"{model.name}, {options.duration:g} s, {options.ingest} ingest processes"
    )
    sent = sum(result["NUM_FRAMES_SENT"] for result in results)
    missed = sum(result["NUM_MISSED_FRAMES"] for result in results)
    rate = sum(result["MEAN_FRAME_RATE"] for result in results)
    notes = [
        f"all: {rate:.1f} results/s, {missed} of {sent} images missed. "
        "Times in ms: latency from the stamp to the result here; node from arrival to published; "
        "overhead = node - detect.",
        "CPU: " + ", ".join(f"{name} {usage[name]:.0f} %" for name in _PARTS) + " of one core",
        machine,
    ]
    return Report(
        document,
        [Table.of(_COLUMNS, results, title)],
        notes,
        failed=not all(result["MEAN_FRAME_RATE"] > 0 for result in results),
    )
