# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Two computers of one vehicle: heartbeats, and two real processes in two network namespaces.

One is killed, comes back, and is cut off. That needs root and iproute2; all else is in test_duties.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: run `make venv`")

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import String
from support.ros import Client, free_domain, image_message, write_parameters
from support.yolox_graphs import build_yolox
from vision_msgs.msg import Detection2DArray

from yolox_trt.ros.messages.images import stamp_to_ns
from yolox_trt.ros.nodes.takeover import Takeover, heartbeat_topic

pytestmark = [pytest.mark.ros, pytest.mark.timeout(900, method="signal")]

#: Long for a vehicle: a busy test machine may hold a process up for a second.
SILENCE = 2.0
PERIOD = 0.1
#: Seconds for what takes two, of which a process starts.
UP = 300.0
BRIDGE = "ytbridge"
#: The images and the results go over the bridge, and nothing through shared memory.
UDP_ONLY = """<?xml version="1.0" encoding="UTF-8" ?>
<dds xmlns="http://www.eprosima.com"><profiles>
  <transport_descriptors><transport_descriptor>
    <transport_id>udp</transport_id><type>UDPv4</type>
  </transport_descriptor></transport_descriptors>
  <participant profile_name="udp" is_default_profile="true"><rtps>
    <userTransports><transport_id>udp</transport_id></userTransports>
    <useBuiltinTransports>false</useBuiltinTransports>
  </rtps></participant>
</profiles></dds>"""


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


@pytest.fixture
def network() -> Iterator[None]:
    """Namespaces yt_a and yt_b, both linked to a bridge of this one."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    names = ("yt_a", "yt_b")

    def remove() -> None:
        for name in names:
            ip("netns", "del", name, check=False)
        ip("link", "del", BRIDGE, check=False)

    remove()
    try:
        try:
            ip("link", "add", BRIDGE, "type", "bridge")
            for name in names:
                ip("netns", "add", name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        ip("addr", "add", "10.77.0.1/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for number, name in enumerate(names, start=2):
            ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", name, "master", BRIDGE, "up")
            for words in (
                ("link", "set", "lo", "up"),
                ("addr", "add", f"10.77.0.{number}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
            ):
                ip("-n", name, *words)
        yield
    finally:
        remove()


class Computer:
    """One of the two, with its own multi_camera."""

    def __init__(self, name: str, parameters: Path, folder: Path, environment: dict) -> None:
        self.name = name
        self._command = ["ip", "netns", "exec", f"yt_{name}", sys.executable, "-m"]
        self._command += ["yolox_trt.cli", "up", "--computer", name, "--config", str(parameters)]
        self._log = folder / f"{name}.log"
        self._environment = environment
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=self._environment
            )

    def told(self, text: str) -> int:
        """How often its log has a text."""
        return self._log.read_text(errors="replace").count(text)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Vehicle:
    """Publishes images, and counts the results of each."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._publisher = client.publisher(Image, "/front/image_raw", 1)
        self._image = np.full((48, 64, 3), 90, np.uint8)
        self._next, self._number = 0.0, 0
        self.results: Counter[int] = Counter()
        self.times: list[float] = []
        client.node.create_subscription(Detection2DArray, "/front/detections", self._take, 10)

    def _take(self, message: Detection2DArray) -> None:
        self.results[stamp_to_ns(message.header.stamp)] += 1
        self.times.append(time.monotonic())

    @property
    def doubles(self) -> int:
        return sum(count > 1 for count in self.results.values())

    def drive(self, done: Callable[[], object], timeout: float, what: str) -> float:
        """Publish images until something is so; return the seconds."""
        begin = time.monotonic()
        while not done():
            now = time.monotonic()
            assert now - begin < timeout, f"not within {timeout} s: {what}"
            if now >= self._next:
                self._next, self._number = now + PERIOD, self._number + 1
                stamp = 10**9 + self._number * 10**6
                self._publisher.publish(image_message(self._image, stamp_ns=stamp))
            self._client.executor.spin_once(timeout_sec=0.01)
        return time.monotonic() - begin


