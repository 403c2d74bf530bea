# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PlanConfig: cameras and devices of `yolox_trt plan`, read from YAML."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolox_trt.core.contention import Contention
from yolox_trt.core.device import Device
from yolox_trt.core.documents import read_json, read_yaml
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError
from yolox_trt.core.input_size import (
    OWN_SIZE,
    InputSize,
    Size,
    best_size,
    parse_input_size,
    sized_name,
)
from yolox_trt.core.option import Kind, Option, option, options_of, parse_size
from yolox_trt.engines.simulated import (
    BatchLatency,
    ConstantLatency,
    LatencyModel,
    MeasuredLatency,
    ScaledLatency,
)
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.planning.simulation import CameraLoad

TOP_KEYS = (
    "devices",
    "cameras",
    "camera_defaults",
    "contention",
    "gpu_share",
    "copies",
    "max_batch",
    "sizes",
)


def _in_milliseconds(seconds: Option) -> Option:
    """Return an option as plan files have it: their times are milliseconds."""
    if seconds.unit != "s":
        return seconds
    bounds = {name: getattr(seconds, name) for name in ("minimum", "maximum", "above")}
    scaled = {name: 1e3 * bound for name, bound in bounds.items() if bound is not None}
    return dataclasses.replace(seconds, unit="ms", parse=lambda value: value / 1e3, **scaled)


def _size(values: Sequence[int]) -> tuple[int, int]:
    """Read [WIDTH, HEIGHT]."""
    if len(values) != 2:
        raise ConfigurationError(f"resolution = {values}", expected="[WIDTH, HEIGHT] in pixels")
    return values[0], values[1]


@dataclass(frozen=True, kw_only=True)
class PlannedCamera(CameraLoad):
    """One camera of a plan."""

    resolution: tuple[int, int] | None = option(
        None, kind=Kind.INTEGER_ARRAY, minimum=1, parse=_size, help="[WIDTH, HEIGHT] of the images."
    )
    input_size: InputSize | None = option(
        None,
        kind=Kind.STRING,
        parse=parse_input_size,
        help="Input size of the network: HxW, auto (from `resolution`) or model.",
    )
    placed_by_hand: Device | None = option(
        None, kind=Kind.STRING, parse=Device.parse, help="Device of a placement to compare with."
    )

    @property
    def name(self) -> str:
        """Id of its stream."""
        return self.config.id

    @property
    def served_rate(self) -> float:
        """Frames a second that are let in: `rate`, or `max_rate` where that is lower."""
        limit = self.config.max_rate
        return min(self.rate, limit) if limit else self.rate

    def changed(self, **config: Any) -> PlannedCamera:
        """Return a copy with another StreamConfig."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **config))

    def scaled(self, factor: float) -> PlannedCamera:
        """Return a copy with `factor` times the rates; all its times shrink with the period."""

        def scaled(group: Any) -> dict[str, Any]:
            values = {
                (name, declared.unit): getattr(group, name)
                for name, declared in options_of(type(group)).items()
                if declared.unit in ("Hz", "s")
            }
            return {
                name: value * factor if unit == "Hz" else value / factor
                for (name, unit), value in values.items()
            }

        config = dataclasses.replace(self.config, **scaled(self.config))
        return dataclasses.replace(self, config=config, **scaled(self))

    def by_hand(self) -> PlannedCamera:
        """Return a copy whose `device` is the one that it was placed on by hand."""
        return self.changed(device=str(self.placed_by_hand)) if self.placed_by_hand else self


@dataclass(frozen=True)
class PlanConfig:
    """What a plan is made for.

    Attributes:
        cameras: the cameras.
        devices: Device -> model -> latency.
        contention: how devices slow one another down.
        gpu_share: DLA -> seconds of the GPU for each of its frames.
        copies: device whose calls overlap -> seconds of a frame's time in which the host copies it.
    """

    cameras: tuple[PlannedCamera, ...]
    devices: Mapping[Device, Mapping[str, LatencyModel]]
    contention: Contention = field(default_factory=Contention)
    gpu_share: Mapping[Device, float] = field(default_factory=dict)
    copies: Mapping[Device, float] = field(default_factory=dict)
    max_batch: int = option(1, minimum=1, help="Most frames of one call on a GPU.")

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
        with ConfigurationError.instead_of(
            FILE_ERRORS,
            f"plan {file}",
            expected="YAML in the form of docs/planning.md",
            fix="give its path, or compare the file with config/orin_agx.yaml",
        ):
            return cls.from_dict(read_yaml(file), folder=file.parent)

    @classmethod
    def from_dict(cls, values: Any, *, folder: Path | None = None) -> PlanConfig:
        """Read the mapping of a plan file.

        Args:
            values: what YAML holds.
            folder: where files that it names are looked for.

        Raises:
            ConfigurationError: something is missing, unknown or wrong.
        """
        values = _mapping(values, "the plan", TOP_KEYS)
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
        keys = ("model", *CAMERA_OPTIONS)
        defaults = _mapping(values.get("camera_defaults", {}), "camera_defaults", keys)
        own_sizes = {
            str(model): _own_size(str(model), size)
            for model, size in _mapping(values.get("sizes", {}), "sizes").items()
        }
        cameras = tuple(
            _camera(
                str(name),
                {**defaults, **_mapping(own or {}, f"camera {name}", keys)},
                devices,
                own_sizes,
            )
            for name, own in _mapping(values.get("cameras"), "cameras").items()
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
            max_batch=options_of(cls)["max_batch"].typed(values.get("max_batch", 1)),
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
            cameras.append(camera.changed(id=f"{camera.name}_{suffix}"))
        return dataclasses.replace(self, cameras=tuple(cameras))

    def with_rates(self, factor: float) -> PlanConfig:
        """Return the plan with every camera's rate times `factor`."""
        return dataclasses.replace(
            self, cameras=tuple(camera.scaled(factor) for camera in self.cameras)
        )


