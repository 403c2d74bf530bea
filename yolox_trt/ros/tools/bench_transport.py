# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt bench ros-transport`: one camera, one rclpy subscriber, four sets of settings."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import Progress

from yolox_trt.cli.arguments import positive_number, whole_number
from yolox_trt.core.optional import require
from yolox_trt.core.output_paths import prepare_outputs
from yolox_trt.ros.middleware import MALLOC_SETTINGS, PROFILE_VARIABLES, transport_settings
from yolox_trt.ros.tools.child_process import ChildProcess
from yolox_trt.ros.tools.source_node import private_domain

SUMMARY = "large images over Fast DDS, before and after the shipped settings"

#: Title -> (profile, malloc settings).
CONFIGURATIONS = {
    "Fast DDS as it comes": (False, False),
    "malloc settings": (False, True),
    "64 MB segment": (True, False),
    "64 MB segment and malloc settings": (True, True),
}

#: More than any configuration receives, in Hz.
FLOOD = 200.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--size", type=whole_number, nargs=2, default=(1920, 1280), metavar=("W", "H")
    )
    parser.add_argument("--rate", type=positive_number, default=10.0, help="for the latency, in Hz")
    parser.add_argument("--duration", type=positive_number, default=6.0, help="seconds of each run")
    parser.add_argument("--json", metavar="FILE", help="write the figures")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark and print a Markdown table."""
    require("rclpy", purpose="`yolox_trt bench ros-transport`")
    prepare_outputs(args.json)
    console = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="yolox_trt_bench_") as scratch:
        folder = Path(scratch)
        width, height = args.size
        noise = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3))
        cv2.imwrite(str(folder / "picture.png"), noise.astype(np.uint8))
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("ros-transport", total=2 * len(CONFIGURATIONS))
            for title, (profile, malloc) in CONFIGURATIONS.items():
                bar.update(task, description=title)
                slow = _probe(args, folder, args.rate, profile, malloc)
                bar.advance(task)
                fast = _probe(args, folder, FLOOD, profile, malloc)
                bar.advance(task)
                rows.append({"configuration": title, "paced": slow, "flooded": fast})
    width, height = args.size
    print(
        f"{width}x{height} bgr8, {width * height * 3 / 1e6:.1f} MB, reliable, one publisher, one "
        f"rclpy subscriber, {os.cpu_count()} cores\n"
    )
    print(f"| configuration | latency p50 at {args.rate:g} Hz | p99 | subscriber CPU an image "
          "| most received |")  # fmt: skip
    print("|---|---|---|---|---|")
    for row in rows:
        slow, fast = row["paced"], row["flooded"]
        print(
            f"| {row['configuration']} | {slow['latency_p50']:.1f} ms | {slow['latency_p99']:.1f} "
            f"ms | {slow['cpu_per_image']:.1f} ms | {fast['rate']:.0f}/s |"
        )
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2))
    return 0


def _probe(
    args: argparse.Namespace, folder: Path, rate: float, profile: bool, malloc: bool
) -> dict[str, Any]:
    """Run a camera and a subscriber; return what the subscriber measured."""
    environment = dict(os.environ)
    for name in (*PROFILE_VARIABLES, *MALLOC_SETTINGS):
        environment.pop(name, None)
    wanted = transport_settings(environment)
    for name, value in wanted.items():
        if (name in PROFILE_VARIABLES and profile) or (name in MALLOC_SETTINGS and malloc):
            environment[name] = value
    environment["ROS_DOMAIN_ID"] = private_domain(os.environ)
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    plain = [] if malloc else ["--plain"]
    camera = ["probe", folder / "picture.png", "--rate", rate, "--size", *args.size]
    camera += ["--still", "--number", "--reliable", *plain]
    receiver = ChildProcess(
        "yolox_trt.ros.tools.transport_probe",
        ["--duration", args.duration, *plain],
        log=folder / "receiver.log",
        environment=environment,
        inherit=False,
    )
    sender = ChildProcess(
        "yolox_trt.ros.tools.demo_camera",
        camera,
        log=folder / "sender.log",
        environment=environment,
        inherit=False,
    )
    try:
        receiver.wait_for("}", args.duration + 60.0)
        time.sleep(0.1)
        result: dict[str, Any] = json.loads(receiver.output.strip().splitlines()[-1])
    finally:
        sender.stop()
        receiver.stop()
    return result
