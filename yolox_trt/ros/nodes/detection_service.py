# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DetectionService: what the cameras are connected to from configure to cleanup."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from rclpy.node import Node

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.shipped_files import default_model
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.factory import create_detector
from yolox_trt.executor.inference_executor import InferenceExecutor
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.ros.ingest.pool import IngestPool
from yolox_trt.ros.nodes.build_progress import BuildProgress
from yolox_trt.ros.nodes.parameters import (
    EXECUTOR_OPTIONS,
    CameraParameters,
    ExecutorParameters,
)


class DetectionService:
    """Each model on each device that may serve it, their executor, and who receives the images.

    Making one reads parameters only; `load` makes the detectors and the executor, in any
    thread.

    Args:
        node: the executor's node.
        parameters: those of the node `multi_camera`.
        cameras: the parameters of each camera by name.
        progress: is told how far engines are that are built.

    Attributes:
        detectors: (Device, model name) -> Detector, after `load`.
        executor: runs them, after `load`.
        ingest: the processes that receive images; None where this one does so itself.

    Raises:
        ConfigurationError: a device, a model file or a label file that does not exist as it is
            named.
    """

    def __init__(
        self,
        node: Node,
        parameters: ExecutorParameters,
        cameras: Mapping[str, CameraParameters],
        *,
        progress: BuildProgress,
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._progress = progress
        self._default = parameters.model or str(default_model())
        wanted = [each.model for each in cameras.values() if each.model]
        self._paths = _named_paths([self._default, *wanted])
        self._devices = _devices(parameters.devices, cameras)
        # 1 leaves the model's own batch as it is.
        batch = parameters.max_batch if parameters.max_batch > 1 else None
        labels = parameters.load_labels()
        self._options = replace(parameters.detector, max_batch=batch, labels=labels)
        self.detectors: dict[tuple[Device, str], Detector] = {}
        self.executor: InferenceExecutor
        self.ingest: IngestPool | None = None
        self._specs: dict[str, ModelSpec] = {}

    def find(self, model: str) -> tuple[str, ModelSpec]:
        """Return the name and the spec of a camera's parameter `model` ("" for the default).

        Raises:
            ConfigurationError: no detector was made for it (the camera came after configure).
        """
        name = self._name_of(model)
        return name, self._specs[name]

    def check(self, parameters: CameraParameters) -> None:
        """Refuse a camera that came after this was made, as far as that is known before `load`.

        Raises:
            ConfigurationError: its model or its device will not be loaded.
        """
        self._name_of(parameters.model)
        refuse_foreign_device(parameters.stream, self._devices)

    def load(self) -> DetectionService:
        """Make the detectors, which may take minutes with TensorRT, and the executor.

        Raises:
            YoloxTrtError: one cannot be made; those that were are closed.
        """
        parameters = self._parameters
        try:
            devices: Iterable[Device | None] = self._devices
            for name in self._paths:
                made = []
                for device in devices:
                    detector = self.create(device, name)
                    self.detectors[detector.device, name] = detector
                    made.append(detector.device)
                # Where `auto` chose a device for the first model, the others go there too.
                devices = made
                self._specs[name] = detector.spec
            self.executor = InferenceExecutor(
                self.detectors,
                policy=parameters.placement,
                options=parameters.scheduler,
                factory=self.create,
                max_batch=parameters.max_batch,
                contention=parameters.contention,
                profile=parameters.nvtx,
            )
        except BaseException:
            for detector in self.detectors.values():
                detector.close()
            raise
        return self

    def create(self, device: Device | None, name: str) -> Detector:
        """Make a detector; anew, for a device that failed. The device None stands for `auto`."""
        with self._progress.watch(name, device) as on_progress:
            options = replace(self._options, model=self._paths[name], device=device)
            return create_detector(replace(options, on_progress=on_progress))

    def start_ingest(self) -> None:
        """Start the processes that receive images, if any are asked for."""
        if count := self._parameters.ingest_processes:
            page_lock = any(device.is_cuda for device in self.executor.devices)
            self.ingest = IngestPool(count, self._node.get_name(), page_lock=page_lock)

    def stop(self) -> bool:
        """Stop the workers; the engines stay loaded. Return whether all have ended."""
        return self._report(self.executor.stop())

    def close(self) -> bool:
        """Release what was loaded; return whether every thread and process has ended by itself."""
        ended = self._report(self.executor.close())
        if self.ingest is None or self.ingest.close():
            return ended
        self._node.get_logger().error("an ingest process did not end by itself and was killed")
        return False

    def _report(self, ended: bool) -> bool:
        if not ended:
            self._node.get_logger().error("a device did not stop in 2 s; its thread is left behind")
        return ended

    def _name_of(self, model: str) -> str:
        path = str(Path(model or self._default).expanduser())
        for name, known in self._paths.items():
            if known == path:
                return name
        fix = "deactivate, clean up and configure the node again to load another one"
        raise ConfigurationError.unknown("model", model, self._paths.values(), fix=fix)


def _named_paths(models: Iterable[str]) -> dict[str, str]:
    """Name each model by its file's stem, or by its path where two stems are equal.

    Raises:
        ConfigurationError: a model that is no file.
    """
    paths = dict.fromkeys(str(Path(model).expanduser()) for model in models)
    names: dict[str, str] = {}
    for path in paths:
        if not Path(path).is_file():
            raise ConfigurationError(
                f"model '{path}', which is no file",
                expected="an ONNX or engine file",
                fix=("set ", EXECUTOR_OPTIONS["model"]),
            )
        stem = Path(path).stem
        names[path if stem in names else stem] = path
    return names


def _devices(
    listed: tuple[Device | None, ...], cameras: Mapping[str, CameraParameters]
) -> tuple[Device | None, ...]:
    """Return the devices of the process; None stands for `auto`.

    Raises:
        ConfigurationError: a camera asks for a device that the process does not own.
    """
    if listed == (None,):
        # The cameras' own devices say what the process needs; those without one share them.
        asked = [each.stream.pinned_device for each in cameras.values()]
        return tuple(dict.fromkeys(each for each in asked if each is not None)) or listed
    for each in cameras.values():
        refuse_foreign_device(each.stream, listed)
    return tuple(dict.fromkeys(listed))


def refuse_foreign_device(stream: StreamConfig, devices: Collection[Device | None]) -> None:
    """Raise ConfigurationError for a device that the process does not own.

    Args:
        stream: asks for the device.
        devices: those of the process; None stands for one that is not known yet.
    """
    device = stream.pinned_device
    if device is not None and device not in devices and None not in devices:
        raise ConfigurationError(
            f"camera '{stream.id}' on device {device}",
            expected=f"auto or {', '.join(map(str, devices))}",
            fix=("add it to ", EXECUTOR_OPTIONS["devices"], " of multi_camera, and configure it"),
        )
