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

from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.nodes.camera_set import CameraSet

#: What LoadNode may ask for, however its class is written.
PACKAGE = "yolox_trt"
PLUGINS = ("CameraNode", "yolox_trt::CameraNode", "yolox_trt.CameraNode")


class ComponentServices:
    """The three services, in the names that `ros2 component` and launch_ros use.

    Args:
        node: the executor's node.
        cameras: its cameras.
        types: the module composition_interfaces.srv.
    """

    def __init__(self, node: Node, cameras: CameraSet, types: Any) -> None:
        self._namespace = node.get_namespace()
        self._cameras = cameras
        self._ids: dict[str, int] = {}
        self._next = 1
        node.create_service(types.LoadNode, "~/_container/load_node", self._load)
        node.create_service(types.UnloadNode, "~/_container/unload_node", self._unload)
        node.create_service(types.ListNodes, "~/_container/list_nodes", self._list)

    def _numbered(self) -> dict[str, int]:
        """Return camera name -> id; cameras that came by the parameter get theirs now."""
        cameras = self._cameras.nodes
        self._ids = {name: number for name, number in self._ids.items() if name in cameras}
        for name in cameras:
            if name not in self._ids:
                self._ids[name] = self._next
                self._next += 1
        return self._ids

    def _load(self, request: Any, response: Any) -> Any:
        response.error_message = self._refusal(request)
        if response.error_message:
            return response
        try:
            camera = self._cameras.add(
                request.node_name,
                overrides=[Parameter.from_parameter_msg(each) for each in request.parameters],
                remap_rules=list(request.remap_rules),
            )
        except (YoloxTrtError, ValueError, RuntimeError) as error:
            response.error_message = error_text(error)
            return response
        self._cameras.publish_names()
        response.success = True
        response.full_node_name = camera.get_fully_qualified_name()
        response.unique_id = self._numbered()[request.node_name]
        return response

    def _refusal(self, request: Any) -> str:
        """Return why a request cannot be met, "" where it can be tried."""
        if request.package_name != PACKAGE or request.plugin_name not in PLUGINS:
            return (
                f"'{request.plugin_name}' of package '{request.package_name}'; expected "
                f"CameraNode of {PACKAGE}"
            )
        if not request.node_name:
            return "no node name; expected the camera's name"
        if request.node_namespace.rstrip("/") not in ("", self._namespace.rstrip("/")):
            return (
                f"namespace '{request.node_namespace}'; expected that of the process, "
                f"{self._namespace}"
            )
        return ""

    def _unload(self, request: Any, response: Any) -> Any:
        names = {number: name for name, number in self._numbered().items()}
        name = names.get(request.unique_id)
        response.success = name is not None
        if name is None:
            response.error_message = f"no camera has the id {request.unique_id}"
        else:
            self._cameras.remove(name)
            self._cameras.publish_names()
        return response

    def _list(self, request: Any, response: Any) -> Any:
        for name, number in self._numbered().items():
            response.full_node_names.append(self._cameras.nodes[name].get_fully_qualified_name())
            response.unique_ids.append(number)
        return response


def create_component_services(node: Node, cameras: CameraSet) -> None:
    """Create the services, where the package composition_interfaces is installed."""
    try:
        types = importlib.import_module("composition_interfaces.srv")
    except ImportError:
        return
    ComponentServices(node, cameras, types)
