# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Every parameter of the process `multi_camera`, as Options. docs/parameters.md is made of them.

This module imports no ROS: the documentation is built without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.core.contention import Contention
from yolox_trt.core.device import AUTO, Device
from yolox_trt.core.labels import load_class_names
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.option import Applies, Kind, Option, option, options_of, parse_pairs
from yolox_trt.core.postprocess_options import PostprocessOptions, parse_class_thresholds
from yolox_trt.core.roi import Roi
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.executor.scheduler_options import SchedulerOptions
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.ros.nodes.parameter_values import (
    check_topic,
    parse_devices,
    parse_node_names,
    parse_roi,
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CameraParameters:
    """Parameters of a camera node that are not those of its Stream."""

    image_topic: str = option(
        "~/image_raw",
        parse=check_topic,
        help="Topic of the camera's images; ~ stands for the camera node's own name.",
    )
    transport: str = option(
        "raw",
        choices=("raw", "compressed"),
        help="raw: sensor_msgs/Image on image_topic. compressed: sensor_msgs/CompressedImage on "
        "image_topic/compressed, as image_transport names it.",
    )
    on_demand: bool = option(
        True,
        applies=Applies.AT_ONCE,
        help="Subscribe the camera only while somebody listens to one of its outputs.",
    )
    qos_reliability: str = option(
        "best_effort",
        choices=("best_effort", "reliable"),
        help="Reliability of the image subscription. reliable needs a reliable publisher.",
    )
    qos_depth: int = option(
        1,
        minimum=1,
        maximum=1000,
        unit="images",
        help="Depth of the middleware's own queue, in front of queue_depth.",
    )
    model: str = option(
        "", help="ONNX or engine file of this camera; empty for the process's `model`."
    )
    class_thresholds: Mapping[str, float] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=parse_class_thresholds,
        applies=Applies.AT_ONCE,
        help="Score thresholds of single classes, as class:threshold (class a name or a number), "
        "such as [person:0.25, traffic light:0.4].",
    )
    roi: Roi | None = option(
        [],
        kind=Kind.INTEGER_ARRAY,
        parse=parse_roi,
        unit="pixels",
        applies=Applies.AT_ONCE,
        help="Part of the image that the network sees, as [x, y, width, height]; [] or four zeros "
        "for the whole image. Boxes stay in pixels of the whole image.",
    )
    publish_annotated: bool = option(
        True,
        applies=Applies.AT_ONCE,
        help="Whether ~/annotated is drawn while somebody subscribes to it.",
    )
    publish_objects: bool = option(
        False,
        help="Whether ~/objects is published for Autoware "
        "(tier4_perception_msgs/DetectedObjectsWithFeature).",
    )
    class_remap: Mapping[str, str] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=parse_pairs,
        help="Autoware labels of single classes for ~/objects, as class:LABEL, such as "
        "[dog:ANIMAL]; it goes before the built-in table. Classes without a label are UNKNOWN.",
    )
    class_names: tuple[str, ...] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=tuple,
        applies=Applies.BY_NODE,
        help="Class names of the model that serves the camera, in the order of its outputs. "
        "~/vision_info points here.",
    )

    stream: StreamConfig

    @classmethod
    def of(cls, name: str, values: Mapping[str, Any]) -> CameraParameters:
        """Make the parameters of a camera of plain values.

        Raises:
            ConfigurationError: a value that its option refuses.
        """
        options = _part(PostprocessOptions, values)
        return _part(cls, values, stream=_part(StreamConfig, values, id=name, options=options))

    def stream_config(self, model: str, spec: ModelSpec) -> StreamConfig:
        """Return the configuration of the camera's Stream.

        Args:
            model: the executor's name of the model that serves it.
            spec: has the model's classes.

        Raises:
            ConfigurationError: a threshold for a class that the model does not have.
        """
        declared = options_of(type(self))["class_thresholds"]
        options = self.stream.options.with_classes(self.class_thresholds, spec, declared)
        return replace(self.stream, model=model, options=options)


