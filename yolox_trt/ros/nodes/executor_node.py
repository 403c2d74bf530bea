# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ExecutorNode: the managed node that owns the InferenceExecutor and the camera nodes."""

from __future__ import annotations

import dataclasses
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from yolox_trt.core.contention import Contention
from yolox_trt.core.errors import ConfigurationError, DeviceError, YoloxTrtError
from yolox_trt.core.frame import Frame
from yolox_trt.executor.inference_executor import InferenceExecutor
from yolox_trt.executor.outcomes import SubmitOutcome
from yolox_trt.executor.scheduler_options import SchedulerOptions
from yolox_trt.executor.snapshot import DeviceStatus, ExecutorSnapshot, ExecutorState
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.planning.gantt import dump_timeline
from yolox_trt.ros.ingest.pool import IngestPool
from yolox_trt.ros.nodes import diagnostics
from yolox_trt.ros.nodes.annotator import Annotator
from yolox_trt.ros.nodes.build_progress import BuildProgress
from yolox_trt.ros.nodes.camera_node import CameraNode
from yolox_trt.ros.nodes.component_services import create_component_services
from yolox_trt.ros.nodes.log_bridge import LogBridge
from yolox_trt.ros.nodes.model_set import ModelSet
from yolox_trt.ros.nodes.node_parameters import NodeParameters, overrides_of
from yolox_trt.ros.nodes.parameters import CAMERA_PARAMETERS, EXECUTOR_PARAMETERS
from yolox_trt.ros.rclpy_versions import NoEventHandlers
from yolox_trt.ros.subscription_events import POLL_PERIOD

#: Longest wait, at the end, for engines that are being loaded, in seconds.
LOADER_JOIN = 1.0

#: Seconds between two looks at who listens. Autoware's nodes look as often.
DEMAND_PERIOD = 0.1


