# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ComponentServices: cameras come and go by the services of a component container.

ros2 component load /multi_camera yolox_trt CameraNode -n rear -p image_topic:=/rear/image
ros2 component list
ros2 component unload /multi_camera 2
"""

from __future__ import annotations

import importlib
from typing import Any

from rclpy.node import Node
from rclpy.parameter import Parameter

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.nodes.camera_set import CameraSet

#: What LoadNode may ask for, however its class is written.
PACKAGE = "yolox_trt"
PLUGINS = ("CameraNode", "yolox_trt::CameraNode", "yolox_trt.CameraNode")


class ComponentServices:
    """The three services, in the names that `ros2 component` and launch_ros use.

    There are none where the package composition_interfaces is not installed.

    Args:
        node: the executor's node.
        cameras: its cameras.
    """

    def __init__(self, node: Node, cameras: CameraSet) -> None:
        self._namespace = node.get_namespace()
        self._cameras = cameras
        try:
            types = importlib.import_module("composition_interfaces.srv")
        except ImportError:
            return
        node.create_service(types.LoadNode, "~/_container/load_node", self._load)
        node.create_service(types.UnloadNode, "~/_container/unload_node", self._unload)
        node.create_service(types.ListNodes, "~/_container/list_nodes", self._list)

    def _load(self, request: Any, response: Any) -> Any:
        try:
            self._check(request)
            camera = self._cameras.add(
                request.node_name,
                overrides=[Parameter.from_parameter_msg(each) for each in request.parameters],
                remap_rules=list(request.remap_rules),
            )
        except Exception as error:  # of many types, from rclpy; each gets an answer
            response.error_message = error_text(error)
            return response
        self._cameras.publish_names()
        response.success = True
        response.full_node_name = camera.get_fully_qualified_name()
        response.unique_id = camera.number
        return response

    def _check(self, request: Any) -> None:
        """Raise ConfigurationError for a request that no camera can meet."""
        if request.package_name != PACKAGE or request.plugin_name not in PLUGINS:
            raise ConfigurationError(
                f"'{request.plugin_name}' of package '{request.package_name}'",
                expected=f"CameraNode of {PACKAGE}",
            )
        if not request.node_name:
            raise ConfigurationError("no node name", expected="the camera's name")
        if request.node_namespace.rstrip("/") not in ("", self._namespace.rstrip("/")):
            raise ConfigurationError(
                f"namespace '{request.node_namespace}'",
                expected=f"that of the process, {self._namespace}",
            )

    def _unload(self, request: Any, response: Any) -> Any:
        names = {camera.number: name for name, camera in self._cameras.nodes.items()}
        name = names.get(request.unique_id)
        response.success = name is not None
        if name is None:
            response.error_message = f"no camera has the id {request.unique_id}"
        else:
            self._cameras.remove(name)
            self._cameras.publish_names()
        return response

    def _list(self, request: Any, response: Any) -> Any:
        cameras = self._cameras.nodes.values()
        response.full_node_names = [each.get_fully_qualified_name() for each in cameras]
        response.unique_ids = [each.number for each in cameras]
        return response
