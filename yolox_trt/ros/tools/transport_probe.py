# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A subscriber that measures how images arrive: a process of `yolox_trt bench ros-transport`."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from yolox_trt.evaluation.bench.timing import percentiles
from yolox_trt.ros.messages.images import stamp_to_ns
from yolox_trt.ros.middleware import apply_malloc_settings
from yolox_trt.ros.rclpy_versions import create_spinner
from yolox_trt.ros.tools.session import plain_node, ros_node

#: Images that are received before the measurement begins.
WARMUP = 10


def main() -> int:
    """Receive for some time, and print one line of JSON.

    The arguments are the seconds, and "plain" if malloc stays as it is.
    """
    duration, plain = float(sys.argv[1]), "plain" in sys.argv
    latencies: list[float] = []
    size = 0

    def on_image(message: Image) -> None:
        nonlocal size
        latencies.append((time.time_ns() - stamp_to_ns(message.header.stamp)) * 1e-6)
        size = np.frombuffer(message.data, np.uint8).size

    if not plain:
        apply_malloc_settings()
    with ros_node(
        plain_node("transport_probe"), make_executor=create_spinner, large_images=False
    ) as (node, spinner):
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        node.create_subscription(Image, "/probe/image_raw", on_image, qos)
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
        "images": len(latencies),
        "rate": len(latencies) / elapsed,
        "latency_p50": p50,
        "latency_p99": p99,
        "cpu_per_image": cpu / max(1, len(latencies)) * 1e3,
        "bytes": size,
    }
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
