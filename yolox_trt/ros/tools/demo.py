# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt demo`: four moving cameras, the real multi_camera process, a live table."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import tempfile
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.live import Live
from rich.table import Table
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from yolox_trt.core.errors import MissingDependencyError, YoloxTrtError
from yolox_trt.core.optional import INSTALL_COMMANDS
from yolox_trt.core.shipped_files import default_model
from yolox_trt.ros.messages.images import stamp_to_ns
from yolox_trt.ros.middleware import apply_malloc_settings, transport_settings
from yolox_trt.ros.tools.child_process import ChildProcess
from yolox_trt.ros.tools.source_node import private_domain

#: Camera -> photograph of scikit-image (free of rights, see its data/README.txt).
CAMERAS = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
}

#: Seconds that everything may take to start; engines may have to be built.
START_TIMEOUT = 120.0


class CameraView:
    """What the demonstration sees of one camera."""

    def __init__(self) -> None:
        self.results = 0
        self.detections = 0
        self.arrivals: deque[float] = deque(maxlen=50)
        self.latencies: deque[float] = deque(maxlen=500)
        self.last: Counter[str] = Counter()
        self.status: dict[str, str] = {}
        self.pictures = 0

    def add(self, message: Detection2DArray, now_ns: int) -> None:
        """Take in a result."""
        self.results += 1
        self.detections += len(message.detections)
        self.arrivals.append(time.monotonic())
        self.latencies.append((now_ns - stamp_to_ns(message.header.stamp)) * 1e-9)
        self.last = Counter(d.results[0].hypothesis.class_id for d in message.detections)

    @property
    def rate(self) -> float:
        """Results a second over the last ones."""
        if len(self.arrivals) < 2:
            return 0.0
        return (len(self.arrivals) - 1) / (self.arrivals[-1] - self.arrivals[0])

    def latency(self, percentile: float) -> float:
        """Milliseconds from the picture's stamp to its result in this process."""
        if not self.latencies:
            return math.nan
        return float(np.percentile(self.latencies, percentile)) * 1e3


class DemoNode(Node):
    """Listens to the results; looks at one annotated picture after the other."""

    def __init__(self, cameras: list[str], folder: Path, *, context: Any = None) -> None:
        super().__init__("yolox_trt_demo", context=context, start_parameter_services=False)
        self.views = {name: CameraView() for name in cameras}
        self.device_load: dict[str, str] = {}
        self._folder = folder
        self._turn = 0
        self._watching: Any = None
        for name in cameras:
            self.create_subscription(
                Detection2DArray,
                f"/{name}/detections",
                lambda message, name=name: self._on_result(name, message),
                10,
            )
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_result(self, name: str, message: Detection2DArray) -> None:
        self.views[name].add(message, self.get_clock().now().nanoseconds)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            kind, _, name = status.name.partition(": ")[2].partition(" ")
            if kind == "stream" and name in self.views:
                self.views[name].status = values
            elif kind == "device":
                self.device_load[name] = values.get("load", "nan")

    def watch_next(self) -> None:
        """Subscribe to the annotated pictures of the camera whose turn it is, for one picture.

        Drawn pictures cost as much as camera images: one camera at a time is enough to look at.
        """
        if self._watching is not None:
            return
        name = list(self.views)[self._turn % len(self.views)]
        self._turn += 1
        self._watching = self.create_subscription(
            Image,
            f"/{name}/annotated",
            lambda message: self._on_annotated(name, message),
            qos_profile_sensor_data,
        )

    def _on_annotated(self, name: str, message: Image) -> None:
        if self._watching is None:
            return
        picture = np.frombuffer(message.data, np.uint8)
        picture = picture.reshape(message.height, message.width, 3)
        view = self.views[name]
        view.pictures += 1
        cv2.imwrite(str(self._folder / f"{name}_{view.pictures}.jpg"), picture)
        subscription, self._watching = self._watching, None
        self.destroy_subscription(subscription)

    def table(self, title: str, caption: str) -> Table:
        """Return the table of all cameras."""
        table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
        table.add_column("camera", no_wrap=True)
        table.add_column("device", no_wrap=True)
        for column in ("Hz", "ms p50/p99", "drops"):
            table.add_column(column, justify="right", no_wrap=True)
        # The other columns keep their width; this one takes what is left of 80 columns.
        table.add_column("detections", no_wrap=True, max_width=24)
        for name, view in self.views.items():
            device = view.status.get("device", "")
            if device in self.device_load:
                device += f" {float(self.device_load[device]):.0%}"
            drops = int(view.status.get("dropped", 0)) + int(
                view.status.get("lost_in_middleware", 0)
            )
            classes = ", ".join(
                f"{count} {label}" if count > 1 else label for label, count in view.last.items()
            )
            table.add_row(
                name,
                device,
                f"{view.rate:.1f}",
                f"{view.latency(50):.0f}/{view.latency(99):.0f}",
                str(drops),
                classes,
            )
        return table


