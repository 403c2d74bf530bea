# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ExecutorNode: the managed node; its transitions load, start, stop and release everything."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node

from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.executor.inference_executor import InferenceExecutor
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.nodes import diagnostics
from yolox_trt.ros.nodes.build_progress import BuildProgress
from yolox_trt.ros.nodes.camera_set import CameraSet
from yolox_trt.ros.nodes.component_services import ComponentServices
from yolox_trt.ros.nodes.detection_service import DetectionService, check_model_file
from yolox_trt.ros.nodes.log_bridge import LogBridge
from yolox_trt.ros.nodes.node_parameters import NodeParameters, TypedParameters
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS, EXECUTOR_OPTIONS, ExecutorParameters
from yolox_trt.ros.nodes.takeover import Takeover
from yolox_trt.ros.nodes.timeline_service import create_timeline_service
from yolox_trt.ros.rclpy_versions import AnsweringLifecycleNode, NoEventHandlers, reported

#: Longest wait, at the end, for engines that are being loaded, in seconds.
LOADER_JOIN = 1.0

#: Seconds between two looks at who listens. Autoware's nodes look as often.
DEMAND_PERIOD = 0.1


class ExecutorNode(TypedParameters, NoEventHandlers, AnsweringLifecycleNode):
    """The node `multi_camera`.

    configure builds or loads the engines and creates the outputs; activate starts the devices'
    workers and the subscriptions; deactivate and cleanup undo them. All of it runs in rclpy's
    thread, but for results, which a Device's worker publishes.

    Args:
        spinner: rclpy's executor; the camera nodes are added to it.

    Attributes:
        failure: why the start failed, or a device is broken, if so; the process ends then.
        ended: whether the transition `shutdown` has ended it; the process ends then, too.

    Raises:
        ConfigurationError: a parameter's override is wrong.
    """

    def __init__(self, spinner: Executor) -> None:
        super().__init__("multi_camera")
        self.failure: YoloxTrtError | None = None
        self.ended = False
        # Why the node is unconfigured, where a configure has failed.
        self._refusal: YoloxTrtError | None = None
        self._spinner = spinner
        self._pending: deque[Callable[[], None]] = deque()
        self._receiver_load = diagnostics.ReceiverLoad()
        self._cameras = CameraSet(
            self,
            spinner,
            lambda names: self.parameters.publish("cameras", names),
            self._pending.append,
        )
        self._service: DetectionService | None = None
        self._reported_names: set[str] = set()
        self._ending = False
        self._loader: threading.Thread | None = None
        self._loading = False
        self._build_progress = BuildProgress(self)
        self._log_bridge = LogBridge(self.get_logger())
        self._takeover: Takeover | None = None
        spinner.add_node(self)
        try:
            self.parameters = NodeParameters(
                self,
                EXECUTOR_OPTIONS,
                ExecutorParameters.of,
                foreign=CAMERA_OPTIONS,
                on_change=self._on_change,
            )
            parameters = self.parameters.current
            self._cameras.process = self.parameters.process
            for name in parameters.cameras:
                self._cameras.add(name)
            self._cameras.report_misplaced()
            # Steady time: with use_sim_time and no /clock, ROS time stands still.
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
            self.create_timer(
                parameters.diagnostics_period, self._publish_diagnostics, clock=steady
            )
            self.create_timer(DEMAND_PERIOD, self._cameras.update_subscriptions, clock=steady)
            create_timeline_service(self, lambda: (self.parameters.current, self._executor))
            ComponentServices(self, self._cameras)
            if parameters.autostart or parameters.build_only:
                self._begin_loading()
        except BaseException:
            self.close()
            raise

    @property
    def _executor(self) -> InferenceExecutor | None:
        return self._service.executor if self._service is not None else None

    # What the process asks for -----------------------------------------------------------------

    def run_pending(self) -> None:
        """Do what callbacks left to be done between two of them, such as removing nodes."""
        while self._pending:
            self._pending.popleft()()

    def cancel_builds(self) -> None:
        """Let engines that are being built end at their next step; safe in a signal handler."""
        self._build_progress.cancel()

    def close(self) -> bool:
        """Stop everything and destroy the nodes.

        Returns:
            Whether every thread has ended.
        """
        self.cancel_builds()
        ended = self._release()
        if self._loader is not None:
            # Before TensorRT 9 a build cannot be cancelled; the thread is a daemon.
            self._loader.join(LOADER_JOIN)
        self._cameras.close()
        self._log_bridge.close()
        self._spinner.remove_node(self)
        self.destroy_node()
        return ended

    # Transitions -------------------------------------------------------------------------------

    def _begin_loading(self) -> None:
        """Load the engines in a thread, so that the graph lives while a build takes minutes."""
        plan = self._cameras.plan(self.parameters.current, self._build_progress)
        self._loading = True

        def load() -> None:
            try:
                plan.load()
                failure = None
            except Exception as error:
                failure = error
            self._pending.append(lambda: self._finish_loading(plan, failure))

        # A daemon: a build that takes minutes must not hold up Ctrl-C.
        self._loader = threading.Thread(target=load, name="load engines", daemon=True)
        self._loader.start()

    def _finish_loading(self, service: DetectionService, failure: Exception | None) -> None:
        self._loading = False
        if failure is not None:
            if not self._ending:
                self.failure = _as_own(failure)
            return
        built_only = self.parameters.current.build_only
        if self._ending or built_only:
            service.close()
            if built_only:
                self.get_logger().info("all engines are built")
            self.ended = True
            return
        self._service = service
        success = TransitionCallbackReturn.SUCCESS
        if self.trigger_configure() != success or self.trigger_activate() != success:
            self.failure = self._refusal or YoloxTrtError("activation failed")

    @reported
    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the engines, unless the start has done so, and create the outputs.

        One that fails leaves the node unconfigured, and /diagnostics says why; at the start it ends
        the process.
        """
        if self._loading:
            # The start configures the node by itself: a second load would run beside the first.
            self.get_logger().error(
                "transition configure while the engines are being loaded; expected none before the "
                "node is active; fix: wait, or set the parameter `autostart` to false"
            )
            return TransitionCallbackReturn.FAILURE
        at_start, self._refusal = self._service is not None, None
        try:
            if self._service is None:
                self._service = self._load()
            self._service.start_ingest()
            self._cameras.configure(self._service)
        except Exception as error:
            self._release()
            self._refusal = _as_own(error)
            if not at_start:  # the process prints what it ends with
                self.get_logger().error(f"not configured: {error_text(error)}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _load(self) -> DetectionService:
        """Load the engines while a transition waits.

        In a thread, as at the start: /diagnostics go on, and signals are heard.
        """
        plan = self._cameras.plan(self.parameters.current, self._build_progress)
        self._loading = True
        try:
            with ThreadPoolExecutor(1, "load engines") as pool:
                loaded = pool.submit(plan.load)
                while not wait([loaded], self.parameters.current.diagnostics_period).done:
                    self._publish_diagnostics()
            return loaded.result()
        finally:
            self._loading = False

    @reported
    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Start the workers and the subscriptions."""
        assert self._service is not None
        self._service.executor.start()
        parameters = self.parameters.current
        if parameters.computer:  # from now on, with loaded engines, others may rely on this one
            self._takeover = Takeover(
                self, self._cameras, parameters.computer, parameters.computer_silence
            )
        else:
            nodes = self._cameras.nodes.items()
            shared = [name for name, camera in nodes if camera.parameters.current.primary]
            if shared:
                self.get_logger().warning(
                    f"a `primary` of {', '.join(shared)}, but no `computer` here; expected one, or "
                    "no `primary`: they are served beside any other computer; fix: the parameter "
                    "`computer`"
                )
        self._cameras.activate()
        self.get_logger().info(f"active: {', '.join(self._cameras.nodes) or 'no cameras'}")
        return super().on_activate(state)

    @reported
    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """End the subscriptions and stop the workers; the engines stay loaded."""
        self._end_takeover()
        self._cameras.deactivate()
        if self._service is not None:
            self._service.stop()
        self._cameras.mute()  # results of images in work are still published
        return super().on_deactivate(state)

    @reported
    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Release the engines and remove the outputs."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    @reported
    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """Stop, release everything, and end the process."""
        self._ending = True
        self.cancel_builds()
        self._release()
        # The process closes the nodes before it shuts ROS down, as after a signal.
        self.ended = True
        return TransitionCallbackReturn.SUCCESS

    #: After a fault in a transition the node is as after a cleanup.
    on_error = on_cleanup

    def _release(self) -> bool:
        """Undo configure and activate; return whether every thread and process has ended."""
        self._end_takeover()
        self._cameras.deactivate()
        service, self._service = self._service, None
        # Results of images in work are still published.
        ended = service is None or service.close()
        self._cameras.cleanup()
        return ended

    def _end_takeover(self) -> None:
        takeover, self._takeover = self._takeover, None
        if takeover is not None:
            takeover.close()

    # Parameters and diagnostics ----------------------------------------------------------------

    def _on_change(self, parameters: ExecutorParameters) -> None:
        """Check what changes, and take over what applies at once; raises ConfigurationError."""
        current = self.parameters.current
        if parameters.model and parameters.model != current.model:
            check_model_file(parameters.model)
        if parameters.label_path != current.label_path:
            parameters.load_labels()
        if parameters.cameras != current.cameras:
            self._cameras.check_new(set(parameters.cameras) - self._cameras.nodes.keys())
            # Nodes must not come and go inside a callback of the executor that spins them.
            self._pending.append(lambda: self._cameras.replace(parameters.cameras))

    def _publish_diagnostics(self) -> None:
        executor, now = self._executor, time.monotonic()
        # The namespace too: the names of two processes must differ.
        name = self.get_fully_qualified_name().lstrip("/")
        namesakes = self._namesakes()
        snapshot = executor.snapshot() if executor is not None else None
        streams = snapshot.streams if snapshot is not None else {}
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        cameras = self._cameras.nodes
        entries = [
            each.report.make(
                f"{name}: stream {camera}",
                each.image_topic,
                each.counters,
                streams.get(camera),
                now,
                namesakes.get(each.get_fully_qualified_name(), ""),
                each.why_silent,
            )
            for camera, each in cameras.items()
        ]
        own = diagnostics.executor_status(
            f"{name}: executor",
            snapshot,
            cameras=len(cameras),
            lost=sum(each.report.lost for each in cameras.values()),
            load=self._receiver_load.read(),
            ingest=self._service.ingest if self._service is not None else None,
            activity=self._build_progress.text or ("loading engines" if self._loading else ""),
            refusal=error_text(self._refusal) if self._refusal is not None else "",
            notice=namesakes.get(self.get_fully_qualified_name(), ""),
        )
        message.status = [own, *entries]
        for device, state in snapshot.devices.items() if snapshot is not None else ():
            message.status.append(diagnostics.device_status(name, device, state))
        self._diagnostics.publish(message)
        if snapshot is not None and self.parameters.current.exit_on_broken_device:
            self.failure = diagnostics.broken_device(snapshot) or self.failure

    def _namesakes(self) -> dict[str, str]:
        """Return a line for each of the process's nodes whose name another node has as well."""
        everyone = Counter(
            f"{namespace.rstrip('/')}/{name}"
            for name, namespace in self.get_node_names_and_namespaces()
        )
        nodes: tuple[Node, ...] = (self, *self._cameras.nodes.values())
        own = (each.get_fully_qualified_name() for each in nodes)
        lines = {
            name: f"{everyone[name]} nodes are called {name}, and their topics, parameters and "
            "services mix (one that was killed is seen for 20 s more); fix: another name or "
            "namespace for one of them"
            for name in own
            if everyone[name] > 1
        }
        for name in lines.keys() - self._reported_names:
            self.get_logger().error(lines[name])
        self._reported_names = set(lines)
        return lines


def _as_own(error: Exception) -> YoloxTrtError:
    """Return an error that the process may end with, in one line."""
    return error if isinstance(error, YoloxTrtError) else YoloxTrtError(error_text(error))
