# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A subscriber that measures how images arrive: a process of `yolox_trt bench ros-transport`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from yolox_trt.ros.messages.images import stamp_to_ns
from yolox_trt.ros.middleware import apply_malloc_settings
from yolox_trt.ros.rclpy_versions import create_spinner

#: Images that are received before the measurement begins.
WARMUP = 10


def main(args: Sequence[str] | None = None) -> int:
    """Receive for some time, and print one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m yolox_trt.ros.tools.transport_probe")
    parser.add_argument("--topic", default="/probe/image_raw")
    parser.add_argument("--duration", type=float, default=6.0, help="seconds")
    parser.add_argument("--plain", action="store_true", help="leave malloc as it is")
    options = parser.parse_args(args)
    if not options.plain:
        apply_malloc_settings()
    latencies: list[float] = []
    sizes: list[int] = []

    def on_image(message: Image) -> None:
        latencies.append((time.time_ns() - stamp_to_ns(message.header.stamp)) * 1e-6)
        sizes.append(np.frombuffer(message.data, np.uint8).size)

    rclpy.init(args=[])
    node = Node("transport_probe", start_parameter_services=False)
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
    node.create_subscription(Image, options.topic, on_image, qos)
    spinner = create_spinner()
    spinner.add_node(node)
    while len(latencies) < WARMUP:
        spinner.spin_once(timeout_sec=0.5)
    latencies.clear()
    cpu, start = time.process_time(), time.monotonic()
    while time.monotonic() < start + options.duration:
        spinner.spin_once(timeout_sec=0.1)
    elapsed = time.monotonic() - start
    cpu = time.process_time() - cpu
    count = max(1, len(latencies))
    result = {
        "images": len(latencies),
        "rate": len(latencies) / elapsed,
        "latency_p50": float(np.percentile(latencies, 50)) if latencies else float("nan"),
        "latency_p99": float(np.percentile(latencies, 99)) if latencies else float("nan"),
        "cpu_per_image": cpu / count * 1e3,
        "bytes": sizes[-1],
    }
    print(json.dumps(result), flush=True)
    spinner.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
