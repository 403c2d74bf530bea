# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Real ROS processes for tests: start, talk to, and end them by their own process id."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rclpy
import yaml
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from support.executors import GPU, simulated
from vision_msgs.msg import Detection2DArray

from yolox_trt.core.detections import Detections
from yolox_trt.executor import InferenceExecutor, StreamConfig, StreamSnapshot
from yolox_trt.ros.middleware import transport_environment
from yolox_trt.ros.tools.domains import DOMAINS, free_domains

REPOSITORY = Path(__file__).resolve().parents[2]
RELIABLE = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
#: Services whose request may be sent again: doing it twice is the same as once.
IDEMPOTENT = {"GetParameters", "GetState", "ListNodes", "SetParameters"}
#: Seconds without a response after which such a request is sent again.
REPEAT_AFTER = 5.0
#: Seconds that a server gets to find a client that has found it.
SERVICE_SETTLE = 0.2


def free_domain() -> int:
    """Return a ROS_DOMAIN_ID that nobody on this computer uses, picked at random."""
    return random.SystemRandom().choice(free_domains() or DOMAINS)


def write_parameters(path: Path, sections: dict[str, dict[str, Any]]) -> Path:
    """Write a ROS parameter file: node name (or /**) -> parameters."""
    content = {name: {"ros__parameters": values} for name, values in sections.items()}
    path.write_text(yaml.safe_dump(content))
    return path


class RosProcess:
    """A child process in the tests' own domain; ended with SIGINT, by its id.

    Args:
        command: arguments after the interpreter, such as ["-m", "yolox_trt.cli", "up"].
        log: file that takes stdout and stderr.
        environment: variables beside the inherited ones.

    Attributes:
        startup: seconds until the first text that was waited for had been written. It measures how
            fast the computer is at present: an end that takes longer than the start is slow.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.log = log
        self.startup = 0.0
        self._started = time.monotonic()
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

    def wait_for(self, text: str, timeout: float = 90.0) -> None:
        """Wait until it has written a text."""
        end = time.monotonic() + timeout
        while True:
            # In this order: what it wrote just before its end is seen as well.
            status = self.process.poll()
            output = self.output
            if text in output:
                break
            assert status is None, f"ended with {status}: {output}"
            assert time.monotonic() < end, f"no '{text}' in {timeout} s: {output}"
            time.sleep(0.02)
        self.startup = self.startup or time.monotonic() - self._started

    def descendants(self) -> list[psutil.Process]:
        """Processes that it has started, and those that they have started, while it runs."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def stop(self, number: int = signal.SIGINT, timeout: float = 30.0) -> tuple[int, float]:
        """Send a signal and wait; return (exit status, seconds). Killed after the timeout."""
        start = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            descendants = self.descendants()
            self.process.kill()
            self.process.wait()
            end_processes(descendants)
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
        self._services: dict[str, Any] = {}

    def spin_until(self, done: Callable[[], Any], timeout: float = 30.0, what: str = "") -> None:
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

    def publish_until(
        self,
        publisher: Any,
        message: Any,
        done: Callable[[], Any],
        timeout: float = 60.0,
        what: str = "",
    ) -> None:
        """Publish the same message five times a second until `done()` is true.

        For outputs of which nothing tells when the other side has found its listener: what is
        published before is lost.
        """
        due = 0.0

        def publish() -> Any:
            nonlocal due
            now = time.monotonic()
            if now >= due:
                publisher.publish(message)
                due = now + 0.2
            return done()

        self.spin_until(publish, timeout, what)

    def send(self, service_type: type, name: str, request: Any, timeout: float = 30.0) -> Any:
        """Wait for a service, send it a request, and return the future of the response."""
        client = self._services.get(name)
        if client is None:
            # A server drops the response to a client that it has not found yet, so a client is
            # given a moment, and kept: nothing tells when it has been found.
            client = self._services[name] = self.node.create_client(service_type, name)
            self.spin_until(client.service_is_ready, timeout, f"service {name}")
            self.spin_for(SERVICE_SETTLE)
        self.spin_until(client.service_is_ready, timeout, f"service {name}")
        return client.call_async(request)

    def call(self, service_type: type, name: str, request: Any, timeout: float = 30.0) -> Any:
        """Call a service and return its response; idempotent requests are sent again."""
        futures = [self.send(service_type, name, request, timeout)]
        due = time.monotonic() + REPEAT_AFTER

        def answered() -> bool:
            nonlocal due
            if service_type.__name__ in IDEMPOTENT and time.monotonic() > due:
                futures.append(self._services[name].call_async(request))
                due = time.monotonic() + REPEAT_AFTER
            return any(future.done() for future in futures)

        self.spin_until(answered, timeout, f"response of {name}")
        for future in futures:
            if not future.done():
                self._services[name].remove_pending_request(future)
        return next(future.result() for future in futures if future.done())

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