@dataclass(frozen=True, kw_only=True)
class ExecutorParameters:
    """Parameters of the node `multi_camera`."""

    cameras: tuple[str, ...] = option(
        ["camera"],
        applies=Applies.AT_ONCE,
        parse=parse_node_names,
        help="Names of the camera nodes. Changed at run time, cameras are added and removed.",
    )
    model: str = option(
        "",
        help="ONNX or engine file; empty for the one that is shipped in models/, or the "
        "environment variable YOLOX_TRT_MODEL.",
    )
    label_path: str = option(
        "", help="Text file with one class name a line; empty for the model's own names."
    )
    devices: tuple[Device | None, ...] = option(
        [AUTO],
        parse=parse_devices,
        help="Devices that the process owns, such as [gpu, dla0, dla1]; [auto] for the GPU "
        "where there is one, else the CPU.",
    )
    placement: str = option(
        "dynamic",
        choices=("static", "balanced", "dynamic"),
        help="static: each camera on its parameter `device`. balanced: least load of the "
        "busiest device, from measured times and rates. dynamic: each image to the device that "
        "will be done first.",
    )
    contention: Contention = option(
        "none",
        help="How GPU and DLA slow each other down, for the placement: none (not known), "
        "measured (GPU x 1.31, DLA x 1.24, as a user measured on an Orin), or the factors of your "
        "board, as {gpu_with_dla: 1.31, dla_with_gpu: 1.24}.",
        parse=Contention.parse,
    )
    max_batch: int = option(
        1,
        minimum=1,
        maximum=64,
        unit="images",
        help="Images of cameras with the same model that share one run on the GPU or the "
        "CPU. A model with batch 1 built in is opened for it. The DLA always takes one.",
    )
    exit_on_broken_device: bool = option(
        False,
        help="Whether the process ends, with an error, when a device can only be brought "
        "back by a restart of the process (a broken CUDA context); for launch files that respawn "
        "it. Otherwise the other devices go on without it.",
        applies=Applies.AT_ONCE,
    )
    ingest_processes: int = option(
        0,
        minimum=0,
        maximum=64,
        help="Processes that receive the images and hand them over in shared memory; 0: "
        "this process receives them itself (about 100 images of 1920x1280 a second). Those of one "
        "camera take 1 GB at most.",
    )
    autostart: bool = option(
        True,
        applies=Applies.READ_ONLY,
        help="Whether the node configures and activates itself at its start.",
    )
    diagnostics_period: float = option(
        1.0,
        minimum=0.1,
        maximum=60.0,
        unit="s",
        applies=Applies.READ_ONLY,
        help="Time between two messages on /diagnostics.",
    )
    timeline_seconds: float = option(
        10.0,
        minimum=0.1,
        maximum=600.0,
        unit="s",
        applies=Applies.AT_ONCE,
        help="How far back the service ~/timeline reaches.",
    )
    timeline_folder: str = option(
        "",
        applies=Applies.AT_ONCE,
        help="Folder that ~/timeline writes into; empty for the working directory.",
    )
    nvtx: bool = option(
        False,
        help="Whether the devices' work is marked with NVTX ranges for Nsight Systems.",
    )

    detector: DetectorOptions
    scheduler: SchedulerOptions

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ExecutorParameters:
        """Make the parameters of plain values, as CameraParameters.of does."""
        scheduler, detector = (
            {field: each.typed(values[each.name]) for field, each in options.items()}
            for options in (_SCHEDULER, _DETECTOR)
        )
        build = BuildOptions(calibration_cache=_CALIBRATION.typed(values[_CALIBRATION.name]))
        return _part(
            cls,
            values,
            detector=DetectorOptions(**detector, build=build),
            scheduler=SchedulerOptions(**scheduler, callback_limit=scheduler["watchdog"]),
        )

    def load_labels(self) -> tuple[str, ...] | None:
        """Read the label file: at each configure, and not whenever a parameter is set.

        Returns:
            Its names; None for the model's own.

        Raises:
            ConfigurationError: the file cannot be read, or it has no names.
        """
        declared = replace(options_of(type(self))["label_path"], parse=load_class_names)
        labels: tuple[str, ...] | None = (
            declared.typed(self.label_path) if self.label_path else None
        )
        return labels


def _part(group: type[T], values: Mapping[str, Any], **others: Any) -> T:
    """Make an option group of those plain values that are its own."""
    own = options_of(group).items()
    return group(**{name: each.typed(values[name]) for name, each in own}, **others)


def _unset(option: Option, empty: str | int, **changes: Any) -> Option:
    """Return an option that may be None for ROS 2, whose parameters always have a value.

    Args:
        option: the option.
        empty: the value that stands for None.
        changes: other attributes that differ.
    """
    parse = option.parse
    return replace(
        option,
        default=empty,
        help=f"{option.help} {'Empty' if empty == '' else empty} stands for the default.",
        choices=option.choices and (str(empty), *option.choices),
        minimum=option.minimum and 0,
        parse=lambda value: None if value == empty else parse(value) if parse else value,
        **changes,
    )


