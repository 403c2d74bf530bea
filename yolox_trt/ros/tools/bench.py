# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt bench ros`: cameras as processes, the real multi_camera, its results here.

The names of the metrics are those of ros2_benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.progress import Progress
from vision_msgs.msg import Detection2DArray

from yolox_trt.cli.arguments import positive_number, whole_number
from yolox_trt.core.optional import require
from yolox_trt.core.output_paths import prepare_outputs
from yolox_trt.core.shipped_files import default_model
from yolox_trt.ros.messages.images import stamp_to_ns
from yolox_trt.ros.middleware import apply_malloc_settings, transport_settings
from yolox_trt.ros.rclpy_versions import create_spinner
from yolox_trt.ros.tools.child_process import ChildProcess
from yolox_trt.ros.tools.source_node import private_domain

SUMMARY = "many cameras through ROS: rate held, drops, latency, overhead, CPU"

#: Seconds that everything may take to start; engines may have to be built.
START_TIMEOUT = 600.0


@dataclass
class CameraResult:
    """What one camera gave in the measured time.

    Attributes:
        name: the camera.
        NUM_FRAMES_SENT: images that were published.
        NUM_MISSED_FRAMES: of them without a result, wherever they were lost.
        MEAN_PLAYBACK_FRAME_RATE: images published a second.
        MEAN_FRAME_RATE: results a second.
        MEAN_LATENCY: milliseconds from the image's stamp, before publish(), to its result here.
        LATENCY_P50, LATENCY_P99, MAX_LATENCY: likewise.
        STD_DEV_JITTER: standard deviation of the time between results, in milliseconds.
        NODE_P50, NODE_P99: milliseconds from the message's arrival in the node to the end of
            publish().
        DETECT_P50: of them inside Detector.detect().
        OVERHEAD_P50, OVERHEAD_P99: the rest: conversion, waiting for the device, publishing.
        DEVICE: the device that served it last.
    """

    name: str
    NUM_FRAMES_SENT: int
    NUM_MISSED_FRAMES: int
    MEAN_PLAYBACK_FRAME_RATE: float
    MEAN_FRAME_RATE: float
    MEAN_LATENCY: float
    LATENCY_P50: float
    LATENCY_P99: float
    MAX_LATENCY: float
    STD_DEV_JITTER: float
    NODE_P50: float
    NODE_P99: float
    DETECT_P50: float
    OVERHEAD_P50: float
    OVERHEAD_P99: float
    DEVICE: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--cameras", type=whole_number, default=1, help="default: %(default)s")
    parser.add_argument("--rate", type=positive_number, default=10.0, help="of each camera, in Hz")
    parser.add_argument(
        "--size", type=whole_number, nargs=2, default=(1920, 1280), metavar=("W", "H")
    )
    parser.add_argument("--model", help="ONNX or engine file (default: the shipped one)")
    parser.add_argument(
        "--device", nargs="+", default=["auto"], help="devices, such as gpu, or gpu dla0 dla1"
    )
    parser.add_argument("--engine", default="auto", help="auto, tensorrt, onnxruntime, simulated")
    parser.add_argument("--precision", default="", help="fp32, fp16, int8")
    parser.add_argument("--placement", default="dynamic", help="static, balanced, dynamic")
    parser.add_argument("--max-batch", type=whole_number, default=1, help="default: %(default)s")
    parser.add_argument("--batch-window", type=float, default=0.0, help="seconds")
    parser.add_argument(
        "--ingest", type=int, default=0, metavar="N", help="processes that receive the images"
    )
    parser.add_argument("--queue-depth", type=whole_number, default=1, help="default: %(default)s")
    parser.add_argument("--qos-depth", type=whole_number, default=1, help="default: %(default)s")
    parser.add_argument("--duration", type=positive_number, default=10.0, help="measured seconds")
    parser.add_argument("--warmup", type=float, default=3.0, help="seconds before")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    parser.add_argument("--logs", metavar="DIR", help="keep the processes' logs")


class Listener(Node):
    """Collects the results of all cameras: (number, stamp, arrival) each."""

    def __init__(self, cameras: list[str]) -> None:
        super().__init__("yolox_trt_bench", start_parameter_services=False)
        self.results: dict[str, list[tuple[int, int, int]]] = {name: [] for name in cameras}
        self.diagnostics: dict[str, dict[str, str]] = {}
        for name in cameras:
            self.create_subscription(
                Detection2DArray,
                f"/{name}/detections",
                lambda message, rows=self.results[name]: rows.append(
                    (
                        int(message.header.frame_id),
                        stamp_to_ns(message.header.stamp),
                        time.time_ns(),
                    )
                ),
                50,
            )
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name.partition(": ")[2]] = {
                item.key: item.value for item in status.values
            } | {"message": status.message}


