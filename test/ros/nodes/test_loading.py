# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What comes while engines are loaded: cameras, transitions, signals. Engine builds are held up."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import Image
from support.ros import Client, RosProcess, image_message, write_parameters
from vision_msgs.msg import Detection2DArray

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]
PICTURE = np.full((64, 96, 3), 128, np.uint8)

#: multi_camera whose backend builds until the file {gate} is there, and counts its builds.
HELD_BUILD = """
import pathlib, sys, time
from yolox_trt.detectors import backends, factory
from yolox_trt.ros.nodes.multi_camera import main

builds = 0

def create(options, device):
    global builds
    builds += 1
    print("build", builds, flush=True)
    while not pathlib.Path({gate!r}).exists():
        options.on_progress(0.5, "fusing layers")
        time.sleep(0.02)
    return backends.onnxruntime_cpu(options, device)

factory.BACKENDS["onnxruntime", "cpu"] = create
sys.exit(main())
"""


class Held:
    """The process, and the gate that lets its engines be finished."""

    def __init__(self, process: RosProcess, gate: Path) -> None:
        self.process = process
        self.gate = gate


@pytest.fixture
def start_held(start: Start, tmp_path: Path, small_model: Path) -> Callable[..., Held]:
    """Start multi_camera with sections of parameters, and wait until it builds."""

    def start_process(sections: dict[str, dict[str, Any]], *, wait: str = "build 1") -> Held:
        own = {"model": str(small_model), "cpu_threads": 1, "cameras": ["front"]}
        sections = {**sections, "multi_camera": own | sections.get("multi_camera", {})}
        path = write_parameters(tmp_path / "parameters.yaml", sections)
        code = HELD_BUILD.format(gate=str(tmp_path / "gate"))
        process = start(["-c", code, "--ros-args", "--params-file", str(path)])
        if wait:
            process.wait_for(wait)
        return Held(process, tmp_path / "gate")

    return start_process


def gives_results(client: Client, camera: str) -> bool:
    results = client.collect(Detection2DArray, f"/{camera}/detections")
    publisher = client.publisher(Image, f"/{camera}/image_raw")
    client.publish_until(publisher, image_message(PICTURE), lambda: results, what="a result")
    return True


@pytest.mark.parametrize(
    ("devices", "rear", "found"),
    [
        # What the plan tells already is answered at once.
        (["cpu"], {"device": "dla0"}, "'rear' cannot be added: camera 'rear' on device dla0"),
        (["cpu"], {"model": "/nowhere.onnx"}, "'rear' cannot be added: model '/nowhere.onnx'"),
        # What only the loaded model and the chosen device tell is found at configure.
        (["auto"], {"device": "dla0"}, "camera 'rear' is removed: camera 'rear' on device dla0"),
        (
            ["cpu"],
            {"class_thresholds": ["zebra:0.5"]},
            "'rear' is removed: the parameter `class_t",
        ),
    ],
)
@pytest.mark.sampled(3)
def test_a_camera_that_does_not_fit_and_comes_while_engines_load_ends_nothing(
    start_held: Callable[..., Held],
    client: Client,
    devices: list[str],
    rear: dict[str, Any],
    found: str,
) -> None:
    held = start_held({"multi_camera": {"devices": devices}, "rear": rear})
    wanted = ["front", "rear", "left"]
    assert client.set_parameter("/multi_camera", "cameras", wanted).successful
    held.process.wait_for("camera 'left' added")
    held.gate.touch()
    held.process.wait_for(found)
    held.process.wait_for("active: front, left")
    assert gives_results(client, "front")
    assert gives_results(client, "left")
    client.spin_until(lambda: client.node.count_publishers("/rear/detections") == 0)
    assert held.process.stop()[0] == 0


def test_a_camera_of_the_start_that_does_not_fit_still_ends_it(
    start_held: Callable[..., Held],
) -> None:
    held = start_held({"front": {"class_thresholds": ["zebra:0.5"]}})
    held.gate.touch()
    assert held.process.process.wait(90) == 2
    assert "class 'zebra'" in held.process.output


def test_configure_is_refused_while_the_start_loads(
    start_held: Callable[..., Held], client: Client
) -> None:
    held = start_held({})
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    assert not client.call(ChangeState, "/multi_camera/change_state", request).success
    held.process.wait_for("while the engines are being loaded")
    held.gate.touch()
    held.process.wait_for("active: front")
    assert gives_results(client, "front")
    assert "build 2" not in held.process.output
    assert held.process.stop()[0] == 0


def test_shutdown_ends_a_load(start_held: Callable[..., Held], client: Client) -> None:
    held = start_held({})
    shutdown = Transition(id=Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    client.send(ChangeState, "/multi_camera/change_state", ChangeState.Request(transition=shutdown))
    client.spin_until(lambda: held.process.process.poll() is not None, 60, "the end")
    assert held.process.process.returncode == 0, held.process.output
    assert "Traceback" not in held.process.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("autostart", [False, True])
@pytest.mark.sampled(3)
def test_a_signal_ends_a_build_in_a_transition(
    start_held: Callable[..., Held], client: Client, autostart: bool, number: int
) -> None:
    """The transition waits in rclpy's own thread, which looks for signals between callbacks."""
    held = start_held(
        {"multi_camera": {"autostart": autostart}}, wait="build 1" if autostart else ""
    )
    if autostart:
        # A start that is cleaned up, and configured again by hand.
        held.gate.touch()
        held.process.wait_for("active: front")
        held.gate.unlink()
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            request = ChangeState.Request(transition=Transition(id=transition))
            assert client.call(ChangeState, "/multi_camera/change_state", request).success
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    client.send(ChangeState, "/multi_camera/change_state", request)
    held.process.wait_for("build 2" if autostart else "build 1")
    status, _ = held.process.stop(number)
    assert status == 0, held.process.output
    assert "Traceback" not in held.process.output
