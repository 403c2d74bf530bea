# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PlanConfig: cameras and devices of `yolox_trt plan`, read from YAML."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from yolox_trt.core.contention import Contention
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.engines.simulated import (
    BatchLatency,
    ConstantLatency,
    LatencyModel,
    MeasuredLatency,
)
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.planning.simulation import CameraLoad

#: Keys of a camera: those of StreamConfig that a plan heeds (times in ms), and its own.
CAMERA_KEYS = (
    "model",
    "rate",
    "resolution",
    "device",
    "placed_by_hand",
    "queue_depth",
    "overflow",
    "stale_after",
    "priority",
    "weight",
    "max_rate",
    "deadline",
    "phase",
    "jitter",
    "allow_model_change",
)
TOP_KEYS = (
    "devices",
    "cameras",
    "camera_defaults",
    "contention",
    "gpu_share",
    "copies",
    "max_batch",
)


@dataclass(frozen=True)
class PlannedCamera:
    """One camera of a plan.

    Attributes:
        load: its stream and rate.
        resolution: (width, height) in pixels, for the report; None if unknown.
        placed_by_hand: device of the placement to compare with, None if there is none.
    """

    load: CameraLoad
    resolution: tuple[int, int] | None = None
    placed_by_hand: Device | None = None

    @property
    def name(self) -> str:
        """Id of its stream."""
        return self.load.config.id

    @property
    def served_rate(self) -> float:
        """Frames a second that are let in: `rate`, or `max_rate` where that is lower."""
        limit = self.load.config.max_rate
        return min(self.load.rate, limit) if limit else self.load.rate

    def renamed(self, name: str) -> PlannedCamera:
        """Return a copy under another name."""
        config = dataclasses.replace(self.load.config, id=name)
        return dataclasses.replace(self, load=dataclasses.replace(self.load, config=config))

    def scaled(self, factor: float) -> PlannedCamera:
        """Return a copy with `factor` times the rates; all its times shrink with the period."""
        load, config = self.load, self.load.config
        config = dataclasses.replace(
            config,
            deadline=config.deadline / factor,
            stale_after=config.stale_after / factor,
            expected_rate=config.expected_rate * factor,
            max_rate=config.max_rate * factor,
        )
        load = dataclasses.replace(
            load,
            config=config,
            rate=load.rate * factor,
            phase=load.phase / factor,
            jitter=load.jitter / factor,
        )
        return dataclasses.replace(self, load=load)

    def by_hand(self) -> PlannedCamera:
        """Return a copy whose `device` is the one that it was placed on by hand."""
        if self.placed_by_hand is None:
            return self
        config = dataclasses.replace(self.load.config, device=str(self.placed_by_hand))
        return dataclasses.replace(self, load=dataclasses.replace(self.load, config=config))