def run(args: argparse.Namespace) -> int:
    """Run the benchmark; see `yolox_trt bench ros --help`.

    Returns:
        0, or 1 if a camera had no result at all.
    """
    for module in ("rclpy", "vision_msgs"):
        require(module, purpose="`yolox_trt bench ros`")
    prepare_outputs(args.json)
    console = Console(stderr=True)
    apply_malloc_settings()
    os.environ.update(transport_settings())
    os.environ["ROS_DOMAIN_ID"] = private_domain(os.environ)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    cameras = [f"camera{index}" for index in range(args.cameras)]
    model = str(Path(args.model).resolve()) if args.model else str(default_model())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="yolox_trt_bench_")))
        if args.logs:
            stack.callback(lambda: shutil.copytree(folder, args.logs, dirs_exist_ok=True))
        parameters = _write_parameters(args, cameras, model, folder)
        consumer = ChildProcess(
            "yolox_trt.ros.nodes.multi_camera",
            ["--ros-args", "--params-file", parameters],
            log=folder / "multi_camera.log",
        )
        stack.callback(consumer.stop)
        with console.status(f"starting multi_camera with {Path(model).name}"):
            consumer.wait_for("active:", START_TIMEOUT)
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(rclpy.try_shutdown)
        node = Listener(cameras)
        stack.callback(node.destroy_node)
        spinner = create_spinner()
        stack.callback(spinner.shutdown)
        spinner.add_node(node)
        drivers = _start_cameras(args, cameras, folder, stack)
        results, usage = _measure(args, console, node, spinner, consumer, drivers)
    _print(args, model, results, usage)
    if args.json:
        Path(args.json).write_text(
            json.dumps(
                {
                    "settings": vars(args) | {"run": None, "model": model},
                    "machine": {"cpu_count": os.cpu_count(), "platform": platform.platform()},
                    "cameras": [asdict(result) for result in results],
                    "cpu_percent": usage,
                },
                indent=2,
                default=str,
            )
        )
    return 0 if all(result.MEAN_FRAME_RATE > 0 for result in results) else 1


def _write_parameters(
    args: argparse.Namespace, cameras: list[str], model: str, folder: Path
) -> Path:
    path = folder / "parameters.yaml"
    sections = {
        "/**": {"queue_depth": args.queue_depth, "qos_depth": args.qos_depth},
        "multi_camera": {
            "cameras": cameras,
            "model": model,
            "devices": list(args.device),
            "engine": args.engine,
            "precision": args.precision,
            "placement": args.placement,
            "max_batch": args.max_batch,
            "batch_window": args.batch_window,
            "ingest_processes": args.ingest,
        },
    }
    path.write_text(yaml.safe_dump({node: {"ros__parameters": v} for node, v in sections.items()}))
    return path


def _start_cameras(
    args: argparse.Namespace, cameras: list[str], folder: Path, stack: ExitStack
) -> list[ChildProcess]:
    import cv2

    picture = folder / "picture.png"
    width, height = args.size
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    cv2.imwrite(str(picture), noise)
    drivers = []
    for name in cameras:
        driver = ChildProcess(
            "yolox_trt.ros.tools.demo_camera",
            [name, picture, "--rate", args.rate, "--size", *args.size, "--still", "--number"],
            log=folder / f"{name}.log",
        )
        stack.callback(driver.stop)
        drivers.append(driver)
    return drivers


def _measure(
    args: argparse.Namespace,
    console: Console,
    node: Listener,
    spinner: Any,
    consumer: ChildProcess,
    drivers: list[ChildProcess],
) -> tuple[list[CameraResult], dict[str, float]]:
    """Let it run, and evaluate the images whose stamps lie in the measured time."""

    def spin(seconds: float, progress: Any = None) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            spinner.spin_once(timeout_sec=min(left, 0.1))
            if progress is not None:
                progress(seconds - left)

    waiting_since = time.monotonic()
    with console.status("waiting for every camera's first result"):
        while not all(node.results.values()) and time.monotonic() < waiting_since + 30.0:
            spin(0.1)
            for child in (consumer, *drivers):
                child.check_alive()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("measuring", total=args.warmup + args.duration)
        spin(args.warmup, lambda done: bar.update(task, completed=done))
        before = _cpu_seconds(consumer, drivers)
        begin = time.time_ns()
        spin(args.duration, lambda done: bar.update(task, completed=args.warmup + done))
        finish = time.time_ns()
        after = _cpu_seconds(consumer, drivers)
    # Images that are still on their way at the end of the time.
    spin(1.5)
    elapsed = (finish - begin) * 1e-9
    usage = {name: 100.0 * (after[name] - before[name]) / elapsed for name in before}
    results = [_evaluate(node, name, begin, finish) for name in node.results]
    return results, usage


