# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What `yolox_trt dashboard` does."""

from __future__ import annotations

import os
import queue
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from yolox_trt.ros.dashboard.observer import Observer
from yolox_trt.ros.dashboard.options import DashboardOptions
from yolox_trt.ros.dashboard.server import DashboardServer
from yolox_trt.ros.middleware import transport_environment
from yolox_trt.ros.tools.bag import ImageBag
from yolox_trt.ros.tools.child_process import ChildProcesses
from yolox_trt.ros.tools.launch_arguments import EXECUTOR_NODE
from yolox_trt.ros.tools.regress import camera_sections
from yolox_trt.ros.tools.session import private_domain, ros_node

#: Seconds without /diagnostics after which it is said how a node is started.
_SILENCE = 5.0
_START_TIMEOUT = 300.0


def run_dashboard(options: DashboardOptions, *, say: Callable[[str], None]) -> int:
    """Serve until Ctrl-C.

    Args:
        options: where, and what of.
        say: takes a line.
    """
    with ExitStack() as stack:
        children = None if options.bag is None else _play(options.bag, stack, say)
        calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        server = DashboardServer(options, domain, calls.put)

        def make() -> Observer:
            return Observer(server.tell, rate=options.rate, width=options.width)

        node, executor = stack.enter_context(ros_node(make))
        server.observer = node
        server.start()
        stack.callback(server.close)
        say(f"open {server.address}")
        _serve(node, executor, calls, domain, say, children)
    return 0


def _serve(
    node: Observer,
    executor: Any,
    calls: queue.SimpleQueue[Callable[[], None]],
    domain: str,
    say: Callable[[str], None],
    children: ChildProcesses | None,
) -> None:
    started, told = time.monotonic(), False
    while True:
        try:
            executor.spin_once(timeout_sec=0.05)
            while not calls.empty():
                calls.get()()
        except Exception:  # of one message or request: the others are shown
            node.get_logger().error(traceback.format_exc(), throttle_duration_sec=1.0)
        if children is not None:
            children.check_alive()
        if not told and not node.history.samples and time.monotonic() - started > _SILENCE:
            told = True
            say(
                f"no multi_camera on ROS domain {domain} yet: start one with `yolox_trt up` or "
                "`ros2 launch yolox_trt multi_camera.launch.py`; it appears by itself"
            )


def _play(bag: Path, stack: ExitStack, say: Callable[[str], None]) -> ChildProcesses:
    """Start multi_camera for the image topics of a bag, and play it."""
    reader = ImageBag(bag)
    topics, types = reader.topics, reader.types
    reader.close()
    os.environ.update(private_domain(transport_environment(), inherited=False))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="yolox_trt_dashboard_")))
    processes = stack.enter_context(ChildProcesses(folder))
    sections = camera_sections(types)
    sections[EXECUTOR_NODE] = {"cameras": list(sections)}
    say(f"starting multi_camera for {', '.join(topics)}")
    processes.start_multi_camera(sections, _START_TIMEOUT)
    words = [word for topic in topics for word in ("--topic", topic)]
    processes.start("yolox_trt.cli", ["replay", bag, "--loop", 0, "--restamp", *words])
    return processes