class Camera(Node):
    """A camera's node, as far as a Takeover knows it, that may refuse its parameter `enabled`."""

    def __init__(self, client: Client, primary: str, standby: str) -> None:
        super().__init__("front", context=client.context, enable_rosout=False)
        self._stream = SimpleNamespace(enabled=False)
        current = SimpleNamespace(primary=primary, standby=standby, stream=self._stream)
        self.parameters = SimpleNamespace(current=current)
        self.refuses = False
        self.asked = 0
        self.declare_parameter("enabled", False)
        self.add_on_set_parameters_callback(self._set)

    @property
    def enabled(self) -> bool:
        return bool(self._stream.enabled)

    def _set(self, parameters: list[Parameter]) -> SetParametersResult:
        self.asked += 1
        if not self.refuses:
            self._stream.enabled = parameters[0].value
        return SetParametersResult(successful=not self.refuses, reason="it is broken")

    def update_subscription(self) -> None:
        pass


@contextlib.contextmanager
def taking_over(
    client: Client, camera: Camera, silence: float, computer: str = "a"
) -> Iterator[None]:
    takeover = Takeover(client.node, SimpleNamespace(nodes={"front": camera}), computer, silence)
    try:
        yield
    finally:
        takeover.close()
        camera.destroy_node()


def test_a_heartbeat_counts_through_a_writer_without_liveliness(client: Client) -> None:
    """A bridge's writer offers none."""
    silence = 1.0
    camera = Camera(client, primary="b", standby="a")
    heartbeat = client.publisher(String, heartbeat_topic("b"), 1)
    with taking_over(client, camera, silence):
        begin, beats = time.monotonic(), 0
        while time.monotonic() - begin < 3 * silence:
            if heartbeat.get_subscription_count():
                beats += 1
                heartbeat.publish(String(data="front"))
                last = time.monotonic()
            client.spin_for(silence / 10)
        assert beats > 10 and not camera.enabled
        client.spin_until(lambda: camera.enabled)
        assert time.monotonic() - last > silence


def test_a_standby_whose_callback_takes_long_does_not_begin(client: Client) -> None:
    """The executor looks at the timer before it hands over the heartbeats that have waited."""
    silence = 0.8
    camera = Camera(client, primary="b", standby="a")
    heartbeat = client.publisher(String, heartbeat_topic("b"), 1)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(silence / 10):
            heartbeat.publish(String(data="front"))

    primary = threading.Thread(target=beat)
    primary.start()
    try:
        with taking_over(client, camera, silence):
            client.spin_until(heartbeat.get_subscription_count)
            client.spin_for(2 * silence)
            time.sleep(1.7 * silence)
            client.spin_for(1.5 * silence)
            assert camera.asked == 0
    finally:
        ended.set()
        primary.join()


