# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CameraSet: the camera nodes of the process, which come and go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.parameter import Parameter

from yolox_trt.core.errors import ConfigurationError, YoloxTrtError
from yolox_trt.core.limits import clean_text
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.latest_worker import LatestWorker
from yolox_trt.ros.nodes.build_progress import BuildProgress
from yolox_trt.ros.nodes.camera_node import CameraNode
from yolox_trt.ros.nodes.detection_service import DetectionService
from yolox_trt.ros.nodes.node_parameters import (
    ProcessParameters,
    overrides_of,
    unused_qos_overrides,
)
from yolox_trt.ros.nodes.parameter_values import parse_node_names
from yolox_trt.ros.nodes.parameters import (
    CAMERA_OPTIONS,
    EXECUTOR_OPTIONS,
    CameraParameters,
    ExecutorParameters,
)


class CameraSet:
    """Makes, connects and removes camera nodes. Everything here runs in rclpy's thread.

    Args:
        node: the executor's node; its name is taken, and its logger is used.
        spinner: rclpy's executor; the camera nodes are added to it.
        on_names: called with the cameras' names where they are not those that were asked for.
        defer: calls what it is given between two callbacks, in rclpy's thread.

    Attributes:
        nodes: the camera nodes by name.
        process: what their parameters have in common with those of the executor's node.
    """

    def __init__(
        self,
        node: Node,
        spinner: Executor,
        on_names: Callable[[list[str]], None],
        defer: Callable[[Callable[[], None]], None],
    ) -> None:
        self.nodes: dict[str, CameraNode] = {}
        self.process = ProcessParameters()
        self._node = node
        self._spinner = spinner
        self._on_names = on_names
        self._defer = defer
        self._annotator = LatestWorker("annotate")
        self._active = False
        self._service: DetectionService | None = None
        # What is being loaded, and the cameras' parameters that it was read from.
        self._loading: DetectionService | None = None
        self._planned: dict[str, CameraParameters] = {}

    # Cameras that come and go ------------------------------------------------------------------

    def add(
        self,
        name: str,
        *,
        overrides: Sequence[Parameter] = (),
        remap_rules: Sequence[str] = (),
    ) -> CameraNode:
        """Add a camera; at any time, also while the others run.

        Args:
            name: its name.
            overrides: of its parameters; they came in a message.
            remap_rules: of it alone.

        Raises:
            YoloxTrtError: the name is taken, or a parameter does not fit; nothing is left over.
        """
        self.check_new([name])
        parse_node_names([*self.nodes, name])  # together they may be too many
        camera = CameraNode(
            name,
            annotator=self._annotator,
            overrides=overrides,
            process=self.process,
            remap_rules=remap_rules,
        )
        self.nodes[name] = camera
        self._spinner.add_node(camera)
        try:
            if self._loading is not None:
                self._loading.check(camera.parameters.current)
            if self._service is not None:
                camera.configure(self._service)
            if self._active:
                camera.activate()
        except BaseException:
            self._destroy(name)
            raise
        self._node.get_logger().info(f"camera '{name}' added")
        return camera

    def remove(self, name: str) -> None:
        """Remove a camera; at any time."""
        self._destroy(name)
        self._node.get_logger().info(f"camera '{name}' removed")

    def replace(self, wanted: Collection[str]) -> None:
        """Add and remove cameras; one that cannot be added is reported and left out."""
        for name in [name for name in self.nodes if name not in wanted]:
            self.remove(name)
        for name in [name for name in wanted if name not in self.nodes]:
            try:
                self.add(name)
            except Exception as error:
                self._node.get_logger().error(
                    f"camera '{name}' cannot be added: {error_text(error)}"
                )
        if set(self.nodes) != set(wanted):
            self.publish_names()

    def check_new(self, names: Collection[str]) -> None:
        """Raise ConfigurationError for a name that ROS 2 or a node of the process forbids."""
        parse_node_names(list(names))
        taken = (self._node.get_name(), *self.nodes)
        for name in taken:
            if name in names:
                raise ConfigurationError(
                    f"a camera called '{name}'",
                    expected=f"a name other than {', '.join(taken)}",
                    fix=("set ", EXECUTOR_OPTIONS["cameras"]),
                )

    def publish_names(self) -> None:
        """Tell what cameras there are."""
        self._on_names(list(self.nodes))

    def _destroy(self, name: str) -> None:
        camera = self.nodes.pop(name)
        camera.cleanup()
        self._spinner.remove_node(camera)
        camera.destroy_node()

    # Life cycle --------------------------------------------------------------------------------

    def plan(self, parameters: ExecutorParameters, progress: BuildProgress) -> DetectionService:
        """Return what the cameras need loaded, as they are now; raises ConfigurationError."""
        self._planned = {name: each.parameters.current for name, each in self.nodes.items()}
        self._loading = DetectionService(
            self._node, parameters, self._planned, progress=progress, defer=self._defer
        )
        return self._loading

    def configure(self, service: DetectionService) -> None:
        """Connect all cameras.

        One that came, or whose parameters changed, while the engines were loaded must not end the
        others' start: it is removed if it does not fit. Such a camera is met only where the start
        configures the node, between two callbacks.

        Raises:
            YoloxTrtError: a camera that is as it was planned does not fit.
        """
        self._service, self._loading = service, None
        for name, camera in list(self.nodes.items()):
            as_planned = self._planned.get(name) == camera.parameters.current
            try:
                camera.configure(service)
            except YoloxTrtError as error:
                if as_planned:
                    raise
                self._destroy(name)
                self.publish_names()
                self._node.get_logger().error(f"camera '{name}' is removed: {error_text(error)}")

        for override in unused_qos_overrides([self._node, *self.nodes.values()]):
            self._node.get_logger().warning(
                f"parameter '{clean_text(override)}' has no effect: no node has such a topic, or "
                "the policy is none of depth, history and reliability"
            )

    def activate(self) -> None:
        """Begin to subscribe."""
        self._active = True
        for camera in self.nodes.values():
            camera.activate()

    def deactivate(self) -> None:
        """End the subscriptions."""
        self._active = False
        for camera in self.nodes.values():
            camera.deactivate()

    def mute(self) -> None:
        """Let the outputs publish no more, after the last result."""
        for camera in self.nodes.values():
            camera.mute()

    def cleanup(self) -> None:
        """Disconnect all cameras."""
        self._service = self._loading = None
        for camera in self.nodes.values():
            camera.cleanup()

    def close(self) -> None:
        """Remove all cameras."""
        for name in list(self.nodes):
            self._destroy(name)
        self._annotator.close()

    # What is done now and then -----------------------------------------------------------------

    def update_subscriptions(self) -> None:
        """Subscribe the cameras that somebody listens to, and no others; count lost images."""
        for camera in self.nodes.values():
            camera.update_subscription()

    def report_misplaced(self) -> None:
        """Report parameters that stand in another node's section of the YAML file.

        A `/**` section reaches every node; what only one of the two kinds of nodes got was
        written for the wrong one.
        """
        logger, own_name = self._node.get_logger(), self._node.get_name()
        own = overrides_of(self._node)
        cameras = {name: overrides_of(camera) for name, camera in self.nodes.items()}
        ours, theirs = EXECUTOR_OPTIONS.keys(), CAMERA_OPTIONS.keys()
        for name in sorted((theirs - ours) & own.keys()):
            if not any(name in overrides for overrides in cameras.values()):
                logger.warning(
                    f"parameter '{name}' is set for {own_name} but belongs to the cameras; "
                    "set it in their sections or in /**"
                )
        for camera, overrides in cameras.items():
            for name in sorted((ours - theirs) & overrides.keys() - own.keys()):
                logger.warning(
                    f"parameter '{name}' is set for camera {camera} but belongs to {own_name}"
                )
