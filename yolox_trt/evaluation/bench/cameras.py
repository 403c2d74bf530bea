# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt bench cameras`: many cameras through one executor and a real engine, without ROS.

Frames lie in ordinary memory, as a camera driver's messages do; one thread submits them, evenly
spread over the period. What a run can hold is what the executor, the copies and the engine hold:
transport is not in it (that is `bench ros`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from yolox_trt.cli.arguments import options_named, positive_number, whole_number
from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.frame import Frame
from yolox_trt.core.option import from_plain
from yolox_trt.core.output_paths import prepare_outputs
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import ENGINES, DetectorOptions
from yolox_trt.executor.inference_executor import InferenceExecutor
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.executor.stream_result import StreamResult

SUMMARY = "many cameras through one executor and a real engine, without ROS"

#: Seconds at the start that are not measured.
_SETTLING = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.add_argument("--model", type=Path, help="default: the shipped one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--engine", default="auto", choices=ENGINES)
    parser.add_argument("--cameras", type=whole_number, nargs="+", default=[8])
    parser.add_argument(
        "--rate", type=positive_number, default=30.0, metavar="HZ", help="of each camera"
    )
    parser.add_argument(
        "--size", type=whole_number, nargs=2, default=(1280, 1920), metavar=("H", "W")
    )
    parser.add_argument("--encoding", default="bgr8", choices=sorted(ENCODINGS))
    parser.add_argument("--max-batch", type=whole_number, nargs="+", default=[1])
    parser.add_argument(
        "--overlap",
        nargs="+",
        default=["yes"],
        choices=("yes", "no"),
        help="whether the next call is given to a device while it works on the last",
    )
    parser.add_argument("--queue-depth", type=whole_number, default=2)
    parser.add_argument("--seconds", type=positive_number, default=5.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark and print its table."""
    prepare_outputs(args.json)
    if args.rate * args.seconds < 1.0:
        raise ConfigurationError(
            f"--rate {args.rate:g} for --seconds {args.seconds:g}",
            expected="at least one frame of each camera",
            fix=f"raise --seconds to {1.0 / args.rate:g} or more",
        )
    print(
        "| cameras | max_batch | overlap | results/s | missed | latency p50 ms | p99 | "
        "frames a call |"
    )
    print("|" + "---|" * 8)
    figures = []
    for max_batch in args.max_batch:
        for overlap in args.overlap:
            for cameras in args.cameras:
                figure = measure(args, cameras, max_batch, overlap == "yes")
                figures.append(figure)
                print(
                    "| {cameras} | {max_batch} | {overlap} | {per_second:.0f} "
                    "| {missed} of {expected} | {p50_ms:.2f} | {p99_ms:.2f} "
                    "| {frames_per_call:.2f} |".format(**figure),
                    flush=True,
                )
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(
    args: argparse.Namespace, cameras: int, max_batch: int, overlap: bool
) -> dict[str, Any]:
    """Measure one number of cameras."""
    with options_named():
        options = from_plain(
            DetectorOptions,
            {"device": args.device, "engine": args.engine, "max_batch": max_batch},
        )
        detector = create_detector(dataclasses.replace(options, model=args.model))
    images = _images(args.encoding, args.size[0], args.size[1], 2 * cameras)
    ids = [f"camera{i}" for i in range(cameras)]
    latencies: list[float] = []
    calls: list[float] = []
    lock = threading.Lock()
    first = last = 0.0

    def on_result(result: StreamResult) -> None:
        now = executor.clock.now()
        # Frames are counted by their time of arrival, so that a drop and a result are the same.
        if first <= result.timing.received < last:
            with lock:
                latencies.append(now - result.timing.received)
                calls.append(1.0 / result.timing.batch_size)

    with InferenceExecutor([detector], overlap=overlap) as executor:
        for name in ids:
            executor.add_stream(
                StreamConfig(id=name, expected_rate=args.rate, queue_depth=args.queue_depth),
                on_result=on_result,
            )
        executor.wait_started(timeout=120.0)
        begin = executor.clock.now()
        first = begin + _SETTLING
        last = first + args.seconds
        expected = 0
        interval = 1.0 / (args.rate * cameras)
        count = int((args.seconds + 2 * _SETTLING) / interval)
        for index in range(count):
            due = begin + index * interval
            while (left := due - executor.clock.now()) > 0:
                time.sleep(left)
            camera = index % cameras
            image = images[camera + cameras * (index // cameras % 2)]
            received = executor.clock.now()
            expected += first <= received < last
            executor.submit(
                Frame.view(
                    image,
                    height=args.size[0],
                    width=args.size[1],
                    encoding=args.encoding,
                    stream_id=ids[camera],
                    received_ns=int(received * 1e9),
                )
            )
        time.sleep(0.2)  # the last results
    times = np.array(latencies or [np.nan])
    return {
        "cameras": cameras,
        "max_batch": max_batch,
        "overlap": "yes" if overlap else "no",
        "per_second": len(latencies) / args.seconds,
        "expected": expected,
        "missed": expected - len(latencies),
        "p50_ms": float(np.percentile(times, 50)) * 1e3,
        "p99_ms": float(np.percentile(times, 99)) * 1e3,
        "frames_per_call": len(calls) / max(sum(calls), 1e-9),
    }


def _images(encoding: str, height: int, width: int, count: int) -> list[Any]:
    layout = ENCODINGS[encoding]
    size = int(height * layout.rows_per_height) * width * layout.bytes_per_pixel
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    return [np.roll(noise, 997 * i) for i in range(count)]
