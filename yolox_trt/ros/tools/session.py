# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ROS in the process of a command: a node, and a domain for the processes around it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from vision_msgs.msg import Detection2DArray

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.memory import apply_malloc_settings
from yolox_trt.core.option import options_of
from yolox_trt.ros.middleware import (
    PROFILE_VARIABLES,
    profile_path,
    transport_settings,
)
from yolox_trt.ros.rclpy_versions import init_rclpy
from yolox_trt.ros.tools.domains import own_domain
from yolox_trt.ros.tools.launch_arguments import file_in_memory
from yolox_trt.ros.tools.options import SourceOptions

NodeT = TypeVar("NodeT", bound=Node)
_NAMED = options_of(SourceOptions)

#: Values of ROS_DISTRO that do not know ROS_AUTOMATIC_DISCOVERY_RANGE.
_BEFORE_DISCOVERY_RANGE = ("foxy", "galactic", "humble")
#: Of config/fastdds_shm.xml: after each key comes its value, to stay on this machine. Others are
#: found there by unicast, since the loopback interface may carry no multicast.
_LOOPBACK = {
    "<type>UDPv4</type>": "<maxInitialPeersRange>32</maxInitialPeersRange>"
    "<interfaceWhiteList><address>127.0.0.1</address></interfaceWhiteList>",
    "<rtps>": "<builtin><initialPeersList><locator><udpv4><address>127.0.0.1</address></udpv4>"
    "</locator></initialPeersList></builtin>",
}


@contextlib.contextmanager
def ros_node(
    make: Callable[[], NodeT],
    *,
    make_executor: Callable[[], Any] = SingleThreadedExecutor,
    large_images: bool = True,
    ros_args: Sequence[str] = (),
) -> Iterator[tuple[NodeT, Any]]:
    """Start ROS, and end it when the block ends. Ctrl-C raises KeyboardInterrupt.

    Args:
        make: makes the node.
        make_executor: makes what spins it.
        large_images: whether the process gets the settings for large images. A Fast DDS profile
            that the user has chosen stays.
        ros_args: what a command line has after --ros-args.

    Raises:
        ConfigurationError: ROS refuses them.

    Yields:
        The node, and its executor.
    """
    if large_images:
        apply_malloc_settings()
        os.environ.update(transport_settings())
    try:
        init_rclpy(["--ros-args", *ros_args])
    except Exception as error:  # RCLError and its kin: which one differs between distributions
        raise ConfigurationError(" ".join(str(error).split()), fix=_NAMED["ros_args"]) from error
    try:
        node = make()
        executor = make_executor()
        try:
            executor.add_node(node)
            yield node, executor
        finally:
            executor.shutdown()
            node.destroy_node()
    finally:
        rclpy.try_shutdown()


def plain_node(name: str) -> Callable[[], Node]:
    """Return what makes a node without services, for ros_node."""
    return lambda: Node(name, start_parameter_services=False)


def private_domain(environment: Mapping[str, str], *, inherited: bool = True) -> dict[str, str]:
    """Return the variables that keep processes of this machine among themselves.

    Args:
        environment: of the processes, with their Fast DDS profile.
        inherited: whether a domain of the environment stays; else, and without one, it is
            domains.own_domain(). That of a vehicle's computer must not for what publishes under
            the names of the vehicle's own topics.
    """
    number = (inherited and environment.get("ROS_DOMAIN_ID")) or str(own_domain())
    settings = {"ROS_DOMAIN_ID": number}
    if environment.get("ROS_DISTRO") not in _BEFORE_DISCOVERY_RANGE:
        discovery = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        return settings | {"ROS_AUTOMATIC_DISCOVERY_RANGE": discovery}
    shipped = profile_path()
    for name in PROFILE_VARIABLES:
        if environment.get(name) == str(shipped):
            # ROS_LOCALHOST_ONLY would add transports to those of the profile, and restrict none.
            text = shipped.read_text(encoding="utf-8")
            for place, addition in _LOOPBACK.items():
                text = text.replace(place, place + addition)
            return settings | {name: file_in_memory(text)}
    return settings | {"ROS_LOCALHOST_ONLY": environment.get("ROS_LOCALHOST_ONLY", "1")}


class ResultListener(Node):
    """Listens to the results of cameras, and to the diagnostics of multi_camera.

    Args:
        cameras: their names.
        on_result: called with the camera's name and the message.
        context: of ROS, where it is not the default one.

    Attributes:
        diagnostics: "stream NAME" or "device NAME" -> key -> value.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        on_result: Callable[[str, Detection2DArray], None],
        *,
        context: Any = None,
    ) -> None:
        super().__init__("yolox_trt_listener", context=context, start_parameter_services=False)
        self.diagnostics: dict[str, dict[str, str]] = {}
        for name in cameras:
            self.create_subscription(
                Detection2DArray,
                f"/{name}/detections",
                lambda message, name=name: on_result(name, message),
                50,
            )
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            self.diagnostics[status.name.partition(": ")[2]] = values