@dataclass(frozen=True)
class PlanConfig:
    """What a plan is made for.

    Attributes:
        cameras: the cameras.
        devices: Device -> model -> latency.
        contention: how devices slow one another down.
        gpu_share: DLA -> seconds of the GPU for each of its frames.
        copies: device whose calls overlap -> seconds of a frame's time in which the host copies it.
        max_batch: most frames of one call on the GPU.
    """

    cameras: tuple[PlannedCamera, ...]
    devices: Mapping[Device, Mapping[str, LatencyModel]]
    contention: Contention = field(default_factory=Contention)
    gpu_share: Mapping[Device, float] = field(default_factory=dict)
    copies: Mapping[Device, float] = field(default_factory=dict)
    max_batch: int = 1

    @property
    def has_placement_by_hand(self) -> bool:
        """Whether every camera says where it is placed by hand."""
        return all(camera.placed_by_hand is not None for camera in self.cameras)

    @classmethod
    def load(cls, path: str | Path) -> PlanConfig:
        """Read a YAML file; docs/planning.md describes it. Times in it are milliseconds.

        Raises:
            ConfigurationError: the file cannot be read, or says something wrong.
        """
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"plan file {file} ({getattr(error, 'strerror', None) or error})",
                expected="a YAML file, such as config/orin_agx.yaml",
                fix="give its path",
            ) from error
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigurationError(
                f"{file} that is not YAML ({error})",
                expected="YAML, such as config/orin_agx.yaml",
                fix="mend the line that is named",
            ) from error
        try:
            return cls.from_dict(values, folder=file.parent)
        except (TypeError, ValueError) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(
                f"{file}: {error}",
                expected="the form in docs/planning.md",
                fix="compare it with config/orin_agx.yaml",
            ) from error

    @classmethod
    def from_dict(cls, values: Any, *, folder: Path | None = None) -> PlanConfig:
        """Read the mapping of a plan file.

        Args:
            values: what YAML holds.
            folder: where files that it names are looked for.

        Raises:
            ConfigurationError: something is missing, unknown or wrong.
        """
        values = _mapping(values, "the plan")
        _known(values, TOP_KEYS, "the plan")
        devices = {
            _device(name, "devices"): {
                str(model): _latency(value, f"devices.{name}.{model}", folder or Path())
                for model, value in _mapping(models, f"devices.{name}").items()
            }
            for name, models in _mapping(values.get("devices"), "devices").items()
        }
        for device, models in devices.items():
            if not models:
                raise ConfigurationError(
                    f"devices.{device} without a model",
                    expected="the milliseconds of at least one model",
                    fix=f"write `{device}: {{MODEL: MILLISECONDS}}`, or remove {device}",
                )
        defaults = _mapping(values.get("camera_defaults", {}), "camera_defaults")
        _known(defaults, CAMERA_KEYS, "camera_defaults")
        cameras = tuple(
            _camera(str(name), {**defaults, **_mapping(value or {}, f"cameras.{name}")}, devices)
            for name, value in _mapping(values.get("cameras"), "cameras").items()
        )
        if not cameras or not devices:
            raise ConfigurationError(
                f"a plan with {len(cameras)} cameras and {len(devices)} devices",
                expected="at least one of both",
                fix="add them",
            )
        return cls(
            cameras=cameras,
            devices=devices,
            contention=Contention.parse(values.get("contention", "none")),
            gpu_share=_times(values, "gpu_share", [d for d in devices if d.kind == "dla"]),
            copies=_times(values, "copies", devices),
            max_batch=_whole_number(values, "max_batch", "the plan", 1),
        )

    def with_cameras(self, count: int) -> PlanConfig:
        """Return the plan for another number of cameras: the list again and again."""
        cameras = list(self.cameras[:count])
        used = {camera.name for camera in self.cameras}
        for index in range(len(self.cameras), count):
            camera = self.cameras[index % len(self.cameras)]
            suffix = index // len(self.cameras) + 1
            while f"{camera.name}_{suffix}" in used:
                suffix += 1
            used.add(f"{camera.name}_{suffix}")
            cameras.append(camera.renamed(f"{camera.name}_{suffix}"))
        return dataclasses.replace(self, cameras=tuple(cameras))

    def with_rates(self, factor: float) -> PlanConfig:
        """Return the plan with every camera's rate times `factor`."""
        return dataclasses.replace(
            self, cameras=tuple(camera.scaled(factor) for camera in self.cameras)
        )

    def with_contention(self, contention: Contention) -> PlanConfig:
        """Return the plan with another contention."""
        return dataclasses.replace(self, contention=contention)


def _times(values: Mapping[str, Any], key: str, devices: Collection[Device]) -> dict[Device, float]:
    """Read a mapping of some of the devices to milliseconds; returns seconds."""
    times = {str(k): v for k, v in _mapping(values.get(key, {}), key).items()}
    found = {_device(name, key): _number(times, name, key, least=0.0) / 1e3 for name in times}
    for device in found:
        if device not in devices:
            raise ConfigurationError(
                f"{device} in {key} of the plan",
                expected=f"one of {', '.join(map(str, devices)) or 'no device of this plan'}",
                fix=f"remove {device} from {key}, or add it to `devices`",
            )
    return found


def _device(name: Any, where: str) -> Device:
    try:
        return Device.parse(str(name))
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error.found} in {where} of the plan",
            expected=error.expected,
            fix=f"write one of these in {where}",
        ) from error


def _number(
    values: Mapping[str, Any],
    key: str,
    where: str,
    default: float | None = None,
    *,
    least: float | None = None,
) -> float:
    value = values.get(key, default)
    limit = "" if least is None else f" of at least {least:g}"
    try:
        number = float(value)
        if math.isfinite(number) and (least is None or number >= least):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise ConfigurationError(
        f"{key} = {value!r} of {where}",
        expected=f"a finite number{limit}",
        fix=f"set `{key}` of {where}",
    )


def _seconds(values: Mapping[str, Any], key: str, where: str, *, below: float = 3600.0) -> float:
    """Read milliseconds, 0 where there are none; return seconds."""
    seconds = _number(values, key, where, 0.0) / 1e3
    if not 0.0 <= seconds < below:
        raise ConfigurationError(
            f"{key} = {values[key]!r} of {where}",
            expected=f"milliseconds, from 0 to less than {1e3 * below:.7g}",
            fix=f"set `{key}` of {where}",
        )
    return seconds


def _whole_number(values: Mapping[str, Any], key: str, where: str, default: int) -> int:
    """Read a count: a whole number from 1 on."""
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(
            f"{key} = {value!r} of {where}",
            expected="a whole number of at least 1",
            fix=f"set `{key}` of {where}",
        )
    return value


