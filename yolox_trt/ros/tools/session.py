# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ROS in the process of a command: a node, and a domain for the processes around it."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from vision_msgs.msg import Detection2DArray

from yolox_trt.ros.middleware import apply_malloc_settings, transport_settings

NodeT = TypeVar("NodeT", bound=Node)


@contextlib.contextmanager
def ros_node(
    make: Callable[[], NodeT],
    *,
    make_executor: Callable[[], Any] = SingleThreadedExecutor,
    large_images: bool = True,
) -> Iterator[tuple[NodeT, Any]]:
    """Start ROS, and end it when the block ends. Ctrl-C raises KeyboardInterrupt.

    Args:
        make: makes the node.
        make_executor: makes what spins it.
        large_images: whether the process gets the settings for large images. A Fast DDS profile
            that the user has chosen stays.

    Yields:
        The node, and its executor.
    """
    if large_images:
        apply_malloc_settings()
        os.environ.update(transport_settings())
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
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


def private_domain(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep processes of this machine among themselves.

    A domain of the environment stays; else it is one in the range that is safe on Linux.
    """
    number = environment.get("ROS_DOMAIN_ID") or str(random.SystemRandom().randint(1, 101))
    discovery = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return {"ROS_DOMAIN_ID": number, "ROS_AUTOMATIC_DISCOVERY_RANGE": discovery}


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
