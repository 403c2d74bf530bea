# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ModelSet: which models run on which devices, read from the parameters, and their detectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.labels import load_class_names
from yolox_trt.core.model_spec import PREPROCESSING_PRESETS, ModelSpec
from yolox_trt.core.option import from_plain
from yolox_trt.core.shipped_files import default_model
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.ros.nodes.build_progress import BuildProgress
from yolox_trt.ros.nodes.parameters import AUTO, parse_device


class ModelSet:
    """The detectors of a process: each model on each device that may serve it.

    Making one reads parameters only; `load` makes the detectors, in any thread.

    Args:
        values: the parameters of the node `multi_camera` by name.
        cameras: the parameters of each camera by name.
        progress: is told how far engines are that are built; None: the log alone.

    Attributes:
        detectors: (Device, model name) -> Detector, after `load`.
        specs: model name -> what its network takes and gives, after `load`.
        labels: model name -> class names, () where they are unknown, after `load`.

    Raises:
        ConfigurationError: a device or a model file that does not exist as it is named.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        cameras: Mapping[str, Mapping[str, Any]],
        *,
        progress: BuildProgress | None = None,
    ) -> None:
        self._values = values
        self._progress = progress
        default = values["model"] or str(default_model())
        self._default = default
        wanted = [default, *(each["model"] for each in cameras.values() if each["model"])]
        self._paths = _named_paths(wanted)
        self._devices = _devices(values["devices"], cameras)
        self._class_names: tuple[str, ...] | None = None
        if values["label_path"]:
            self._class_names = load_class_names(values["label_path"])
        self.detectors: dict[tuple[Device, str], Detector] = {}
        self.specs: dict[str, ModelSpec] = {}
        self.labels: dict[str, tuple[str, ...]] = {}

    def name_for(self, model: str) -> str:
        """Return the executor's name of a camera's parameter `model` ("" for the default).

        Raises:
            ConfigurationError: no detector was made for it (the camera came after configure).
        """
        path = str(Path(model or self._default).expanduser())
        for name, known in self._paths.items():
            if known == path:
                return name
        raise ConfigurationError(
            f"model '{model}'",
            expected=f"one that is loaded: {', '.join(self._paths.values())}",
            fix="deactivate, clean up and configure the node again to load another one",
        )

    def check(self, camera: str, values: Mapping[str, Any]) -> None:
        """Refuse a camera that came after this was made, as far as that is known before `load`.

        Args:
            camera: its name.
            values: its parameters.

        Raises:
            ConfigurationError: its model or its device will not be loaded.
        """
        self.name_for(values["model"])
        device = parse_device(values["device"])
        if device is not None and None not in self._devices and device not in self._devices:
            raise _foreign_device(camera, device, self._devices)

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
                    detector = self._make(device, name)
                    self.detectors[detector.device, name] = detector
                    self.specs[name] = detector.spec
                    made.append(detector.device)
                # Where `auto` chose a device for the first model, the others go there too.
                devices = made
                self.labels[name] = self._class_names or detector.spec.class_names
        except BaseException:
            self.close()
            raise
        return self

    def create(self, device: Device, name: str) -> Detector:
        """Make a detector anew, for a device that failed."""
        return self._make(device, name)

    def _make(self, device: Device | None, name: str) -> Detector:
        options = self._options(device, name)
        if self._progress is None:
            return create_detector(options)
        with self._progress.watch(name, device) as on_progress:
            return create_detector(dataclasses.replace(options, on_progress=on_progress))

    def _options(self, device: Device | None, name: str) -> DetectorOptions:
        values = self._values
        preprocessing = values["preprocessing"]
        cache = values["engine_cache"]
        build = from_plain(BuildOptions, {"calibration_cache": values["calibration_cache"] or None})
        return DetectorOptions(
            model=self._paths[name],
            device=device,
            engine=values["engine"],
            preprocessing=None if preprocessing == AUTO else PREPROCESSING_PRESETS[preprocessing],
            labels=self._class_names,
            max_batch=values["max_batch"] if values["max_batch"] > 1 else None,
            precision=values["precision"] or None,
            threads=values["cpu_threads"] or None,
            engine_cache=Path(cache).expanduser() if cache else None,
            build=build,
        )


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
                fix="set the parameter `model`",
            )
        stem = Path(path).stem
        names[path if stem in names else stem] = path
    return names


def _devices(
    values: Iterable[str], cameras: Mapping[str, Mapping[str, Any]]
) -> tuple[Device | None, ...]:
    """Return the devices of the process; None stands for `auto`.

    Raises:
        ConfigurationError: a camera asks for a device that the process does not own.
    """
    listed = [parse_device(value) for value in values] or [None]
    asked = {name: parse_device(each["device"]) for name, each in cameras.items()}
    named = [device for device in asked.values() if device is not None]
    if listed == [None]:
        # The cameras' own devices say what the process needs; those without one share them.
        return tuple(dict.fromkeys(named)) or (None,)
    for name, device in asked.items():
        if device is not None and device not in listed:
            raise _foreign_device(name, device, listed)
    return tuple(dict.fromkeys(listed))


def _foreign_device(
    camera: str, device: Device, devices: Iterable[Device | None]
) -> ConfigurationError:
    return ConfigurationError(
        f"camera '{camera}' on device {device}",
        expected=f"one of the process's devices: {', '.join(map(str, devices))}",
        fix="add it to the parameter `devices` of multi_camera",
    )
