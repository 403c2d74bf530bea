# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The managed node, cameras that come and go, the timeline."""

from __future__ import annotations

import json
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from support.executors import GPU, simulated
from support.ros import Client, RosProcess, image_message
from vision_msgs.msg import Detection2DArray

from yolox_trt.executor import DeviceStatus, InferenceExecutor
from yolox_trt.ros.messages.images import stamp_to_ns
from yolox_trt.ros.nodes.detection_service import DetectionService
from yolox_trt.ros.nodes.diagnostics import ERROR, OK, WARN, broken_device, device_status
from yolox_trt.ros.nodes.executor_node import ExecutorNode

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]
PICTURE = np.kron(
    np.random.default_rng(1).integers(0, 256, (12, 16, 3)), np.ones((8, 8, 1))
).astype(np.uint8)


RELIABLE_CAMERAS = {"/**": {"qos_reliability": "reliable"}}
#: The state that a transition leads to.
GOALS = {
    Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
}


def request_transition(client: Client, transition: int) -> Any:
    request = ChangeState.Request(transition=Transition(id=transition))
    # The first request waits for the process's start as well.
    return client.send(ChangeState, "/multi_camera/change_state", request, 60.0)


def change_state(client: Client, transition: int) -> bool:
    future = request_transition(client, transition)
    end = time.monotonic() + 20.0
    client.spin_until(lambda: future.done() or time.monotonic() > end)
    if future.done():
        return bool(future.result().success)
    # The request cannot be sent again; where its response was lost, the state tells the same.
    return state(client) == GOALS[transition]


def state(client: Client) -> int:
    answer = client.call(GetState, "/multi_camera/get_state", GetState.Request(), 60.0)
    return int(answer.current_state.id)


class Camera:
    """Driver and listener of one camera whose images are reliable: a single one must arrive."""

    def __init__(self, client: Client, name: str, topic: str = "") -> None:
        self.client = client
        self.results = client.collect(Detection2DArray, f"/{name}/detections")
        self.publisher = client.publisher(Image, topic or f"/{name}/image_raw")
        self.stamp = 0

    def gives_results(self) -> bool:
        """Wait for the subscription, send an image, wait for its result."""
        self.client.spin_until(lambda: self.publisher.get_subscription_count() == 1)
        self.stamp += 1
        self.publisher.publish(image_message(PICTURE, stamp_ns=self.stamp))
        self.client.spin_until(
            lambda: self.results and stamp_to_ns(self.results[-1].header.stamp) == self.stamp
        )
        return True


