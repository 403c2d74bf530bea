# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Four moving cameras, the real multi_camera process, and a table of what it finds."""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from yolox_trt.core.errors import MissingDependencyError, YoloxTrtError
from yolox_trt.core.input_size import AUTO_SIZE, format_size, least_size
from yolox_trt.core.optional import INSTALL_COMMANDS, is_installed
from yolox_trt.core.output_paths import check_own
from yolox_trt.detectors.factory import chosen_size, own_spec
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.evaluation.bench.processor import OtherPrograms
from yolox_trt.evaluation.bench.timing import percentiles
from yolox_trt.executor.device_state import LOAD_WINDOW
from yolox_trt.ros.messages.images import stamp_to_ns
from yolox_trt.ros.middleware import transport_environment
from yolox_trt.ros.tools.child_process import ACTIVE, ChildProcess, ChildProcesses
from yolox_trt.ros.tools.options import CameraOptions, DemoOptions, model_file
from yolox_trt.ros.tools.session import ResultListener, private_domain, ros_node

#: Camera -> photograph of scikit-image (free of rights, see its data/README.txt).
CAMERAS = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
}

Show: TypeAlias = Callable[[str, Sequence[Mapping[str, str]]], None]

#: Status of a command that SIGINT ended: of the dashboard, at the end.
_STOPPED = 128 + signal.SIGINT

#: Share of the pictures from which on it is not said why the others are left out.
_NEARLY_ALL = 0.95
#: Load of a device that has no time for more.
_BUSY = 0.9
#: Share of the computer's cores from which on other programs are named.
_NOTICEABLE = 0.1

#: Seconds that everything may take to start; engines may have to be built.
START_TIMEOUT = 120.0


class CameraView:
    """What the demonstration sees of one camera."""

    def __init__(self) -> None:
        self.detections = 0
        self.arrivals: deque[float] = deque(maxlen=50)
        self.latencies: deque[float] = deque(maxlen=500)
        self.last: Counter[str] = Counter()
        self.pictures = 0
        self.dropped = self._dropped_before = 0

    def add(self, message: Detection2DArray, now_ns: int) -> None:
        """Take in a result."""
        self.detections += len(message.detections)
        self.arrivals.append(time.monotonic())
        self.latencies.append((now_ns - stamp_to_ns(message.header.stamp)) * 1e-9)
        self.last = Counter(d.results[0].hypothesis.class_id for d in message.detections)

    def begin(self) -> None:
        """Forget the figures of the time when some cameras were there and others were not."""
        self.arrivals.clear()
        self.latencies.clear()
        self._dropped_before += self.dropped
        self.dropped = 0

    def tell_drops(self, status: Mapping[str, str]) -> None:
        """Take in what /diagnostics says of the camera."""
        lost = int(status.get("dropped", 0)) + int(status.get("lost_in_middleware", 0))
        self.dropped = lost - self._dropped_before

    @property
    def rate(self) -> float:
        """Results a second over the last ones."""
        if len(self.arrivals) < 2:
            return 0.0
        return (len(self.arrivals) - 1) / (self.arrivals[-1] - self.arrivals[0])

    def latency(self, percentile: float) -> float:
        """Milliseconds from the picture's stamp to its result in this process."""
        return percentiles(self.latencies, percentile)[0] * 1e3


class DemoNode(ResultListener):
    """Listens to the results; looks at one annotated picture after the other."""

    def __init__(self, cameras: Sequence[str], folder: Path, *, context: Any = None) -> None:
        super().__init__(cameras, self._on_result, context=context)
        self.views = {name: CameraView() for name in cameras}
        self._folder = folder
        self._turns = itertools.cycle(cameras)
        self._watching: Any = None

    def _on_result(self, name: str, message: Detection2DArray) -> None:
        self.views[name].add(message, self.get_clock().now().nanoseconds)

    def watch_next(self) -> None:
        """Subscribe to the annotated pictures of the camera whose turn it is, for one picture.

        Drawn pictures cost as much as camera images: one camera at a time is enough to look at.
        """
        if self._watching is not None:
            return
        name = next(self._turns)
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

    def begin(self) -> None:
        """Count from now on: all cameras are there."""
        self.rows()  # reads the drops
        for view in self.views.values():
            view.begin()

    def rows(self) -> list[dict[str, str]]:
        """Return the table, a row for each camera: heading -> cell."""
        rows = []
        for name, view in self.views.items():
            status = self.diagnostics.get(f"stream {name}", {})
            device = status.get("device", "").replace("none", "")
            load = self.diagnostics.get(f"device {device}", {}).get("load")
            view.tell_drops(status)
            timed = len(view.arrivals) > 1
            classes = ", ".join(
                f"{count} {label}" if count > 1 else label for label, count in view.last.items()
            )
            rows.append(
                {
                    "camera": name,
                    "device": device if load is None else f"{device} {float(load):.0%}",
                    "Hz": f"{view.rate:.1f}" if timed else "",
                    "ms p50/p99": f"{view.latency(50):.0f}/{view.latency(99):.0f}" if timed else "",
                    "drops": str(view.dropped),
                    "detections": classes,
                }
            )
        return rows


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


