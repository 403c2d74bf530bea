# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Sequences of whatever comes over ROS, against the process multi_camera."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from support.fuzz import damaged, examples, keep
from support.video import packets

pytest.importorskip("rclpy")
pytest.importorskip("composition_interfaces")

from composition_interfaces.srv import ListNodes, LoadNode, UnloadNode
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger
from support.ros import (
    Client,
    RosProcess,
    end_leftovers,
    free_domain,
    image_message,
    write_parameters,
)
from vision_msgs.msg import Detection2DArray

from yolox_trt.core.option import Applies, Kind, Option
from yolox_trt.core.shipped_files import default_model
from yolox_trt.ros.messages.transports import TRANSPORTS
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS, EXECUTOR_OPTIONS

pytestmark = [
    pytest.mark.ros,
    pytest.mark.slow,
    pytest.mark.timeout(600, method="signal"),
]

NODE, SOUND = "/multi_camera", "sound"
#: Camera -> its transport. The first one is left alone: it must always be served again.
CAMERAS = {SOUND: "raw", "raw": "raw", "jpeg": "compressed", "h264": "ffmpeg", "hevc": "foxglove"}
#: Parameters of the process that are as they should be after each sequence.
KEPT = {"devices": ["cpu", "gpu"], "ingest_processes": 0, "watchdog": 1.0, "max_batch": 2}
#: Not to be set: they end the process, or make it load what takes long.
LEFT_OUT = {"engine", "exit_on_broken_device", "ingest_processes", "cameras", "use_sim_time"}
#: Seconds for an answer after a sequence of transitions, and until results come again.
ANSWER, RECOVERY = 60.0, 60.0
#: Requests that the middleware keeps for a service (ROS 2's default is 10).
REQUESTS = 8

GARBAGE = st.sampled_from(
    [
        True,
        0,
        -1,
        2**63 - 1,
        1.5,
        float("nan"),
        "",
        "x",
        "[" * 3000,
        "\x1b[31m",
        None,
        [1, 2],
        ["a"],
        [],
    ]
)


def values(option: Option) -> st.SearchStrategy[Any]:
    """Return values of an option: allowed ones, and others."""
    low = (option.minimum if option.minimum is not None else option.above) or 0
    high = 50 if option.maximum is None else option.maximum
    allowed: dict[Kind, st.SearchStrategy[Any]] = {
        Kind.BOOL: st.booleans(),
        Kind.INTEGER: st.integers(int(low) - 1, int(min(high, low + 50))),
        Kind.DOUBLE: st.floats(low, min(high, low + 50)) | st.just(float(high)),
        Kind.STRING: st.sampled_from(option.choices or ("", "x", "~/x", "/etc/passwd")),
        Kind.INTEGER_ARRAY: st.sampled_from(([0, 0, 64, 64], [], [-1, 0, 2, 2], [2**40, 0, 1, 1])),
        Kind.STRING_ARRAY: st.sampled_from(([], ["cpu"], ["person:0.5"], ["0,0 9,0 9,9"])),
    }
    return allowed[option.kind] | GARBAGE


def parameters(options: dict[str, Option]) -> st.SearchStrategy[list[tuple[str, Any]]]:
    """Return lists of parameters and their values."""
    known = [values(each).map(lambda value, name=name: (name, value))
             for name, each in options.items() if name not in LEFT_OUT]  # fmt: skip
    return st.lists(st.one_of(known) | st.tuples(st.sampled_from(("", "x.y")), GARBAGE), max_size=4)


STREAMS = [list(packets(codec, b_frames=b)) for codec in ("h264", "hevc") for b in (0, 2)]
OTHERS = ("raw", "jpeg", "h264", "hevc", "late")
STEPS = st.one_of(
    st.tuples(st.just("set"), st.just(NODE), st.booleans(), parameters(dict(EXECUTOR_OPTIONS))),
    st.tuples(st.just("set"), st.sampled_from([f"/{name}" for name in OTHERS]), st.booleans(),
              parameters(dict(CAMERA_OPTIONS))),
    st.tuples(st.just("set"), st.just(NODE), st.just(False), st.sampled_from((0, 1, 2, 65)).map(
        lambda count: [("ingest_processes", count)])),
    st.tuples(st.just("set"), st.just(NODE), st.just(False), st.lists(st.sampled_from(
        (*CAMERAS, "late", "a b")), max_size=7).map(lambda names: [("cameras", names)])),
    st.tuples(st.just("transition"), st.sampled_from((1, 2, 3, 4, 3, 4, 0, 10, 77))),
    st.tuples(st.just("load"), st.sampled_from(("late", SOUND, "multi_camera", "", "a b")),
              st.sampled_from(([], ["~/image_raw:=/raw/image_raw"], ["x"], ["__ns:=/x"])),
              parameters(dict(CAMERA_OPTIONS))),
    st.tuples(st.just("unload"), st.integers(0, 40)),
    st.tuples(st.just("service"), st.sampled_from(("timeline", "list", "enable", "disable"))),
    st.tuples(st.just("raw"), st.sampled_from(("bgr8", "mono8", "nv12", "16UC3", "x" * 999)),
              st.sampled_from((0, 1, 96, 2**31)), st.sampled_from((0, 64, 384)),
              st.integers(-1, 1)),
    st.tuples(st.just("jpeg"), damaged(b"\xff\xd8\xff\xe0" + bytes(60))),
    st.tuples(st.just("video"), st.sampled_from(("h264", "hevc")), st.integers(0, 3),
              st.integers(0, 6), st.integers(1, 12), damaged(STREAMS[0][1], STREAMS[2][1])),
    st.tuples(st.just("signal"), st.sampled_from((signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL))),
    st.tuples(st.just("rest"), st.sampled_from((0.0, 0.1, 0.5))),
)  # fmt: skip