def test_transitions(start_cameras: Start, client: Client) -> None:
    process = start_cameras(
        RELIABLE_CAMERAS | {"multi_camera": {"cameras": ["front"], "autostart": False}}, wait=""
    )
    front = Camera(client, "front")
    assert state(client) == State.PRIMARY_STATE_UNCONFIGURED
    assert change_state(client, Transition.TRANSITION_CONFIGURE)
    client.spin_for(0.3)
    assert front.publisher.get_subscription_count() == 0
    assert change_state(client, Transition.TRANSITION_ACTIVATE)
    assert front.gives_results()
    assert change_state(client, Transition.TRANSITION_DEACTIVATE)
    client.spin_until(lambda: front.publisher.get_subscription_count() == 0)
    assert state(client) == State.PRIMARY_STATE_INACTIVE
    assert change_state(client, Transition.TRANSITION_ACTIVATE)
    assert front.gives_results()

    # A parameter that applies at configure does so after a cleanup.
    assert client.set_parameter("/front", "image_topic", "/elsewhere").successful
    assert change_state(client, Transition.TRANSITION_DEACTIVATE)
    assert change_state(client, Transition.TRANSITION_CLEANUP)
    client.spin_until(lambda: client.node.count_publishers("/front/detections") == 0)
    assert change_state(client, Transition.TRANSITION_CONFIGURE)
    assert change_state(client, Transition.TRANSITION_ACTIVATE)
    elsewhere = client.publisher(Image, "/elsewhere")
    client.spin_until(lambda: elsewhere.get_subscription_count() == 1)

    # The response may go down with the process: its end is what counts.
    request_transition(client, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    client.spin_until(lambda: process.process.poll() is not None, what="the end of the process")
    assert process.process.returncode == 0


def test_a_configure_that_fails_can_be_tried_again(
    start_cameras: Start, client: Client, small_model: Path, tmp_path: Path
) -> None:
    """Also where the node has configured itself at its start."""
    model = shutil.copy(small_model, tmp_path / "model.onnx")
    own = {"cameras": ["front"], "model": str(model), "file_folders": [str(tmp_path)]}
    process = start_cameras(RELIABLE_CAMERAS | {"multi_camera": own})
    missing = str(tmp_path / "missing.onnx")
    refused = client.set_parameter("/multi_camera", "model", missing)
    assert "which is no file" in refused.reason
    model.rename(missing)
    assert change_state(client, Transition.TRANSITION_DEACTIVATE)
    assert change_state(client, Transition.TRANSITION_CLEANUP)
    assert not change_state(client, Transition.TRANSITION_CONFIGURE)
    assert state(client) == State.PRIMARY_STATE_UNCONFIGURED
    process.wait_for(f"not configured: model '{model}', which is no file")
    # A transition that the state does not have is answered, on every distribution.
    assert not change_state(client, Transition.TRANSITION_DEACTIVATE)
    assert client.set_parameter("/multi_camera", "model", missing).successful
    assert change_state(client, Transition.TRANSITION_CONFIGURE)
    assert change_state(client, Transition.TRANSITION_ACTIVATE)
    assert Camera(client, "front").gives_results()


def test_the_label_file_is_read_at_each_configure(
    start_cameras: Start, client: Client, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("car\nbus\ntram\n")
    process = start_cameras({"multi_camera": {"cameras": ["front"], "label_path": str(labels)}})
    # What is set between two configures does not depend on the file.
    labels.unlink()
    assert client.set_parameter("/multi_camera", "timeline_seconds", 5.0).successful
    assert client.set_parameter("/multi_camera", "cameras", ["front", "rear"]).successful
    process.wait_for("camera 'rear' added")
    assert change_state(client, Transition.TRANSITION_DEACTIVATE)
    assert change_state(client, Transition.TRANSITION_CLEANUP)
    labels.write_text("ship\nboat\nferry\n")
    assert change_state(client, Transition.TRANSITION_CONFIGURE)
    request = GetParameters.Request(names=["class_names"])
    answer = client.call(GetParameters, "/rear/get_parameters", request)
    assert list(answer.values[0].string_array_value) == ["ship", "boat", "ferry"]


def test_a_label_file_that_is_missing_is_refused_by_its_parameter(start_cameras: Start) -> None:
    process = start_cameras({"multi_camera": {"label_path": "/nowhere.txt"}}, wait="")
    assert process.process.wait(60) == 2
    assert "label file '/nowhere.txt' that cannot be read" in process.output
    assert "set the parameter `label_path`" in process.output


def test_a_start_that_fails_ends_the_process(start_cameras: Start, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"no network")
    process = start_cameras({"multi_camera": {"cameras": ["front"], "model": str(wrong)}}, wait="")
    assert process.process.wait(60) == 2
    assert "wrong.onnx" in process.output
    assert "Traceback" not in process.output


def test_engines_can_be_built_alone(start_cameras: Start) -> None:
    own = {"cameras": ["front"], "build_only": True, "autostart": False}
    process = start_cameras({"multi_camera": own}, wait="")
    assert process.process.wait(60) == 0
    assert "engine onnxruntime on cpu" in process.output
    assert "all engines are built" in process.output
    assert "active" not in process.output


def test_a_start_that_fails_tells_why_once(start_cameras: Start) -> None:
    process = start_cameras(
        {"multi_camera": {"cameras": ["front"]}, "front": {"class_thresholds": ["zebra:0.5"]}},
        wait="",
    )
    assert process.process.wait(60) == 2
    assert process.output.count("class 'zebra'") == 1


def test_a_primary_without_a_computer_is_told(start_cameras: Start) -> None:
    process = start_cameras(
        {
            "multi_camera": {"cameras": ["front", "rear"]},
            "front": {"primary": "orin_a", "standby": "orin_b"},
        }
    )
    assert process.output.count("a `primary` of front, but no `computer` here") == 1


def test_cameras_come_and_go_by_parameter(start_cameras: Start, client: Client) -> None:
    # The parameter file may name cameras that come later.
    process = start_cameras(
        RELIABLE_CAMERAS
        | {"multi_camera": {"cameras": ["front"]}, "rear": {"score_threshold": 0.9}}
    )
    front, rear = Camera(client, "front"), Camera(client, "rear")
    assert front.gives_results()
    assert client.set_parameter("/multi_camera", "cameras", ["front", "rear"]).successful
    assert rear.gives_results()
    assert not rear.results[-1].detections
    assert front.gives_results()
    assert client.set_parameter("/multi_camera", "cameras", ["rear"]).successful
    client.spin_until(lambda: front.publisher.get_subscription_count() == 0)
    client.spin_until(lambda: client.node.count_publishers("/front/detections") == 0)
    assert rear.gives_results()
    refused = client.set_parameter("/multi_camera", "cameras", ["rear", "not a name"])
    assert not refused.successful
    assert "letters, digits and underscores" in refused.reason
    assert client.set_parameter("/multi_camera", "cameras", ["rear", "front"]).successful
    assert front.gives_results()
    assert process.stop()[0] == 0


def test_cameras_come_and_go_by_component_services(start_cameras: Start, client: Client) -> None:
    services = pytest.importorskip("composition_interfaces.srv")

    process = start_cameras(RELIABLE_CAMERAS | {"multi_camera": {"cameras": ["front"]}})
    container = "/multi_camera/_container"

    def load(**fields: Any) -> Any:
        request = services.LoadNode.Request(
            **({"package_name": "yolox_trt", "plugin_name": "CameraNode"} | fields)
        )
        return client.call(services.LoadNode, f"{container}/load_node", request)

    answer = load(
        node_name="side",
        remap_rules=["side/image_raw:=/camera7"],
        parameters=[
            Parameter("score_threshold", value=0.9).to_parameter_msg(),
            Parameter("image_topic", value="/side/image_raw").to_parameter_msg(),
            Parameter("qos_reliability", value="reliable").to_parameter_msg(),
        ],
    )
    assert answer.success, answer.error_message
    assert answer.full_node_name == "/side"
    side = Camera(client, "side", "/camera7")
    assert side.gives_results()
    assert not side.results[-1].detections

    listed = client.call(
        services.ListNodes, f"{container}/list_nodes", services.ListNodes.Request()
    )
    assert dict(zip(listed.full_node_names, listed.unique_ids, strict=True)) == {
        "/front": listed.unique_ids[0],
        "/side": answer.unique_id,
    }
    assert "a camera called 'side'" in load(node_name="side").error_message
    assert "CameraNode" in load(node_name="x", plugin_name="Other").error_message
    assert "100 characters at most" in load(node_name="m" * 300).error_message
    assert "x:=" in load(node_name="x", remap_rules=["x:="]).error_message
    passwords = [Parameter("model_path", value="/etc/passwd").to_parameter_msg()]
    assert "`file_folders`" in load(node_name="x", parameters=passwords).error_message
    wrong = [Parameter("nms_threshold", value=3.0).to_parameter_msg()]
    assert "0 to 1" in load(node_name="x", parameters=wrong).error_message
    wrong = [Parameter("use_sim_time", value="yes").to_parameter_msg()]
    assert "expected true or false" in load(node_name="ghost", parameters=wrong).error_message
    assert "ghost" not in client.node.get_node_names()
    assert "'cameras' is ignored" not in process.output

    unload = services.UnloadNode.Request(unique_id=answer.unique_id)
    assert client.call(services.UnloadNode, f"{container}/unload_node", unload).success
    client.spin_until(lambda: side.publisher.get_subscription_count() == 0)
    assert not client.call(services.UnloadNode, f"{container}/unload_node", unload).success
    assert Camera(client, "front").gives_results()


def test_timeline_is_written(start_cameras: Start, client: Client, tmp_path: Path) -> None:
    settings = {"timeline_folder": str(tmp_path / "out"), "timeline_seconds": 600.0}
    process = start_cameras(RELIABLE_CAMERAS | {"multi_camera": {"cameras": ["front"]} | settings})
    front = Camera(client, "front")
    for _ in range(5):
        assert front.gives_results()
    answer = client.call(Trigger, "/multi_camera/timeline", Trigger.Request())
    assert answer.success, answer.message
    again = client.call(Trigger, "/multi_camera/timeline", Trigger.Request())
    assert not again.success and "is being written" in again.message
    path = Path(answer.message.split()[0])
    # Where fonts have not been looked at before, matplotlib takes long.
    process.wait_for(".png written")
    events = json.loads(path.read_text())["traceEvents"]
    calls = [event for event in events if event.get("cat") == "detect" and event["pid"] == 1]
    assert [event["name"] for event in calls] == ["front"] * 5
    assert path.with_suffix(".png").stat().st_size > 1000


def test_a_device_that_the_process_does_not_own_is_refused(
    start_cameras: Start, client: Client
) -> None:
    start_cameras(RELIABLE_CAMERAS | {"multi_camera": {"cameras": ["front"]}})
    refused = client.set_parameter("/front", "device", "dla0")
    assert not refused.successful
    assert "expected auto or cpu" in refused.reason
    assert client.set_parameter("/front", "device", "cpu").successful
    assert Camera(client, "front").gives_results()


@pytest.fixture
def unconfigured(domain: int) -> Iterator[ExecutorNode]:
    """The node in a namespace, in the test's own process."""
    arguments = ["--ros-args", "-r", "__ns:=/car", "-p", "autostart:=false"]
    rclpy.init(args=arguments, domain_id=domain)
    spinner = rclpy.executors.SingleThreadedExecutor()
    node = ExecutorNode(spinner)
    yield node
    node.close()
    spinner.shutdown()
    rclpy.try_shutdown()


def entries(node: ExecutorNode, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    sent: list[Any] = []
    monkeypatch.setattr(node._diagnostics, "publish", sent.append)
    node._publish_diagnostics()
    return {entry.name: entry for entry in sent[0].status}


def test_what_is_unconfigured_is_well_and_its_entries_carry_the_namespace(
    unconfigured: ExecutorNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, stream = entries(unconfigured, monkeypatch).values()
    assert (executor.name, executor.level) == ("car/multi_camera: executor", OK)
    assert executor.message == "unconfigured"
    assert (stream.name, stream.level) == ("car/multi_camera: stream camera", OK)
    monkeypatch.setattr(
        unconfigured._cameras, "plan", lambda *args: (_ for _ in ()).throw(ValueError("no engine"))
    )
    assert unconfigured.trigger_configure() == TransitionCallbackReturn.FAILURE
    executor = entries(unconfigured, monkeypatch)["car/multi_camera: executor"]
    assert (executor.level, executor.message) == (ERROR, "not configured: ValueError: no engine")


def test_diagnostics_go_on_while_a_transition_loads_engines(
    unconfigured: ExecutorNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT builds for minutes, and monitors would take the node for dead."""
    unconfigured.set_parameters([Parameter("diagnostics_period", value=0.1)])
    seen, load = threading.Event(), DetectionService.load

    def publish(message: Any) -> None:
        if message.status[0].message == "loading engines":
            seen.set()

    def held(service: DetectionService) -> DetectionService:
        assert seen.wait(60.0)
        return load(service)

    monkeypatch.setattr(unconfigured._diagnostics, "publish", publish)
    monkeypatch.setattr(DetectionService, "load", held)
    assert unconfigured.trigger_configure() == TransitionCallbackReturn.SUCCESS


def test_nodes_of_the_same_name_are_noticed(
    unconfigured: ExecutorNode,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    others = [
        Node(name, namespace=namespace, use_global_arguments=False)
        for name, namespace in (("camera", "/car"), ("multi_camera", "/other"))
    ]
    line = "2 nodes are called /car/camera"
    for _ in range(2):
        found = entries(unconfigured, monkeypatch)
        assert found["car/multi_camera: executor"].level == OK
        stream = found["car/multi_camera: stream camera"]
        assert (stream.level, stream.message[: len(line)]) == (WARN, line)
    assert capfd.readouterr().err.count(line) == 1
    for node in others:
        node.destroy_node()


def test_a_broken_device_ends_the_process_if_that_is_wanted() -> None:
    """What /diagnostics says of it, and what the process ends with."""
    executor = InferenceExecutor([simulated(GPU)])
    snapshot = executor.snapshot()
    assert broken_device(snapshot) is None
    reason = "cudaErrorIllegalAddress; restart the process"
    broken = replace(snapshot.devices[GPU], status=DeviceStatus.BROKEN, last_error=reason)
    error = broken_device(replace(snapshot, devices={GPU: broken}))
    assert str(error) == f"device gpu is broken: {reason}"
    entry = device_status("multi_camera", GPU, broken)
    assert entry.name == "multi_camera: device gpu"
    assert entry.hardware_id == f"{platform.node()}:gpu"
    assert entry.level == ERROR
    assert entry.message == f"broken: {reason}"
    assert executor.close()