def _cpu_seconds(consumer: ChildProcess, drivers: list[ChildProcess]) -> dict[str, float]:
    """Return CPU seconds so far: of multi_camera, its ingest processes, the camera processes."""

    def seconds(process: psutil.Process) -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    main = psutil.Process(consumer.pid)
    return {
        "multi_camera": seconds(main),
        "ingest": sum(seconds(child) for child in main.children(recursive=True)),
        "cameras": sum(seconds(psutil.Process(driver.pid)) for driver in drivers),
    }


def _evaluate(node: Listener, name: str, begin: int, finish: int) -> CameraResult:
    rows = [row for row in node.results[name] if begin <= row[1] < finish]
    values = node.diagnostics.get(f"stream {name}", {})

    def diagnostic(key: str) -> float:
        return float(values.get(key, "nan"))

    if len(rows) < 2:
        nan = float("nan")
        empty: list[Any] = [name, 0, 0, nan, 0.0, *[nan] * 10, values.get("device", "")]
        return CameraResult(*empty)
    numbers, stamps, arrivals = (np.asarray(column, np.int64) for column in zip(*rows, strict=True))
    seconds = (stamps[-1] - stamps[0]) * 1e-9
    sent = int(numbers[-1] - numbers[0]) + 1
    latency = (arrivals - stamps) * 1e-6
    return CameraResult(
        name=name,
        NUM_FRAMES_SENT=sent,
        NUM_MISSED_FRAMES=sent - len(rows),
        MEAN_PLAYBACK_FRAME_RATE=(sent - 1) / seconds,
        MEAN_FRAME_RATE=(len(rows) - 1) / seconds,
        MEAN_LATENCY=float(latency.mean()),
        LATENCY_P50=float(np.percentile(latency, 50)),
        LATENCY_P99=float(np.percentile(latency, 99)),
        MAX_LATENCY=float(latency.max()),
        STD_DEV_JITTER=float(np.diff(arrivals).std() * 1e-6),
        NODE_P50=diagnostic("latency_p50_ms"),
        NODE_P99=diagnostic("latency_p99_ms"),
        DETECT_P50=diagnostic("detect_p50_ms"),
        OVERHEAD_P50=diagnostic("overhead_p50_ms"),
        OVERHEAD_P99=diagnostic("overhead_p99_ms"),
        DEVICE=values.get("device", ""),
    )


def _print(
    args: argparse.Namespace,
    model: str,
    results: list[CameraResult],
    usage: dict[str, float],
) -> None:
    width, height = args.size
    print(
        f"\n{args.cameras} cameras, {width}x{height} bgr8 at {args.rate:g} Hz, {Path(model).name}, "
        f"{args.duration:g} s, {args.ingest} ingest processes\n"
    )
    print("| camera | device | sent/s | results/s | missed | latency p50 / p99 ms | node p50 / p99 "
          "| detect p50 | overhead p50 / p99 |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for result in results:
        print(
            f"| {result.name} | {result.DEVICE} | {result.MEAN_PLAYBACK_FRAME_RATE:.1f} "
            f"| {result.MEAN_FRAME_RATE:.1f} | {result.NUM_MISSED_FRAMES} "
            f"| {result.LATENCY_P50:.1f} / {result.LATENCY_P99:.1f} "
            f"| {result.NODE_P50:.2f} / {result.NODE_P99:.2f} | {result.DETECT_P50:.2f} "
            f"| {result.OVERHEAD_P50:.2f} / {result.OVERHEAD_P99:.2f} |"
        )
    sent = sum(result.NUM_FRAMES_SENT for result in results)
    missed = sum(result.NUM_MISSED_FRAMES for result in results)
    rate = sum(result.MEAN_FRAME_RATE for result in results)
    print(
        f"\nall: {rate:.1f} results/s, {missed} of {sent} images missed. "
        "Times in ms: latency from the stamp to the result here; node from arrival to published; "
        "overhead = node - detect."
    )
    print(
        "CPU: "
        + ", ".join(f"{name} {percent:.0f} %" for name, percent in usage.items())
        + f" of one core; {platform.machine()}, {os.cpu_count()} cores"
    )