class Attack:
    """The process, and whoever attacks it.

    Args:
        folder: of the process's log and files.
        domain: of ROS.
    """

    def __init__(self, folder: Path, domain: int) -> None:
        own = {
            **KEPT,
            "cameras": list(CAMERAS),
            "model": str(default_model()),
            "engine": "simulated",
            "timeline_folder": str(folder),
            "diagnostics_period": 0.2,
        }
        common = {"on_demand": False, "qos_reliability": "reliable", "qos_depth": 50}
        path = write_parameters(
            folder / "parameters.yaml",
            {"/**": common, "multi_camera": own}
            | {name: {"transport": transport} for name, transport in CAMERAS.items()},
        )
        command = ["-m", "yolox_trt.ros.nodes.multi_camera", "--ros-args", "--params-file"]
        self.process = RosProcess([*command, str(path)], folder / "log", {"TMPDIR": str(folder)})
        self.client = Client(domain)
        self.results = self.client.collect(Detection2DArray, f"/{SOUND}/detections")
        self.client.node.create_subscription(DiagnosticArray, "/diagnostics", self._check, 10)
        self.publishers = {
            name: self.client.publisher(
                TRANSPORTS[transport].message_class(),
                f"/{name}/image_raw{TRANSPORTS[transport].suffix}",
            )
            for name, transport in CAMERAS.items()
        }
        self.wrong: list[str] = []
        self.waiting: list[tuple[str, Any]] = []
        self.process.wait_for("active:")
        self.picture = image_message(np.zeros((96, 128, 3), np.uint8))

    def _check(self, message: Any) -> None:
        for status in message.status:
            if " stream " in status.name:
                found = {each.key: each.value for each in status.values}
                received, *rest = (
                    int(found[key]) for key in ("received", "processed", "dropped", "in_flight")
                )
                if received != sum(rest):
                    self.wrong.append(f"{status.name}: {found}")

    def request(self, kind: Any, name: str, request: Any) -> None:
        """Send a request, unless the service is not there or has many that wait."""
        waiting = sum(each == name and not future.done() for each, future in self.waiting)
        with contextlib.suppress(AssertionError):  # a camera that is not there
            if waiting < REQUESTS:
                future = self.client.send(kind, name, request, 0.0 if name[1:] in OTHERS else 1.0)
                self.waiting.append((name, future))

    def step(self, what: str, *details: Any) -> None:
        """Do a step of STEPS."""
        getattr(self, f"do_{what}")(*details)
        self.publishers[SOUND].publish(self.picture)
        self.client.spin_for(0.02)

    def do_set(self, node: str, atomically: bool, given: list[tuple[str, Any]]) -> None:
        kind = SetParametersAtomically if atomically else SetParameters
        name = f"{node}/set_parameters" + "_atomically" * atomically
        self.request(kind, name, kind.Request(parameters=_messages(given)))

    def do_transition(self, number: int) -> None:
        request = ChangeState.Request(transition=Transition(id=number))
        self.request(ChangeState, f"{NODE}/change_state", request)

    def do_load(self, name: str, rules: list[str], given: list[tuple[str, Any]]) -> None:
        request = LoadNode.Request(package_name="yolox_trt", plugin_name="CameraNode")
        request.node_name, request.remap_rules = name, rules
        request.parameters = _messages(given)
        self.request(LoadNode, f"{NODE}/_container/load_node", request)

    def do_unload(self, number: int) -> None:
        request = UnloadNode.Request(unique_id=number)
        self.request(UnloadNode, f"{NODE}/_container/unload_node", request)

    def do_service(self, which: str) -> None:
        if which == "timeline":
            self.request(Trigger, f"{NODE}/timeline", Trigger.Request())
        elif which == "list":
            self.request(ListNodes, f"{NODE}/_container/list_nodes", ListNodes.Request())
        else:
            self.request(SetBool, "/raw/enable", SetBool.Request(data=which == "enable"))

    def do_raw(self, encoding: str, height: int, step: int, second: int) -> None:
        message = image_message(np.zeros((96, 128, 3), np.uint8), encoding)
        message.height, message.step = height, step
        message.header.stamp.sec = second * (2**31 - 1)
        self.publishers["raw"].publish(message)

    def do_jpeg(self, data: bytes) -> None:
        self.publishers["jpeg"].publish(
            TRANSPORTS["compressed"].message_class()(format="jpeg", data=data)
        )

    def do_video(self, name: str, stream: int, first: int, count: int, wrong: bytes) -> None:
        form = ("h264", "h264", "hevc", "hevc")[stream]
        chosen = STREAMS[stream][first : first + count]
        for data in (*chosen[: count // 2], wrong, *chosen[count // 2 :]):
            message = TRANSPORTS[CAMERAS[name]].message_class()(data=data)
            setattr(message, "encoding" if name == "h264" else "format", form)
            self.publishers[name].publish(message)

    def do_signal(self, number: int) -> None:
        for child in psutil.Process(self.process.process.pid).children()[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(number)

    def do_rest(self, seconds: float) -> None:
        self.client.spin_for(seconds)

    def recover(self) -> None:
        """Bring everything back, and fail where something does not come back."""
        client = self.client
        own = [(name, each) for name, each in self.waiting if name.startswith(NODE)]
        client.spin_until(lambda: all(each.done() for _, each in own), ANSWER, "the answers")
        self.waiting.clear()
        begin = time.monotonic()
        state = client.call(GetState, f"{NODE}/get_state", GetState.Request()).current_state.label
        assert time.monotonic() - begin < 5.0
        for number in {"active": (4, 2), "inactive": (2,)}.get(state, ()):
            self._change(number)
        # None first: a camera that came by load_node, in another namespace, is none of these.
        none, one, every = ({"cameras": each} for each in ([], [SOUND], list(CAMERAS)))
        for wanted in (none, one, _defaults() | KEPT, every):
            request = SetParameters.Request(parameters=_messages(list(wanted.items())))
            client.call(SetParameters, f"{NODE}/set_parameters", request)
            client.spin_for(0.3)
        self._change(1)
        self._change(3)
        before = len(self.results)
        client.publish_until(
            self.publishers[SOUND], self.picture, lambda: len(self.results) > before + 2, RECOVERY
        )
        assert not self.wrong
        assert self.process.process.poll() is None
        assert "Traceback" not in self.process.output

    def _change(self, number: int) -> None:
        request = ChangeState.Request(transition=Transition(id=number))
        assert self.client.call(ChangeState, f"{NODE}/change_state", request, ANSWER).success

    def resources(self) -> tuple[int, int]:
        """Return the process's descriptors and threads."""
        watched = psutil.Process(self.process.process.pid)
        return watched.num_fds(), watched.num_threads()


def _messages(given: list[tuple[str, Any]]) -> list[Any]:
    made = []
    for name, value in given:
        if value is None:  # a type that ROS 2 does not have
            made.append(ParameterMessage(name=name, value=ParameterValue(type=10)))
            continue
        kind = Parameter.Type.STRING_ARRAY if value == [] else None
        made.append(Parameter(name, kind, value).to_parameter_msg())
    return made


def _defaults() -> dict[str, Any]:
    fixed = (Applies.READ_ONLY, Applies.BY_NODE)
    return {
        name: each.default
        for name, each in EXECUTOR_OPTIONS.items()
        if not each.file and each.applies not in fixed and name not in LEFT_OUT
    }


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    domain = free_domain()
    before, os.environ["ROS_DOMAIN_ID"] = os.environ.get("ROS_DOMAIN_ID"), str(domain)
    made = Attack(tmp_path_factory.mktemp("attack"), domain)
    try:
        made.recover()
        yield made
    finally:
        made.client.close()
        end_leftovers([made.process])
        os.environ.pop("ROS_DOMAIN_ID")
        if before is not None:
            os.environ["ROS_DOMAIN_ID"] = before


# Not shrunk: each try takes many seconds.
@settings(examples(1), deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(steps=st.lists(STEPS, min_size=5, max_size=30))
@example(
    steps=[
        ("set", "/multi_camera", False, [("cameras", ["raw"])]),
        ("rest", 0.5),
        ("load", SOUND, ["__ns:=/x"], []),
        ("rest", 0.5),
    ]
)
def test_sequences(attack: Attack, steps: list[tuple[Any, ...]]) -> None:
    """After each sequence the process answers, serves a camera, and has counted everything."""
    keep(steps)
    before = attack.resources()
    for each in steps:
        attack.step(*each)
    attack.recover()
    descriptors, threads = attack.resources()
    assert descriptors <= before[0] + 8, "descriptors are left over"  # the first timeline's: 2
    assert threads <= before[1] + 4