def _camera(
    name: str, values: Mapping[str, Any], devices: Mapping[Device, Mapping[str, LatencyModel]]
) -> PlannedCamera:
    _known(values, CAMERA_KEYS, f"camera {name}")
    if "rate" not in values:
        raise ConfigurationError(f"camera {name} without a rate", expected="Hz", fix="set `rate`")
    where = f"camera {name}"
    rate = _number(values, "rate", where)
    if not (math.isfinite(rate) and rate > 0.0):
        raise ConfigurationError(
            f"rate = {rate} of {where}", expected="more than 0 Hz", fix=f"set `rate` of {where}"
        )
    models = sorted({model for each in devices.values() for model in each})
    model = values.get("model", models[0] if len(models) == 1 else None)
    if model not in models:
        raise ConfigurationError(
            f"model {model!r} of camera {name}",
            expected=f"one that a device has a time for: {', '.join(models)}",
            fix="set `model`, or add its time under `devices`",
        )
    if values.get("device", "auto") != "auto":
        _device(values["device"], where)
    config = StreamConfig(
        id=name,
        model=str(model),
        expected_rate=rate,
        **{
            key: values[key]
            for key in (
                "device",
                "queue_depth",
                "overflow",
                "priority",
                "weight",
                "allow_model_change",
            )
            if key in values
        },
        max_rate=_number(values, "max_rate", where, 0.0),
        stale_after=_seconds(values, "stale_after", where),
        # Without a deadline of its own a result is due when the next frame comes.
        deadline=_seconds(values, "deadline", where) if "deadline" in values else 1.0 / rate,
    )
    load = CameraLoad(
        config=config,
        rate=rate,
        phase=_seconds(values, "phase", where),
        jitter=_seconds(values, "jitter", where, below=0.5 / rate),
    )
    hand = values.get("placed_by_hand")
    hand_device = _device(hand, f"placed_by_hand of {where}") if hand is not None else None
    if hand_device is not None and model not in devices.get(hand_device, {}):
        raise ConfigurationError(
            f"placed_by_hand = {hand} of camera {name}",
            expected=f"a device with a time for {model}",
            fix="correct `placed_by_hand`, or add the time",
        )
    resolution = values.get("resolution")
    try:
        size = (int(resolution[0]), int(resolution[1])) if resolution is not None else None
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ConfigurationError(
            f"resolution = {resolution!r} of {where}",
            expected="[WIDTH, HEIGHT] in pixels",
            fix=f"set `resolution` of {where}",
        ) from error
    return PlannedCamera(load, size, hand_device)


def _latency(value: Any, where: str, folder: Path) -> LatencyModel:
    """Read milliseconds: a number, a list of samples, a batch table, or a file of samples."""
    reason = ""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return ConstantLatency(float(value) / 1e3)
        if isinstance(value, list):
            return MeasuredLatency([float(v) / 1e3 for v in value])
        if isinstance(value, Mapping) and set(value) == {"batch"}:
            table: dict[Any, Any] = dict(value["batch"])
            for size in table:
                if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                    raise ValueError(f"batch size {size!r} is not a whole number of at least 1")
            return BatchLatency({size: float(table[size]) / 1e3 for size in table})
    except (TypeError, ValueError, AttributeError) as error:
        reason = f" ({error})"
        if isinstance(error, ConfigurationError):
            reason = f" ({error.found}, expected {error.expected})"
    if isinstance(value, Mapping) and "file" in value and set(value) <= {"file", "field"}:
        return MeasuredLatency(_samples(folder / str(value["file"]), value.get("field"), where))
    raise ConfigurationError(
        f"{where} = {value!r}{reason}",
        expected="milliseconds: a number, a list, {batch: {1: ms, 2: ms}} or {file: times.json}",
        fix=f"write {where} in one of these forms",
    )


def _samples(path: Path, name: str | None, where: str) -> list[float]:
    """Read seconds from a JSON list of milliseconds, or of objects as trtexec writes them."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        times = [float(v[name or "computeMs"] if isinstance(v, dict) else v) for v in values]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{where}: {path} ({type(error).__name__}: {error})",
            expected="a JSON list of milliseconds, or what `trtexec --exportTimes` writes "
            "(`field`: computeMs)",
            fix="give the right file and `field`",
        ) from error
    return [t / 1e3 for t in times]


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{where}: {value!r}", expected="a mapping", fix="see docs/planning.md"
        )
    return value


def _known(values: Mapping[str, Any], known: Any, where: str) -> None:
    unknown = sorted(set(map(str, values)) - set(known))
    if unknown:
        raise ConfigurationError(
            f"{', '.join(unknown)} in {where}",
            expected=", ".join(known),
            fix=f"remove {', '.join(unknown)}, or write one of these instead",
        )
