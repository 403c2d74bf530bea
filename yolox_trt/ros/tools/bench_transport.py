# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Large images over Fast DDS: one camera, one rclpy subscriber, four sets of settings.

Run as a program, the module is the subscriber.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from yolox_trt.core.documents import parse_json
from yolox_trt.core.memory import MALLOC_SETTINGS, apply_malloc_settings
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.evaluation.bench.report import Report, Table
from yolox_trt.evaluation.bench.timing import percentiles
from yolox_trt.ros.messages.images import stamp_to_ns
from yolox_trt.ros.middleware import (
    PROFILE_VARIABLES,
    transport_settings,
)
from yolox_trt.ros.rclpy_versions import create_spinner
from yolox_trt.ros.tools.bench import write_noise
from yolox_trt.ros.tools.child_process import ChildProcesses
from yolox_trt.ros.tools.options import CameraOptions, TransportOptions
from yolox_trt.ros.tools.session import plain_node, private_domain, ros_node

#: Title -> (profile, malloc settings).
CONFIGURATIONS = {
    "Fast DDS as it comes": (False, False),
    "malloc settings": (False, True),
    "64 MB segment": (True, False),
    "64 MB segment and malloc settings": (True, True),
}

#: More than any configuration receives, in Hz.
FLOOD = 200.0

#: Images that are received before the measurement begins.
WARMUP = 10


def measure(options: TransportOptions, on_progress: Progress = no_progress) -> Report:
    """Measure each configuration at the given rate, and with more images than it can receive."""
    runs = list(product(CONFIGURATIONS, (options.rate, FLOOD)))
    found = []
    with tempfile.TemporaryDirectory(prefix="yolox_trt_bench_") as folder:
        picture = write_noise(Path(folder), options.size)
        for done, (title, rate) in enumerate(runs):
            on_progress("measuring", done, len(runs))
            found.append(_probe(options, picture, rate, *CONFIGURATIONS[title]))
    rows = [
        {"configuration": title, "paced": paced, "flooded": flooded}
        for title, paced, flooded in zip(CONFIGURATIONS, found[::2], found[1::2], strict=True)
    ]
    height, width = options.size
    title = (
        f"{height}x{width} bgr8, {width * height * 3 / 1e6:.1f} MB, reliable, one publisher, one "
        f"rclpy subscriber, {os.cpu_count()} cores"
    )
    columns = {
        "configuration": "{configuration}",
        f"latency p50 at {options.rate:g} Hz": "{paced[latency_p50]:.1f} ms",
        "p99": "{paced[latency_p99]:.1f} ms",
        "subscriber CPU an image": "{paced[cpu_per_image]:.1f} ms",
        "most received": "{flooded[rate]:.0f}/s",
    }
    return Report(rows, [Table.of(columns, rows, title)])


def _probe(
    options: TransportOptions, picture: Path, rate: float, profile: bool, malloc: bool
) -> dict[str, Any]:
    """Run a camera and a subscriber; return what the subscriber measured."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in (*PROFILE_VARIABLES, *MALLOC_SETTINGS)
    }
    for name, value in transport_settings(environment).items():
        if (name in PROFILE_VARIABLES and profile) or (name in MALLOC_SETTINGS and malloc):
            environment[name] = value
    environment |= private_domain(environment)
    camera = CameraOptions(
        name="probe",
        photograph=str(picture),
        rate=rate,
        size=options.size,
        still=True,
        numbered=True,
        reliable=True,
        plain=not malloc,
    )
    arguments = [options.duration, "" if malloc else "plain"]
    with ChildProcesses(picture.parent) as processes:
        receiver = processes.start(__name__, arguments, environment=environment)
        processes.start_camera(camera, environment=environment)
        receiver.wait_for("}", options.duration + 60.0)
        time.sleep(0.1)
        result: dict[str, Any] = parse_json(receiver.output.strip().splitlines()[-1])
    return result


def main() -> int:
    """Receive for some time, and print one line of JSON.

    The arguments are the seconds, and "plain" if malloc stays as it is.
    """
    duration = float(sys.argv[1])
    latencies: list[float] = []
    if "plain" not in sys.argv:
        apply_malloc_settings()
    with ros_node(
        plain_node("transport_probe"), make_executor=create_spinner, large_images=False
    ) as (node, spinner):
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        node.create_subscription(
            Image,
            "/probe/image_raw",
            lambda m: latencies.append((time.time_ns() - stamp_to_ns(m.header.stamp)) * 1e-6),
            qos,
        )
        while len(latencies) < WARMUP:
            spinner.spin_once(timeout_sec=0.5)
        latencies.clear()
        cpu, start = time.process_time(), time.monotonic()
        while time.monotonic() < start + duration:
            spinner.spin_once(timeout_sec=0.1)
        elapsed = time.monotonic() - start
        cpu = time.process_time() - cpu
    p50, p99 = percentiles(latencies, 50, 99)
    result = {
        "rate": len(latencies) / elapsed,
        "latency_p50": p50,
        "latency_p99": p99,
        "cpu_per_image": cpu / max(1, len(latencies)) * 1e3,
    }
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