class ExecutorNode(NoEventHandlers, LifecycleNode):
    """The node `multi_camera`.

    configure builds or loads the engines and creates the outputs; activate starts the devices'
    workers and the subscriptions; deactivate and cleanup undo them. All of it runs in rclpy's
    thread, but for results, which a Device's worker publishes.

    Args:
        spinner: rclpy's executor; the camera nodes are added to it.

    Raises:
        ConfigurationError: a parameter's override is wrong.
    """

    def __init__(self, spinner: Executor) -> None:
        super().__init__("multi_camera")
        self._spinner = spinner
        self._pending: deque[Callable[[], None]] = deque()
        self._cameras: dict[str, CameraNode] = {}
        self._reports: dict[str, diagnostics.StreamReport] = {}
        self._receiver_load = diagnostics.ReceiverLoad()
        self._annotator = Annotator()
        self._models: ModelSet | None = None
        # What is being loaded at the start, and the cameras' parameters that it was read from.
        self._plan: ModelSet | None = None
        self._planned: dict[str, dict[str, Any]] = {}
        self._ending = False
        self._executor: InferenceExecutor | None = None
        self._ingest: IngestPool | None = None
        self._active = False
        self._loading = ""
        self._failure: YoloxTrtError | None = None
        self._loader: threading.Thread | None = None
        self._build_progress = BuildProgress(self)
        self._log_bridge = LogBridge(self.get_logger())
        spinner.add_node(self)
        try:
            self.parameters = NodeParameters(
                self,
                EXECUTOR_PARAMETERS,
                foreign=[spec.name for spec in CAMERA_PARAMETERS],
                on_change=self._on_change,
            )
            for name in self.parameters["cameras"]:
                self._create_camera(name)
        except BaseException:
            self.close()
            raise
        self._report_misplaced()
        # Steady time: with use_sim_time and no /clock, ROS time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(
            self.parameters["diagnostics_period"], self._publish_diagnostics, clock=steady
        )
        self.create_timer(DEMAND_PERIOD, self._look_for_listeners, clock=steady)
        self.create_timer(POLL_PERIOD, self._poll_events, clock=steady)
        self.create_service(Trigger, "~/timeline", self._dump_timeline)
        self._components = create_component_services(self)
        if self.parameters["autostart"]:
            self._begin_loading()

    # What the process and the cameras ask for --------------------------------------------------

    @property
    def cameras(self) -> dict[str, CameraNode]:
        """The camera nodes by name."""
        return self._cameras

    @property
    def ingest(self) -> IngestPool | None:
        """The processes that receive the images; None where this one does so itself."""
        return self._ingest

    @property
    def failure(self) -> YoloxTrtError | None:
        """Why the start failed, or a device is broken, if so; the process ends then."""
        return self._failure

    def run_pending(self) -> None:
        """Do what callbacks left to be done between two of them, such as removing nodes."""
        while self._pending:
            self._pending.popleft()()

    def submit(self, frame: Frame) -> SubmitOutcome:
        """Give a camera's frame to the executor; on any thread."""
        executor = self._executor
        return executor.submit(frame) if executor is not None else SubmitOutcome.STOPPED

    def update_stream(self, config: StreamConfig) -> None:
        """Change a camera's stream; raises ConfigurationError."""
        if self._executor is not None:
            self._check_device(config)
            changes = {
                field.name: getattr(config, field.name)
                for field in dataclasses.fields(config)
                if field.name != "id"
            }
            self._executor.update_stream(config.id, **changes)

    def cancel_builds(self) -> None:
        """Let engines that are being built end at their next step; safe in a signal handler."""
        self._build_progress.cancel()

    def close(self) -> bool:
        """Stop everything and destroy the nodes.

        Returns:
            Whether every thread has ended.
        """
        self.cancel_builds()
        for camera in self._cameras.values():
            camera.deactivate()
        ended = self._stop_executor(close=True)
        if self._loader is not None:
            # Before TensorRT 9 a build cannot be cancelled; the thread is a daemon.
            self._loader.join(LOADER_JOIN)
        for name in list(self._cameras):
            self._destroy_camera(name)
        ended = self._stop_ingest() and ended
        self._annotator.close()
        self._log_bridge.close()
        self._spinner.remove_node(self)
        self.destroy_node()
        return ended

    # Life cycle --------------------------------------------------------------------------------

    def _begin_loading(self) -> None:
        """Load the engines in a thread, so that the graph lives while a build takes minutes."""
        self._loading = "loading engines"
        done: dict[str, Any] = {}
        plan = self._plan = self._plan_models()

        def load() -> None:
            try:
                done["models"] = plan.load()
            except YoloxTrtError as error:
                done["error"] = error
            except Exception as error:
                done["error"] = YoloxTrtError(f"{type(error).__name__}: {error}")
            self._pending.append(lambda: self._finish_loading(done))

        # A daemon: a build that takes minutes must not hold up Ctrl-C.
        self._loader = threading.Thread(target=load, name="load engines", daemon=True)
        self._loader.start()

    def _finish_loading(self, done: dict[str, Any]) -> None:
        self._loading = ""
        self._plan = None
        if self._ending:
            if "models" in done:
                done["models"].close()
            return
        if "error" in done:
            self._failure = done["error"]
            return
        self._models = done["models"]
        success = TransitionCallbackReturn.SUCCESS
        # on_configure keeps what it failed with in _failure, and the process ends.
        if self.trigger_configure() == success and self.trigger_activate() != success:
            self._failure = self._failure or YoloxTrtError("activation failed")

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the engines, unless the start has done so, and create the outputs."""
        if self._loading:
            # The start configures the node by itself: a second load would run beside the first.
            self.get_logger().error(
                "transition configure while the engines are being loaded; expected none before the "
                "node is active; fix: wait, or set the parameter `autostart` to false"
            )
            return TransitionCallbackReturn.FAILURE
        try:
            if self._models is None:
                self._models = self._plan_models().load()
            models = self._models
            executor = InferenceExecutor(
                models.detectors,
                policy=self.parameters["placement"],
                options=self._scheduler_options(),
                factory=models.create,
                max_batch=self.parameters["max_batch"],
                contention=Contention.parse(self.parameters["contention"]),
                profile=self.parameters["nvtx"],
            )
            self._executor = executor
            if self.parameters["ingest_processes"]:
                self._ingest = IngestPool(
                    self.parameters["ingest_processes"],
                    self.get_name(),
                    page_lock=any(device.is_cuda for device in executor.devices),
                )
            for name in list(self._cameras):
                self._connect_or_drop(name)
        except YoloxTrtError as error:
            return self._transition_failed(error)
        except Exception as error:
            return self._transition_failed(YoloxTrtError(f"{type(error).__name__}: {error}"))
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Start the workers and the subscriptions."""
        assert self._executor is not None
        self._executor.start()
        self._active = True
        for camera in self._cameras.values():
            camera.activate()
        self.get_logger().info(f"active: {', '.join(self._cameras) or 'no cameras'}")
        return super().on_activate(state)

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """End the subscriptions and stop the workers; the engines stay loaded."""
        self._active = False
        for camera in self._cameras.values():
            camera.deactivate()
        self._stop_executor(close=False)
        return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Release the engines and remove the outputs."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """Stop, release everything, and end the process."""
        self._active = False
        self._ending = True
        self.cancel_builds()
        self._release()
        self._pending.append(lambda: rclpy.try_shutdown(context=self.context))
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: Any) -> TransitionCallbackReturn:
        """Go back to unconfigured."""
        self._active = False
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _transition_failed(self, error: YoloxTrtError) -> TransitionCallbackReturn:
        self._release()
        if self.parameters["autostart"]:
            self._failure = error  # the process ends with it, and prints it
        else:
            self.get_logger().error(str(error))
        return TransitionCallbackReturn.FAILURE

    def _release(self) -> None:
        for camera in self._cameras.values():
            camera.cleanup()
        self._stop_executor(close=True)
        self._stop_ingest()
        self._models = None

    def _stop_executor(self, *, close: bool) -> bool:
        executor = self._executor
        if executor is None:
            return True
        ended = executor.close() if close else executor.stop()
        if not ended:
            self.get_logger().error("a device did not stop in 2 s; its thread is left behind")
        if close:
            self._executor = None
        return ended

    def _stop_ingest(self) -> bool:
        pool, self._ingest = self._ingest, None
        if pool is None or pool.close():
            return True
        self.get_logger().error("an ingest process did not end by itself and was killed")
        return False

    def _plan_models(self) -> ModelSet:
        self._planned = {
            name: camera.parameters.as_dict() for name, camera in self._cameras.items()
        }
        return ModelSet(self.parameters.as_dict(), self._planned, progress=self._build_progress)

    def _scheduler_options(self) -> SchedulerOptions:
        watchdog = self.parameters["watchdog"]
        return SchedulerOptions(
            batch_window=self.parameters["batch_window"],
            watchdog=watchdog,
            callback_limit=watchdog,
        )

    # Cameras -----------------------------------------------------------------------------------

    def add_camera(
        self, name: str, *, overrides: Sequence[Parameter] = (), remap_rules: Sequence[str] = ()
    ) -> CameraNode:
        """Add a camera; at any time, also while the others run.

        Raises:
            YoloxTrtError: the name is taken, or a parameter does not fit; nothing is left over.
        """
        camera = self._create_camera(name, overrides=overrides, remap_rules=remap_rules)
        try:
            if self._plan is not None:
                self._plan.check(name, camera.parameters.as_dict())
            if self._executor is not None:
                self._connect(camera)
            if self._active:
                camera.activate()
        except BaseException:
            self._destroy_camera(name)
            raise
        self.get_logger().info(f"camera '{name}' added")
        return camera

    def remove_camera(self, name: str) -> None:
        """Remove a camera; at any time."""
        self._destroy_camera(name)
        self.get_logger().info(f"camera '{name}' removed")

    def publish_camera_names(self) -> None:
        """Let the parameter `cameras` say what there is."""
        self.parameters.publish("cameras", list(self._cameras))

    def _create_camera(
        self, name: str, *, overrides: Sequence[Parameter] = (), remap_rules: Sequence[str] = ()
    ) -> CameraNode:
        if name == self.get_name() or name in self._cameras:
            raise ConfigurationError(
                f"a camera called '{name}'",
                expected=f"a name other than {', '.join((self.get_name(), *self._cameras))}",
                fix="set the parameter `cameras`",
            )
        camera = CameraNode(
            name,
            owner=self,
            annotator=self._annotator,
            overrides=overrides,
            remap_rules=remap_rules,
        )
        self._cameras[name] = camera
        self._reports[name] = diagnostics.StreamReport(self.get_name(), name)
        self._spinner.add_node(camera)
        return camera

    def _destroy_camera(self, name: str) -> None:
        camera = self._cameras.pop(name)
        self._reports.pop(name, None)
        camera.deactivate()
        if self._executor is not None and name in self._executor.snapshot().streams:
            self._executor.remove_stream(name)
        camera.cleanup()
        self._spinner.remove_node(camera)
        camera.destroy_node()

    def _connect(self, camera: CameraNode) -> None:
        """Give a camera its outputs and its stream; raises YoloxTrtError."""
        assert self._models is not None and self._executor is not None
        model = self._models.name_for(camera.parameters["model"])
        config = camera.configure(model, self._models.specs[model], self._models.labels[model])
        self._check_device(config)
        self._executor.add_stream(config, camera.deliver)

    def _connect_or_drop(self, name: str) -> None:
        """Connect a camera; remove it if it, or a parameter of it, came after the models' plan.

        One camera that was added while the engines were loaded must not end the others' start.
        Such a camera is met only where the start configures the node, between two callbacks.

        Raises YoloxTrtError for a camera that is as it was planned.
        """
        camera = self._cameras[name]
        as_planned = self._planned.get(name) == camera.parameters.as_dict()
        try:
            self._connect(camera)
        except YoloxTrtError as error:
            if as_planned:
                raise
            self._destroy_camera(name)
            self.publish_camera_names()
            self.get_logger().error(f"camera '{name}' is removed: {error}")

    def _check_device(self, config: StreamConfig) -> None:
        """Refuse a device that the process does not own; raises ConfigurationError."""
        assert self._executor is not None
        device, devices = config.pinned_device, self._executor.devices
        if device is not None and device not in devices:
            raise ConfigurationError(
                f"device {device} for camera '{config.id}'",
                expected=f"auto or {', '.join(map(str, devices))}",
                fix="add it to the parameter `devices` of the executor's node and configure again",
            )

    def _on_change(self, changes: dict[str, Any]) -> None:
        if "cameras" in changes:
            wanted = list(changes["cameras"])
            if self.get_name() in wanted:
                raise ConfigurationError(
                    f"a camera called '{self.get_name()}'",
                    expected="another name than the process's own node",
                    fix="set the parameter `cameras`",
                )
            # Nodes must not come and go inside a callback of the executor that spins them.
            self._pending.append(lambda: self._set_cameras(wanted))

    def _set_cameras(self, wanted: list[str]) -> None:
        """Add and remove camera nodes; a camera that cannot be added is reported and left out."""
        for name in [name for name in self._cameras if name not in wanted]:
            self.remove_camera(name)
        for name in [name for name in wanted if name not in self._cameras]:
            try:
                self.add_camera(name)
            except YoloxTrtError as error:
                self.get_logger().error(f"camera '{name}' cannot be added: {error}")
        if set(self._cameras) != set(wanted):
            self.publish_camera_names()

    def _look_for_listeners(self) -> None:
        for camera in self._cameras.values():
            camera.update_subscription()

    def _poll_events(self) -> None:
        for camera in self._cameras.values():
            camera.poll_events()

    def _report_misplaced(self) -> None:
        """Report parameters that stand in another node's section of the YAML file.

        A `/**` section reaches every node; what only one of the two kinds of nodes got was
        written for the wrong one.
        """
        own = overrides_of(self)
        cameras = {name: overrides_of(camera) for name, camera in self._cameras.items()}
        ours = {spec.name for spec in EXECUTOR_PARAMETERS}
        theirs = {spec.name for spec in CAMERA_PARAMETERS}
        for name in sorted((theirs - ours) & own.keys()):
            if not any(name in overrides for overrides in cameras.values()):
                self.get_logger().warning(
                    f"parameter '{name}' is set for {self.get_name()} but belongs to the cameras; "
                    "set it in their sections or in /**"
                )
        for camera, overrides in cameras.items():
            for name in sorted((ours - theirs) & overrides.keys() - own.keys()):
                self.get_logger().warning(
                    f"parameter '{name}' is set for camera {camera} but belongs to "
                    f"{self.get_name()}"
                )

    # Reports -----------------------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        snapshot = self._executor.snapshot() if self._executor is not None else None
        now = time.monotonic()
        for name, camera in self._cameras.items():
            message.status.append(
                self._reports[name].make(
                    topic=camera.image_topic,
                    subscribed=camera.subscribed,
                    enabled=camera.parameters["enabled"],
                    counters=camera.counters,
                    stream=snapshot.streams.get(name) if snapshot is not None else None,
                    now=now,
                    fault=camera.fault,
                )
            )
        message.status.insert(0, self._own_status(snapshot))
        if snapshot is not None:
            for device in snapshot.devices.values():
                message.status.append(
                    diagnostics.device_status(self.get_name(), platform.node(), device)
                )
        self._diagnostics.publish(message)
        if snapshot is not None and self.parameters["exit_on_broken_device"]:
            self._end_if_broken(snapshot)

    def _end_if_broken(self, snapshot: ExecutorSnapshot) -> None:
        """End the process if only its restart can bring a device back."""
        for device, state in snapshot.devices.items():
            if state.status is DeviceStatus.BROKEN:
                self._failure = DeviceError(f"device {device} is broken: {state.last_error}")

    def _own_status(self, snapshot: Any) -> Any:
        state = ExecutorState.STOPPED if snapshot is None else snapshot.state
        level = {
            ExecutorState.RUNNING: diagnostics.OK,
            ExecutorState.STARTING: diagnostics.OK,
            ExecutorState.DEGRADED: diagnostics.WARN,
            ExecutorState.ERROR: diagnostics.ERROR,
            ExecutorState.STOPPED: diagnostics.STALE,
        }[state]
        load = self._receiver_load.read()
        values: dict[str, Any] = {
            "state": state.value,
            "cameras": len(self._cameras),
            "receiver_load": load,
        }
        advice = ""
        if self._ingest is None:
            lost = sum(report.lost for report in self._reports.values())
            advice = diagnostics.receiver_advice(load, lost)
            if advice and level == diagnostics.OK:
                level = diagnostics.WARN
        else:
            values |= {
                "ingest_processes": len(self._ingest.pids),
                "ingest_restarts": self._ingest.restarts,
            }
        if snapshot is not None:
            values |= {
                "placement": snapshot.policy,
                "placements": snapshot.placements,
                "removed_received": snapshot.removed_received,
                "removed_processed": snapshot.removed_processed,
                "removed_dropped": snapshot.removed_dropped,
            }
        return diagnostics.status(
            f"{self.get_name()}: executor",
            platform.node(),
            level,
            self._build_progress.text or self._loading or advice or state.value,
            values,
        )

    def _dump_timeline(self, request: Any, response: Any) -> Any:
        """Write the last seconds as a trace at once, and as a picture in the background."""
        if self._executor is None:
            response.success = False
            response.message = "not configured; fix: ros2 lifecycle set the node to configure"
            return response
        executor, seconds = self._executor, self.parameters["timeline_seconds"]
        folder = Path(self.parameters["timeline_folder"] or ".").expanduser().resolve()
        base = folder / f"timeline_{time.strftime('%Y%m%d_%H%M%S')}"
        try:
            dump_timeline(
                executor.timeline, base.with_suffix(".json"), seconds, devices=executor.devices
            )
        except (YoloxTrtError, OSError) as error:
            response.success = False
            response.message = str(error)
            return response
        # matplotlib takes about a second: long enough to lose images in this thread.
        threading.Thread(
            target=self._draw_timeline,
            args=(executor, base.with_suffix(".png"), seconds),
            name="draw timeline",
            daemon=True,
        ).start()
        response.success = True
        response.message = f"{base}.json written, {base.name}.png follows"
        return response

    def _draw_timeline(self, executor: InferenceExecutor, path: Path, seconds: float) -> None:
        try:
            dump_timeline(executor.timeline, path, seconds, devices=executor.devices)
            self.get_logger().info(f"{path} written")
        except (YoloxTrtError, OSError) as error:
            self.get_logger().error(f"{path} could not be drawn: {error}")
