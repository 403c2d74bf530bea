# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""BuildProgress: tells how far engines are that are being built, on a topic and in the log."""

from __future__ import annotations

import contextlib
import math
import platform
import threading
import time
from collections.abc import Callable, Iterator

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from yolox_trt.core.device import Device
from yolox_trt.core.errors import EngineError
from yolox_trt.ros.nodes import diagnostics

#: Least seconds between two messages of one build, and between two lines in the log.
PUBLISH_PERIOD = 0.5
LOG_PERIOD = 5.0


class BuildProgress:
    """The topic ~/build_progress: diagnostic_msgs/DiagnosticStatus, latched.

    `name` is "<node>: build <model> for <device>", `message` the phase; the values are `model`,
    `device`, `fraction` (0 to 1; 0 all the while where the TensorRT version tells no steps) and
    `elapsed_s`. The last message of a build has the fraction 1.

    Builders call from their own threads; everything here may be called from any thread.

    Args:
        node: the node that publishes.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._running: dict[str, str] = {}
        self._cancelled = False
        self._publisher = node.create_publisher(
            DiagnosticStatus,
            "~/build_progress",
            QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL),
        )

    @property
    def text(self) -> str:
        """The builds that go on, in words; "" where there is none."""
        with self._lock:
            return "; ".join(filter(None, self._running.values()))

    def cancel(self) -> None:
        """Let every build end at its next step: the process is going down."""
        self._cancelled = True

    @contextlib.contextmanager
    def watch(self, model: str, device: Device | None) -> Iterator[Callable[[float, str], None]]:
        """Give the on_progress(fraction 0..1, phase) of one build, for as long as it may be called.

        It raises EngineError after cancel(), which ends the build.

        Args:
            model: name of the model.
            device: what the engine is built for; None for the one that works.
        """
        where = "auto" if device is None else str(device)
        what = f"{model} for {where}"
        name = f"{self._node.get_fully_qualified_name().lstrip('/')}: build {what}"
        started = time.monotonic()
        published = logged = -math.inf

        def on_progress(fraction: float, phase: str) -> None:
            nonlocal published, logged
            if self._cancelled:
                raise EngineError(f"the build of {what} was cancelled")
            done, now = fraction >= 1.0, time.monotonic()
            text = f"building {what}, {fraction:.0%}: {phase}"
            with self._lock:
                self._running[what] = "" if done else text
                publish = done or now - published >= PUBLISH_PERIOD
                log = done or now - logged >= LOG_PERIOD
                published, logged = now if publish else published, now if log else logged
            if publish:
                values = {"model": model, "device": where, "fraction": fraction}
                values["elapsed_s"] = now - started
                message = diagnostics.status(name, platform.node(), diagnostics.OK, phase, values)
                # The node may go down while TensorRT is at work.
                with contextlib.suppress(InvalidHandle):
                    self._publisher.publish(message)
            if log:
                end = f"{what}: {phase}, {now - started:.0f} s"
                self._node.get_logger().info(end if done else text)

        try:
            yield on_progress
        finally:
            with self._lock:
                self._running.pop(what, None)
