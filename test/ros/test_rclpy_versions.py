# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What is mended of rclpy: transitions that raise or are not possible, /clock, the log's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rosgraph_msgs.msg import Clock

from yolox_trt.ros import rclpy_versions
from yolox_trt.ros.rclpy_versions import (
    AnsweringLifecycleNode,
    NoEventHandlers,
    init_rclpy,
    reported,
)

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60, method="signal")]


class ManagedNode(NoEventHandlers, AnsweringLifecycleNode):
    """Its transition `configure` raises."""

    @reported
    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        raise LookupError("no such engine")


@pytest.fixture
def node(domain: int) -> Iterator[ManagedNode]:
    rclpy.init(args=[], domain_id=domain)
    node = ManagedNode("managed")
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def test_what_a_transition_raises_is_reported(
    node: ManagedNode, capfd: pytest.CaptureFixture[str]
) -> None:
    assert node.trigger_configure() == TransitionCallbackReturn.ERROR
    log = capfd.readouterr().err
    assert "on_configure: Traceback" in log
    assert "LookupError: no such engine" in log


@pytest.mark.parametrize("raises", [False, True])
def test_a_transition_that_is_not_possible_is_answered(
    node: ManagedNode,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    raises: bool,
) -> None:
    def raise_error(self: Any, transition: int) -> None:
        raise rclpy_implementation.RCLError("as rclpy does on Humble and Jazzy")

    if raises:
        name = "_LifecycleNodeMixin__change_state"
        monkeypatch.setattr(LifecycleNode, name, raise_error)
    assert node.trigger_deactivate() == TransitionCallbackReturn.ERROR
    assert "unconfigured" in capfd.readouterr().err


def test_a_clock_below_zero_is_refused(
    node: ManagedNode, capfd: pytest.CaptureFixture[str]
) -> None:
    node.set_parameters([rclpy.Parameter("use_sim_time", value=True)])
    (on_clock,) = [each.callback for each in node.subscriptions if each.topic_name == "/clock"]
    for seconds in (7, -1):
        message = Clock()
        message.clock.sec = seconds
        on_clock(message)
    assert node.get_clock().now().nanoseconds == 7 * 10**9
    assert "/clock says -1 s; expected 0 or more" in capfd.readouterr().err


@pytest.mark.parametrize("variable", ["ROS_LOG_DIR", "ROS_HOME"])
def test_ros_starts_where_no_log_can_be_written(
    domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("ROS_LOG_DIR", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "well"))
    assert init_rclpy([]) == ""
    rclpy.try_shutdown()
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file" / "log"))
    warning = init_rclpy([])
    assert rclpy.ok()
    rclpy.try_shutdown()
    assert f"{os.environ[variable]}" in warning
    assert "set ROS_LOG_DIR" in warning


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], "/"),
        (["--ros-args", "--enclave", "/cars/front"], "/cars/front"),
        (["--enclave", "/x", "--ros-args", "-e", "/a", "--enclave", "/b", "--", "-e", "/c"], "/b"),
        (["--ros-args", "-e"], "/"),
    ],
)
def test_the_enclave_is_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], found: str
) -> None:
    monkeypatch.setattr(rclpy_versions, "_COMMAND_LINE", ["program", *arguments])
    assert rclpy_versions.enclave() == found