def run_demo(
    options: DemoOptions, *, say: Callable[[str], None], show: Show
) -> tuple[list[str], str]:
    """Run the demonstration.

    Args:
        options: cameras and model.
        say: takes a line.
        show: takes (title, rows) four times a second while it runs, and at its end.

    Returns:
        What went wrong, a line each, nothing if every camera had a detection; and why pictures
        were left out, "" where hardly any was.

    Raises:
        ConfigurationError: the output folder is another user's.
        MissingDependencyError: scikit-image is missing.
    """
    model = model_file(options.model)
    pictures = photographs()
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    check_own(options.output)
    sections: dict[str, dict[str, Any]] = {
        "multi_camera": {
            "cameras": list(pictures),
            "model": str(model),
            "devices": [str(options.device or "auto")],
            "input_size": _input_size(options, model),
        },
        "/**": {"score_threshold": options.score},
    }
    # For this process's own participant and for the children.
    os.environ.update(private_domain(transport_environment()))
    others = OtherPrograms()
    with ros_node(lambda: DemoNode(list(pictures), folder)) as (node, executor):
        with ChildProcesses(folder) as processes:
            say(f"starting multi_camera with {model.name}; logs and annotated pictures: {folder}")
            multi_camera = processes.start_multi_camera(sections, 0.0)
            # Beside it: once there are pictures, this process shows them and waits for nothing.
            if address := _dashboard(processes):
                say(f"live in a browser: {address}")
            for name, path in pictures.items():
                processes.start_camera(
                    CameraOptions(
                        name=name, photograph=str(path), rate=options.rate, size=options.size
                    )
                )
            multi_camera.wait_for(ACTIVE, START_TIMEOUT)
            _watch(node, executor, processes, options.duration, show)
        show("result", node.rows())
    return problems(node, processes.children), shortfall(node, options, others.share)


def _input_size(options: DemoOptions, model: Path) -> str:
    """Return the parameter `input_size` of multi_camera, "" to leave it to the model."""
    if options.input_size is None:
        detector = DetectorOptions(model=model)
        if chosen_size(detector) != AUTO_SIZE:
            return ""
        spec = own_spec(detector)
        return format_size(least_size(spec.input_size, options.size, spec.size_step))
    size = options.input_size
    return size if isinstance(size, str) else format_size(size)


def _dashboard(processes: ChildProcesses) -> str:
    """Start the dashboard; return its address, or "" where its web server is not installed."""
    if not is_installed("aiohttp"):
        return ""
    child = processes.start(
        "yolox_trt.cli", ["dashboard", "--port", 0], log=processes.folder / "dashboard.log"
    )
    child.wait_for("/\n", START_TIMEOUT)  # the end of the address
    return child.output.partition("open ")[2].partition("\n")[0]


def _watch(
    node: DemoNode, executor: Any, processes: ChildProcesses, duration: float, show: Show
) -> None:
    """Show the table until the duration is over, counted from the first result of all cameras."""
    waiting_since = time.monotonic()
    started: float | None = None
    shown = watched = 0.0
    while started is None or time.monotonic() < started + duration:
        executor.spin_once(timeout_sec=0.05)
        now = time.monotonic()
        if started is None and all(view.arrivals for view in node.views.values()):
            started = now
            node.begin()
        if started is None and now - waiting_since > START_TIMEOUT:
            silent = [name for name, view in node.views.items() if not view.arrivals]
            raise YoloxTrtError(
                f"no result of {', '.join(silent)} in {START_TIMEOUT:.0f} s",
                fix=f"see the logs in {processes.folder}",
            )
        if now - shown > 0.25:
            shown = now
            processes.check_alive()
            state = (
                "waiting for each camera's first result"
                if started is None
                else f"{max(0.0, started + duration - now):.0f} s left"
            )
            show(f"multi_camera, ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}, {state}", node.rows())
        # From the beginning: a camera must have found this listener before its first picture.
        if now - watched > 1.0:
            watched = now
            node.watch_next()


def problems(node: DemoNode, children: Sequence[ChildProcess]) -> list[str]:
    """Return what went wrong, a line each."""
    lines = [
        f"{child.module} ended with status {child.returncode}: see {child.log}"
        for child in children
        if child.poll() not in (0, _STOPPED)
    ]
    blind = [name for name, view in node.views.items() if not view.detections]
    return lines + ([f"no detection by {', '.join(blind)}"] if blind else [])


def shortfall(node: DemoNode, options: DemoOptions, others: float) -> str:
    """Return why pictures were left out and what helps, "" where hardly any was.

    Args:
        node: what it has seen.
        options: what was asked for.
        others: share of the computer's cores that other programs took; NaN where it is not known.
    """
    sent, found = options.rate * len(node.views), sum(view.rate for view in node.views.values())
    if found >= _NEARLY_ALL * sent:
        return ""
    devices = {
        key.removeprefix("device "): float(values["load"])
        for key, values in node.diagnostics.items()
        if key.startswith("device ")
    }
    why, fix = (
        [f"{found:.0f} of {sent:.0f} pictures a second were detected in, the newest first"],
        [],
    )
    if devices and options.duration >= LOAD_WINDOW:
        device, load = max(devices.items(), key=lambda item: item[1])
        why.append(
            f"{device} had no time for more"
            if load >= _BUSY
            else f"{device} was busy for {load:.0%}"
        )
    if others >= _NOTICEABLE:
        cores = os.cpu_count() or 1
        why.append(f"other programs took {others:.0%} of this computer's {cores} cores meanwhile")
        fix.append("end other programs")
    fix.append(f"set --rate {max(1, int(found / len(node.views)))}")
    if "cpu" in devices:
        fix.append("use a computer with an NVIDIA GPU")
    return f"{'; '.join(why)}; fix: {', or '.join(fix)}"