#: The keys of a camera but `model`: what PlannedCamera and StreamConfig declare.
CAMERA_OPTIONS: Mapping[str, Option] = {
    name: _in_milliseconds(declared)
    for group in (PlannedCamera, StreamConfig)
    for name, declared in options_of(group).items()
    if name not in ("enabled", "expected_rate")
}


def _times(values: Mapping[str, Any], key: str, devices: Collection[Device]) -> dict[Device, float]:
    """Read a mapping of some of the devices to milliseconds; returns seconds."""
    times: dict[Device, float] = {}
    for name, value in _mapping(values.get(key, {}), key).items():
        device = _device(name, key)
        if device not in devices:
            fix = f"remove {device} from {key}, or add it to `devices`"
            raise ConfigurationError.unknown(f"{key}: device", str(device), devices, fix=fix)
        limits = Option(name=f"{key}.{name}", kind=Kind.DOUBLE, default=0.0, minimum=0.0, help="")
        times[device] = dataclasses.replace(limits, unit="ms").plain(value) / 1e3
    return times


def _device(name: Any, where: str) -> Device:
    try:
        return Device.parse(str(name))
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error.found} in {where} of the plan",
            expected=error.expected,
            fix=f"write one of these in {where}",
        ) from error


def _own_size(model: str, text: Any) -> Size:
    """Read the size with which a model was exported."""
    try:
        return parse_size(str(text))
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error.found} of {model} in `sizes`", expected=error.expected, fix="correct it"
        ) from error


def _at_size(
    where: str,
    model: str,
    camera: PlannedCamera,
    devices: Mapping[Device, dict[str, LatencyModel]],
    own_sizes: Mapping[str, Size],
) -> str:
    """Return the executor's name of a camera's model at the camera's size.

    A device that has no time for that size is given the model's own, scaled with the pixels.
    """
    wanted = camera.input_size
    if wanted is None or wanted == OWN_SIZE:
        return model
    if model not in own_sizes:
        raise ConfigurationError(
            f"input_size of {where} for {model} of unknown size",
            expected="the size with which it was exported",
            fix=f"write `sizes: {{{model}: HxW}}`",
        )
    own = own_sizes[model]
    if not isinstance(wanted, tuple):
        if camera.resolution is None:
            raise ConfigurationError(
                f"input_size = {wanted} of {where} without a resolution",
                expected="the size of its images",
                fix="set `resolution`",
            )
        width, height = camera.resolution
        wanted = best_size(own, (height, width))
    if wanted == own:
        return model
    name = sized_name(model, wanted)
    for models in devices.values():
        if model in models and name not in models:
            factor = math.prod(wanted) / math.prod(own)
            models[name] = ScaledLatency(models[model], factor)
    return name


def _camera(
    name: str,
    values: Mapping[str, Any],
    devices: Mapping[Device, dict[str, LatencyModel]],
    own_sizes: Mapping[str, Size],
) -> PlannedCamera:
    where = f"camera {name}"
    if "rate" not in values:
        raise ConfigurationError(f"{where} without a rate", expected="Hz", fix="set `rate`")
    models = sorted({model for each in devices.values() for model in each})
    model = values.get("model", models[0] if len(models) == 1 else None)
    if model not in models:
        fix = "set `model`, or add its time under `devices`"
        raise ConfigurationError.unknown(f"{where}: model", str(model), models, fix=fix)
    try:
        typed = {
            key: declared.typed(values[key])
            for key, declared in CAMERA_OPTIONS.items()
            if key in values
        }
    except ConfigurationError as error:
        fix = f"{error.fix} of {where}"
        raise ConfigurationError(
            f"{error.found} of {where}", expected=error.expected, fix=fix
        ) from error

    def declared_by(group: type) -> dict[str, Any]:
        return {key: value for key, value in typed.items() if key in options_of(group)}

    rate = typed["rate"]
    # Without a deadline of its own a result is due when the next frame comes.
    stream = {"deadline": 1.0 / rate, "expected_rate": rate} | declared_by(StreamConfig)
    config = StreamConfig(id=name, model=str(model), **stream)
    camera = PlannedCamera(config=config, **declared_by(PlannedCamera))
    model = _at_size(where, str(model), camera, devices, own_sizes)
    camera = camera.changed(model=model)
    hand = camera.placed_by_hand
    if hand is not None and model not in devices.get(hand, {}):
        raise ConfigurationError(
            f"placed_by_hand = {hand} of {where}",
            expected=f"a device with a time for {model}",
            fix="correct `placed_by_hand`, or add the time",
        )
    return camera


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
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
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
    with ConfigurationError.instead_of(
        FILE_ERRORS,
        f"{where}: {path}",
        expected="a JSON list of milliseconds, or what `trtexec --exportTimes` writes (`field`: "
        "computeMs)",
        fix="give the right file and `field`",
    ):
        values = read_json(path)
        times = [float(v[name or "computeMs"] if isinstance(v, dict) else v) for v in values]
    return [t / 1e3 for t in times]


def _mapping(value: Any, where: str, keys: Collection[str] = ()) -> Mapping[str, Any]:
    """Return a mapping, with no other keys than those if any are given."""
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{where}: {value!r}", expected="a mapping", fix="see docs/planning.md"
        )
    for key in map(str, value):
        if keys and key not in keys:
            fix = f"remove {key}, or write one of these instead"
            raise ConfigurationError.unknown(f"in {where}:", key, keys, fix=fix)
    return value