def photographs() -> dict[str, Path]:
    """Return the cameras' photographs.

    Raises:
        MissingDependencyError: scikit-image is missing.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise MissingDependencyError(
            "scikit-image, which carries the demonstration's photographs, is not installed",
            fix=INSTALL_COMMANDS.get("skimage", "pip install scikit-image"),
        )
    folder = Path(found.origin).parent / "data"
    return {name: folder / file for name, file in CAMERAS.items()}


def run_demo(args: argparse.Namespace) -> int:
    """Run the demonstration.

    Returns:
        0 if every camera had a detection, else 1.
    """
    console = Console()
    model = Path(args.model) if args.model else default_model()
    pictures = photographs()
    folder = Path(args.output).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    apply_malloc_settings()
    # For this process's own participant and for the children.
    os.environ.update(transport_settings())
    os.environ["ROS_DOMAIN_ID"] = private_domain(os.environ)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    children: list[ChildProcess] = []
    with tempfile.TemporaryDirectory(prefix="yolox_trt_demo_") as scratch:
        parameters = Path(scratch) / "parameters.yaml"
        parameters.write_text(
            yaml.safe_dump(
                {
                    "multi_camera": {
                        "ros__parameters": {
                            "cameras": list(pictures),
                            "model": str(model.resolve()),
                            "devices": [args.device],
                        }
                    },
                    "/**": {"ros__parameters": {"score_threshold": args.score}},
                }
            ),
            encoding="utf-8",
        )
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        node = DemoNode(list(pictures), folder)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            consumer = ChildProcess(
                "yolox_trt.ros.nodes.multi_camera",
                ["--ros-args", "--params-file", str(parameters)],
                log=folder / "multi_camera.log",
            )
            children.append(consumer)
            with console.status(f"starting multi_camera with {model.name}"):
                consumer.wait_for("active:", START_TIMEOUT)
            for name, path in pictures.items():
                children.append(
                    ChildProcess(
                        "yolox_trt.ros.tools.demo_camera",
                        [name, str(path), "--rate", str(args.rate), "--size", *args.size],
                        log=folder / f"{name}.log",
                    )
                )
            _watch(console, node, executor, children, args.duration, folder)
        finally:
            # The cameras first: what they sent last shall still be worked on.
            for child in reversed(children):
                child.stop()
            executor.shutdown()
            node.destroy_node()
            rclpy.try_shutdown()
    return _summary(console, node, children, folder)


def _watch(
    console: Console,
    node: DemoNode,
    executor: SingleThreadedExecutor,
    children: list[ChildProcess],
    duration: float,
    folder: Path,
) -> None:
    """Show the table until the duration is over, counted from the first result of all cameras."""
    domain = os.environ["ROS_DOMAIN_ID"]
    waiting_since = time.monotonic()
    started: float | None = None
    shown = watched = 0.0

    def table() -> Table:
        left = duration if started is None else max(0.0, started + duration - time.monotonic())
        return node.table(
            f"multi_camera, ROS_DOMAIN_ID={domain}, {left:.0f} s left",
            f"annotated pictures: {folder}",
        )

    with Live(table(), console=console, auto_refresh=False, transient=True) as live:
        while started is None or time.monotonic() < started + duration:
            executor.spin_once(timeout_sec=0.05)
            now = time.monotonic()
            if started is None and all(view.results for view in node.views.values()):
                started = now
            if started is None and now - waiting_since > START_TIMEOUT:
                silent = [name for name, view in node.views.items() if not view.results]
                raise YoloxTrtError(
                    f"no result of {', '.join(silent)} in {START_TIMEOUT:.0f} s",
                    fix=f"see the logs in {folder}",
                )
            if now - shown > 0.25:
                shown = now
                for child in children:
                    child.check_alive()
                live.update(table(), refresh=True)
            # From the beginning: a camera must have found this listener before its first picture.
            if now - watched > 1.0:
                watched = now
                node.watch_next()


def _summary(console: Console, node: DemoNode, children: list[ChildProcess], folder: Path) -> int:
    """Print the last table and the verdict; return the exit status."""
    console.print(node.table("result", f"annotated pictures and logs: {folder}"))
    status = 0
    for child in children:
        if child.status:
            console.print(f"{child.module} ended with status {child.status}: see {child.log}")
            status = 1
    blind = [name for name, view in node.views.items() if not view.detections]
    if blind:
        console.print(f"no detection by {', '.join(blind)}")
        status = 1
    if not status:
        console.print("every camera detected something")
    return status
