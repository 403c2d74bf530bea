# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ModelSet: which models run on which devices, read from the parameters, and their detectors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.shipped_files import default_model
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.factory import create_detector
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.ros.nodes.build_progress import BuildProgress
from yolox_trt.ros.nodes.parameters import (
    EXECUTOR_OPTIONS,
    CameraParameters,
    ExecutorParameters,
)


class ModelSet:
    """The detectors of a process: each model on each device that may serve it.

    Making one reads parameters only; `load` makes the detectors, in any thread.

    Args:
        parameters: those of the node `multi_camera`.
        cameras: the parameters of each camera by name.
        progress: is told how far engines are that are built.

    Attributes:
        detectors: (Device, model name) -> Detector, after `load`.

    Raises:
        ConfigurationError: a device or a model file that does not exist as it is named.
    """

    def __init__(
        self,
        parameters: ExecutorParameters,
        cameras: Mapping[str, CameraParameters],
        *,
        progress: BuildProgress,
    ) -> None:
        self._progress = progress
        self._default = parameters.model or str(default_model())
        wanted = [each.model for each in cameras.values() if each.model]
        self._paths = _named_paths([self._default, *wanted])
        self._devices = _devices(parameters.devices, cameras)
        # 1 leaves the model's own batch as it is.
        batch = parameters.max_batch if parameters.max_batch > 1 else None
        self._options = replace(parameters.detector, max_batch=batch)
        self.detectors: dict[tuple[Device, str], Detector] = {}
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

    def close(self) -> None:
        """Close the detectors, where nobody else does."""
        for detector in self.detectors.values():
            detector.close()
        self.detectors = {}

    def load(self) -> ModelSet:
        """Make the detectors; a TensorRT build may take minutes.

        Raises:
            YoloxTrtError: one cannot be made; those that were are closed.
        """
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
        except BaseException:
            self.close()
            raise
        return self

    def create(self, device: Device | None, name: str) -> Detector:
        """Make a detector; anew, for a device that failed. The device None stands for `auto`."""
        with self._progress.watch(name, device) as on_progress:
            options = replace(self._options, model=self._paths[name], device=device)
            return create_detector(replace(options, on_progress=on_progress))

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