_OF_SCHEDULER, _OF_DETECTOR = options_of(SchedulerOptions), options_of(DetectorOptions)
#: Parameters of `multi_camera` that other rooms declare, by their field there.
_SCHEDULER = {
    # Longer than between two images of a camera, it would only delay them.
    "batch_window": replace(_OF_SCHEDULER["batch_window"], maximum=1.0),
    "watchdog": replace(
        _OF_SCHEDULER["watchdog"],
        help=f"{_OF_SCHEDULER['watchdog'].help} A camera whose result has not been published for "
        "this long no longer holds up its device.",
    ),
}
_DETECTOR = {
    "engine": _OF_DETECTOR["engine"],
    "precision": _unset(_OF_DETECTOR["precision"], ""),
    "preprocessing": _unset(_OF_DETECTOR["preprocessing"], AUTO),
    "engine_cache": _unset(_OF_DETECTOR["engine_cache"], ""),
    "threads": _unset(_OF_DETECTOR["threads"], 0, name="cpu_threads", maximum=256),
}
_CALIBRATION = _unset(options_of(BuildOptions)["calibration_cache"], "")

#: Parameters of every camera node, and of the node `multi_camera`, by name.
CAMERA_OPTIONS: Mapping[str, Option] = {
    **options_of(CameraParameters),
    **options_of(StreamConfig),
    **options_of(PostprocessOptions),
}
EXECUTOR_OPTIONS: Mapping[str, Option] = {
    **options_of(ExecutorParameters),
    **{each.name: each for each in (*_DETECTOR.values(), _CALIBRATION, *_SCHEDULER.values())},
}

#: Autoware's names (autoware_tensorrt_yolox): name -> (name here, how its value is turned).
#: An entry whose value turns into None changes nothing (dla_core_id -1: no DLA).
DEPRECATED_ALIASES: dict[str, tuple[str, Any]] = {
    "model_path": ("model", lambda value: value),
    "calibration_cache_path": ("calibration_cache", lambda value: value),
    "gpu_id": ("device", lambda value: str(Device("gpu", int(value)))),
    "dla_core_id": ("device", lambda value: f"dla{value}" if int(value) >= 0 else None),
    "is_publish_debug_image": ("publish_annotated", lambda value: value),
}


def _table(options: Mapping[str, Option]) -> list[str]:
    lines = [
        "| parameter | type | default | range | change applies | description |",
        "|---|---|---|---|---|---|",
    ]
    for each in options.values():
        default = each.default
        if isinstance(default, bool):
            shown = str(default).lower()
        elif isinstance(default, list):
            shown = "[" + ", ".join(map(str, default)) + "]"
        else:
            shown = str(default) if default != "" else "''"
        unit = f" {each.unit}" if each.unit and not isinstance(default, list) else ""
        lines.append(
            f"| `{each.name}` | {each.kind.value} | `{shown}`{unit} | {each.range_text} "
            f"| {each.applies.value} | {each.help} |"
        )
    return lines


def parameters_page() -> str:
    """Return docs/parameters.md; `yolox_trt parameters` prints it."""
    aliases = [f"| `{old}` | `{new}` |" for old, (new, _) in sorted(DEPRECATED_ALIASES.items())]
    lines = [
        "# Parameters",
        "",
        "Made from the declarations of the options by `yolox_trt parameters`; "
        "a test checks that it is fresh.",
        "",
        "A value of the wrong type or out of its range is refused, and the answer names the range. "
        "An integer is taken where a double is expected. `at the next configure` means: "
        "`ros2 lifecycle set /multi_camera deactivate`, `cleanup`, `configure`, `activate`. "
        "A parameter in a YAML file that no node of the process knows is reported at the start.",
        "",
        "## Camera nodes",
        "",
        *_table(CAMERA_OPTIONS),
        "",
        "## The node `multi_camera`",
        "",
        *_table(EXECUTOR_OPTIONS),
        "",
        "## Autoware's names",
        "",
        "Taken with a warning where a YAML file written for autoware_tensorrt_yolox has them:",
        "",
        "| name | here |",
        "|---|---|",
        *aliases,
        "",
    ]
    return "\n".join(lines)