def detections_from_message(
    message: Detection2DArray, class_names: Sequence[str] = ()
) -> Detections:
    """Read a Detection2DArray back: the best hypothesis of each detection.

    Args:
        message: the message; its boxes are taken as axis-aligned.
        class_names: names in the order of the class ids; a name that is not among them must be
            a number.

    Raises:
        ValueError: a class that is neither.
    """
    ids = {name: index for index, name in enumerate(class_names)}
    boxes, scores, class_ids = [], [], []
    for detection in message.detections:
        if not detection.results:
            continue
        best = max((result.hypothesis for result in detection.results), key=lambda h: h.score)
        position, box = detection.bbox.center.position, detection.bbox
        half_x, half_y = box.size_x / 2, box.size_y / 2
        boxes.append(
            (position.x - half_x, position.y - half_y, position.x + half_x, position.y + half_y)
        )
        scores.append(best.score)
        name = best.class_id
        class_ids.append(ids[name] if name in ids else int(name))
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(scores, np.float32),
        np.asarray(class_ids, np.int32),
    )


def stream_snapshot(name: str, **changes: Any) -> StreamSnapshot:
    """Return the counters of a stream that is served and has done nothing yet."""
    executor = InferenceExecutor([simulated(GPU)])
    executor.add_stream(StreamConfig(id=name), lambda result: None)
    snapshot = executor.snapshot().streams[name]
    assert executor.close()
    return replace(snapshot, **{"served": True, **changes})


def is_running(process: psutil.Process) -> bool:
    """Whether a process still runs; one that has ended may wait for its parent as a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_processes(processes: Sequence[psutil.Process], timeout: float = 5.0) -> None:
    """End processes that have lost the one that started them; killed after the timeout."""
    left = [process for process in processes if is_running(process)]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    end = time.monotonic() + timeout
    while (left := [process for process in left if is_running(process)]) and (
        time.monotonic() < end
    ):
        time.sleep(0.05)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def end_leftovers(processes: Sequence[RosProcess]) -> None:
    """End what a test has left running: by SIGINT, so that it takes its shared memory along.

    What those processes have started is ended as well, should they not do it themselves.
    """
    running = [process for process in processes if process.process.poll() is None]
    descendants = [child for process in running for child in process.descendants()]
    for process in running:
        process.process.send_signal(signal.SIGINT)
    for process in running:
        try:
            process.process.wait(15.0)
        except subprocess.TimeoutExpired:
            descendants += process.descendants()
            process.process.kill()
            process.process.wait()
    end_processes(descendants)


def shared_memory_files() -> set[str]:
    """Names of Fast DDS's files in /dev/shm."""
    folder = Path("/dev/shm")
    return {path.name for path in folder.glob("*fastdds*")} if folder.is_dir() else set()


def remove_orphans(names: set[str]) -> list[str]:
    """Remove files in /dev/shm that no process uses any more; one that was killed leaves them.

    A file counts as unused if no process has it mapped at two looks, one second apart: a process
    of another test run makes a file a moment before it maps it.

    Returns:
        The names that were removed.
    """
    orphans = _unmapped(names)
    if orphans:
        time.sleep(1.0)
        orphans = _unmapped(orphans)
    for name in orphans:
        (Path("/dev/shm") / name).unlink(missing_ok=True)
    return sorted(orphans)


def _unmapped(names: set[str]) -> set[str]:
    """Return the files that no process has mapped.

    A segment or port is in use while a process has it mapped. Its lock (_el) and its mutex
    (sem.*_mutex) are mapped for moments only, and belong to it.
    """
    mapped = ""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            mapped += maps.read_text()
        except OSError:
            continue
    used = set(re.findall(r"/dev/shm/(fastdds_\w+)", mapped))
    return {name for name in names if re.sub(r"^sem\.|_mutex$|_el$", "", name) not in used}