def test_mistakes_between_computers_are_told_once(
    client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    camera = Camera(client, primary="b", standby="a")
    client.publisher(String, heartbeat_topic("c"), 1)
    other = client.publisher(String, heartbeat_topic("b"), 1)
    with taking_over(client, camera, 0.2, "c"):
        client.spin_until(other.get_subscription_count)
        for _ in range(5):
            other.publish(String(data="silence=9.0 front"))
            client.spin_for(0.1)
    said = capfd.readouterr().err
    assert said.count("computer 'c' serves none of front; expected a or b") == 1
    assert said.count("computer_silence 9 s of b; expected 0.2 s") == 1
    assert said.count("another process is computer 'c' too") == 1
    assert camera.asked == 0


def test_what_a_camera_refuses_is_told_once_and_asked_again(
    client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    camera = Camera(client, primary="a", standby="")
    camera.refuses = True
    with taking_over(client, camera, 0.2):
        client.spin_until(lambda: camera.asked > 3)
        camera.refuses = False
        client.spin_until(lambda: camera.enabled)
    said = capfd.readouterr().err
    assert said.count("is served here: its standby is silent; but it refused: it is broken") == 1
    assert said.count("is served here") == 2


@pytest.mark.slow
def test_one_dies_returns_and_is_cut_off(network: None, tmp_path: Path) -> None:
    """In a new process: Fast DDS knows no interface that came after a process's first node."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        pool.submit(one_dies_returns_and_is_cut_off, tmp_path).result()


def one_dies_returns_and_is_cut_off(tmp_path: Path) -> None:
    onnx.save(build_yolox(num_classes=5, metadata=True), tmp_path / "net.onnx")
    (tmp_path / "udp.xml").write_text(UDP_ONLY)
    parameters = write_parameters(
        tmp_path / "vehicle.yaml",
        {
            "/**/multi_camera": {
                "cameras": ["front"],
                "model": str(tmp_path / "net.onnx"),
                "devices": ["cpu"],
                "cpu_threads": 1,
                "computer_silence": SILENCE,
            },
            "/**/front": {"image_topic": "/front/image_raw", "primary": "a", "standby": "b"},
        },
    )
    domain = free_domain()
    os.environ |= {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
        "ROS_LOCALHOST_ONLY": "0",
        "ROS_DOMAIN_ID": str(domain),
        "FASTDDS_DEFAULT_PROFILES_FILE": str(tmp_path / "udp.xml"),
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(tmp_path / "udp.xml"),
    }
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    client = Client(domain, "vehicle")
    vehicle = Vehicle(client)
    a, b = (Computer(name, parameters, tmp_path, environment) for name in ("a", "b"))
    served, ended = "camera 'front' is served here", "camera 'front' is not served here"
    try:
        # Whichever comes up first serves; then the primary does.
        vehicle.drive(lambda: a.told(served) and b.told("active:"), UP, "both are up")
        vehicle.drive(lambda: b.told(ended) == b.told(served) + 1, UP, "the standby stands by")
        vehicle.drive(lambda: len(vehicle.times) > 10, UP, "results of the primary")
        assert vehicle.doubles == 0

        taken = b.told(served)
        a.kill()
        count = len(vehicle.times)
        vehicle.drive(lambda: b.told(served) > taken, UP, "the standby takes over")
        vehicle.drive(lambda: len(vehicle.times) > count + 5, UP, "its results")
        gaps = np.diff(vehicle.times[count - 1 :])
        print(f"gap after a death: {gaps.max():.2f} s, silence {SILENCE} s, period {PERIOD} s")
        assert gaps.max() < SILENCE + 2 * PERIOD + 1.0  # and what a busy machine adds

        given, again = b.told(ended), a.told(served)
        a.start()
        vehicle.drive(lambda: a.told(served) > again, UP, "the primary is back")
        assert b.told(ended) == given + 1
        count = len(vehicle.times)
        vehicle.drive(lambda: len(vehicle.times) > count + 10, UP, "its results")
        assert vehicle.doubles == 0

        taken, given = b.told(served), b.told(ended)
        ip("link", "set", "yt_a", "down")
        vehicle.drive(lambda: b.told(served) > taken, UP, "the standby takes over")
        count = len(vehicle.times)
        vehicle.drive(lambda: len(vehicle.times) > count + 10, UP, "its results")
        assert vehicle.doubles == 0
        ip("link", "set", "yt_a", "up")
        vehicle.drive(lambda: b.told(ended) > given, UP, "the standby sees the primary")
        seen = len(vehicle.times)
        vehicle.drive(lambda: len(vehicle.times) > seen + 20, UP, "results of one")
        late = sum(vehicle.results[stamp] > 1 for stamp in list(vehicle.results)[-15:])
        print(f"doubles while the network grew together: {vehicle.doubles}")
        assert late == 0
    finally:
        for computer in (a, b):
            computer.kill()
        client.close()
        print((tmp_path / "a.log").read_text()[-3000:], (tmp_path / "b.log").read_text()[-3000:])
