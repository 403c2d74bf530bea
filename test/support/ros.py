# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Real ROS processes for tests: start, talk to, and end them by their own process id."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import yaml
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from yolox_trt.ros.middleware import transport_environment

REPOSITORY = Path(__file__).resolve().parents[2]
RELIABLE = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def free_domain() -> int:
    """Return a ROS_DOMAIN_ID of the range that is safe on Linux (0 to 101), picked at random."""
    return random.SystemRandom().randint(10, 100)


def write_parameters(path: Path, sections: dict[str, dict[str, Any]]) -> Path:
    """Write a ROS parameter file: node name (or /**) -> parameters."""
    content = {name: {"ros__parameters": values} for name, values in sections.items()}
    path.write_text(yaml.safe_dump(content))
    return path


class RosProcess:
    """A child process in the tests' own domain; ended with SIGINT, by its id.

    Args:
        command: arguments after the interpreter, such as ["-m", "yolox_trt.ros.multi_camera"].
        log: file that takes stdout and stderr.
        environment: variables beside the inherited ones.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**transport_environment(), "PYTHONUNBUFFERED": "1", **(environment or {})},
                cwd=REPOSITORY,
            )

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, timeout: float = 30.0) -> None:
        """Wait until it has written a text."""
        end = time.monotonic() + timeout
        while text not in self.output:
            assert self.process.poll() is None, (
                f"ended with {self.process.returncode}: {self.output}"
            )
            assert time.monotonic() < end, f"no '{text}' in {timeout} s: {self.output}"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGINT, timeout: float = 10.0) -> tuple[int, float]:
        """Send a signal and wait; return (exit status, seconds). Killed after the timeout."""
        start = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not end in {timeout} s: {self.output}") from None
        return status, time.monotonic() - start


class Client:
    """A node of the test's own process, spun by the test's own thread."""

    def __init__(self, domain: int, name: str = "test_client") -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node(name, context=self.context, enable_rosout=False)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def spin_until(self, done: Callable[[], Any], timeout: float = 10.0, what: str = "") -> None:
        """Handle messages until `done()` is true; fails after the timeout."""
        end = time.monotonic() + timeout
        while not done():
            assert time.monotonic() < end, f"not within {timeout} s: {what or done}"
            self.executor.spin_once(timeout_sec=0.02)

    def spin_for(self, seconds: float) -> None:
        """Handle messages for some time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def collect(self, message_type: type, topic: str, qos: Any = RELIABLE) -> list[Any]:
        """Subscribe; return the list that messages are appended to."""
        messages: list[Any] = []
        self.node.create_subscription(message_type, topic, messages.append, qos)
        return messages

    def publisher(self, message_type: type, topic: str, qos: Any = RELIABLE) -> Any:
        """Create a publisher."""
        return self.node.create_publisher(message_type, topic, qos)

    def call(self, service_type: type, name: str, request: Any, timeout: float = 10.0) -> Any:
        """Call a service and return its response."""
        client = self.node.create_client(service_type, name)
        self.spin_until(client.service_is_ready, timeout, f"service {name}")
        future = client.call_async(request)
        self.spin_until(future.done, timeout, f"answer of {name}")
        self.node.destroy_client(client)
        return future.result()

    def set_parameter(self, node: str, name: str, value: Any) -> Any:
        """Set a parameter of another node; return its SetParametersResult."""
        from rcl_interfaces.srv import SetParameters

        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg()]
        return self.call(SetParameters, f"{node}/set_parameters", request).results[0]

    def close(self) -> None:
        """Destroy the node and its context."""
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


def image_message(image: np.ndarray, encoding: str = "bgr8", stamp_ns: int = 0) -> Image:
    """Return a sensor_msgs/Image of a (H, W) or (H, W, C) array."""
    message = Image(encoding=encoding)
    message.header.frame_id = "test_frame"
    message.header.stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    message.height, message.width = image.shape[:2]
    message.step = image.dtype.itemsize * int(np.prod(image.shape[1:]))
    message.data = image.tobytes()
    return message


def end_leftovers(processes: Sequence[RosProcess]) -> None:
    """End what a test has left running: by SIGINT, so that it takes its shared memory along."""
    running = [process.process for process in processes if process.process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGINT)
    for process in running:
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def shared_memory_files() -> set[str]:
    """Names of Fast DDS's files in /dev/shm."""
    folder = Path("/dev/shm")
    return {path.name for path in folder.glob("*fastdds*")} if folder.is_dir() else set()


def remove_orphans(names: set[str]) -> list[str]:
    """Remove files in /dev/shm that no process uses any more; one that was killed leaves them.

    A segment or port is in use while a process has it mapped. Its lock (_el) and its mutex
    (sem.*_mutex) are mapped for moments only, and belong to it.

    Returns:
        The names that were removed.
    """
    mapped = ""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            mapped += maps.read_text()
        except OSError:
            continue
    used = set(re.findall(r"/dev/shm/(fastdds_\w+)", mapped))
    orphans = []
    for name in names:
        owner = re.sub(r"^sem\.|_mutex$|_el$", "", name)
        if owner not in used:
            (Path("/dev/shm") / name).unlink(missing_ok=True)
            orphans.append(name)
    return orphans
