# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""One process for N cameras against N processes with one each, with and without ROS.

Latency is the time from an image's stamp, or its submission, to its result; "worst p99" is that of
the camera that has the largest. CPU, memory and GPU memory are those of all processes that detect,
without cameras and listener.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from yolox_trt.core.documents import parse_json
from yolox_trt.core.files import write_atomically
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.evaluation.bench.cameras_process import FIGURES, READY
from yolox_trt.evaluation.bench.report import Report, Table
from yolox_trt.evaluation.bench.resources import ResourceMeter
from yolox_trt.evaluation.bench.timing import describe_machine
from yolox_trt.ros.tools.child_process import ChildProcesses
from yolox_trt.ros.tools.options import ConsolidationOptions, RosBenchOptions, model_file

#: Seconds that a process may take to start; engines may have to be built.
START_TIMEOUT = 600.0
_COLUMNS = {
    "cameras": "{cameras}",
    "processes": "{form}",
    "results/s": "{per_second:.1f}",
    "missed": "{missed} of {sent}",
    "p50 ms": "{p50_ms:.1f}",
    "worst p99 ms": "{worst_p99_ms:.1f}",
    "CPU": "{cpu_percent:.0f} %",
    "RSS MB": "{rss_mb:.0f}",
    "PSS MB": "{pss_mb:.0f}",
}
#: Names of a camera's figures here, and in ros2_benchmark, which `bench ros` follows.
_ROS2_BENCHMARK = {
    "per_second": "MEAN_FRAME_RATE",
    "expected": "NUM_FRAMES_SENT",
    "missed": "NUM_MISSED_FRAMES",
    "p50_ms": "LATENCY_P50",
    "worst_p99_ms": "LATENCY_P99",
}
#: With a GPU.
_GPU_COLUMNS = {"GPU MB": "{gpu_mb:.0f}", "W": "{watts:.0f}"}


def measure(options: ConsolidationOptions, on_progress: Progress = no_progress) -> Report:
    """Measure every number of cameras in every way.

    Raises:
        YoloxTrtError: one of the processes ended.
    """
    ros = not options.without_ros and importlib.util.find_spec("rclpy") is not None
    ways = [("", "N"), ("", "one")]
    if ros:
        ways = [("ROS", "N"), ("ROS", "one"), *[("ROS", "ingest")] * (options.ingest > 0), *ways]
    runs = [(number, *way) for number in options.cameras for way in ways]
    figures: list[dict[str, Any]] = []
    for done, (number, through, form) in enumerate(runs):
        on_progress("measuring", done, len(runs), f"{number} cameras {through} {form}")
        run = _through_ros if through else _direct
        texts = {"N": str(number), "one": "1", "ingest": f"1 + {options.ingest} ingest"}
        found = run(options, number, form)
        figures.append({**found, "cameras": number, "through": through, "form": texts[form]})
    model = model_file(options.model).name
    height, width = options.size
    columns = _COLUMNS | (_GPU_COLUMNS if figures[0]["gpu_mb"] == figures[0]["gpu_mb"] else {})
    tables = [
        Table.of(
            columns,
            [each for each in figures if each["through"] == through],
            f"{'through ROS' if through else 'without ROS'}: {height}x{width} bgr8 at "
            f"{options.rate:g} Hz, {model}, {options.duration:g} s, max_batch {options.max_batch}",
        )
        for through in dict.fromkeys(each["through"] for each in figures)
    ]
    notes = [describe_machine("onnxruntime")]
    if not ros and not options.without_ros:
        notes.append("through ROS: not measured, rclpy is not installed")
    return Report({"figures": figures, "machine": notes[0]}, tables, notes)


def _through_ros(options: ConsolidationOptions, number: int, form: str) -> dict[str, Any]:
    from yolox_trt.ros.tools.bench import camera_names, run_cameras

    settings = RosBenchOptions(
        cameras=number,
        rate=options.rate,
        size=options.size,
        model=options.model,
        devices=[options.device],
        engine=options.engine,
        precision=options.precision,
        max_batch=1 if form == "N" else options.max_batch,
        ingest=options.ingest if form == "ingest" else 0,
        duration=options.duration,
        warmup=options.warmup,
    )
    cameras = camera_names(number)
    groups = [[name] for name in cameras] if form == "N" else [cameras]
    results, usage = run_cameras(settings, groups, no_progress)
    return usage | _of_all(
        [{ours: each[theirs] for ours, theirs in _ROS2_BENCHMARK.items()} for each in results]
    )


def _direct(options: ConsolidationOptions, number: int, form: str) -> dict[str, Any]:
    count = number if form == "N" else 1
    model = model_file(options.model)
    meter = ResourceMeter()
    with (
        tempfile.TemporaryDirectory(prefix="yolox_trt_bench_") as folder,
        ChildProcesses(Path(folder)) as processes,
    ):
        window = Path(folder) / "window"
        given = {
            "model": str(model),
            "device": str(options.device or ""),
            "engine": options.engine,
            "precision": options.precision,
            "cameras": number // count,
            "max_batch": 1 if form == "N" else options.max_batch,
            "rate": options.rate,
            "size": options.size,
            "window": str(window),
        }
        children = [
            processes.start(
                "yolox_trt.evaluation.bench.cameras_process",
                [json.dumps(given)],
                log=Path(folder) / f"process{index}.log",
            )
            for index in range(count)
        ]
        for child in children:
            child.wait_for(READY, START_TIMEOUT)
        time.sleep(options.warmup)
        begin = time.monotonic() + 0.2  # until every process has seen the window
        write_atomically(window, f"{begin} {begin + options.duration}".encode())
        time.sleep(0.2)
        usage = meter.measure([c.pid for c in children], lambda: time.sleep(options.duration))
        figures = []
        for child in children:
            child.wait_for(FIGURES, START_TIMEOUT)
            line = child.output.rpartition(FIGURES)[2].partition("\n")[0]
            figures.append(parse_json(line))
    return usage | _of_all(figures)


def _of_all(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all cameras from those of each process, or each camera."""
    return {
        "per_second": sum(each["per_second"] for each in figures),
        "sent": sum(each["expected"] for each in figures),
        "missed": sum(each["missed"] for each in figures),
        "p50_ms": statistics.median(each["p50_ms"] for each in figures),
        "worst_p99_ms": max(each["worst_p99_ms"] for each in figures),
    }
