# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of every parameter of the process `multi_camera`. docs/parameters.md is made of them.

This module imports no ROS: the documentation is built without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from yolox_trt.core.contention import Contention
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.model_spec import PREPROCESSING_PRESETS
from yolox_trt.core.roi import Roi
from yolox_trt.ros.parameter_spec import Applies, ParameterKind, ParameterSpec

#: `device` of a camera that leaves the choice to the placement policy.
AUTO = "auto"


def parse_device(text: str, *, name: str = "device") -> Device | None:
    """Read the parameter `device`: a Device, or None for `auto`.

    Args:
        text: the value.
        name: the parameter's name, for the error.

    Raises:
        ConfigurationError: neither `auto` nor a device's name.
    """
    if text in ("", AUTO):
        return None
    try:
        return Device.parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(
            error.found, expected=f"{AUTO}, {error.expected}", fix=f"set the parameter `{name}`"
        ) from None


def parse_roi(values: Sequence[int]) -> Roi | None:
    """Read the parameter `roi`: [x, y, width, height] in source pixels; [] or four zeros for None.

    Raises:
        ConfigurationError: another number of values, or no rectangle.
    """
    if not any(values):
        return None
    if len(values) != 4:
        raise ConfigurationError(
            f"roi = {list(values)}",
            expected="[x, y, width, height] in pixels, or [] for the whole image",
            fix="set the parameter `roi`",
        )
    return Roi(*values)


def parse_pairs(name: str, values: Iterable[str]) -> dict[str, str]:
    """Read a string array of `key:value` entries; empty entries are left out.

    Args:
        name: the parameter's name, for the error.
        values: the entries; the last colon separates.

    Raises:
        ConfigurationError: an entry without a key, a colon or a value.
    """
    pairs: dict[str, str] = {}
    for entry in values:
        if not entry.strip():
            continue
        key, colon, value = entry.rpartition(":")
        if not (key.strip() and colon and value.strip()):
            raise ConfigurationError(
                f"{name} entry '{entry}'",
                expected="class:value, such as person:0.5",
                fix=f"set the parameter `{name}`",
            )
        pairs[key.strip()] = value.strip()
    return pairs


def parse_class_thresholds(values: Iterable[str]) -> dict[str, float]:
    """Read `class_thresholds`: entries `class:threshold`, class a name or a number.

    Raises:
        ConfigurationError: an entry of another form, or a threshold outside 0 to 1.
    """
    thresholds: dict[str, float] = {}
    for key, text in parse_pairs("class_thresholds", values).items():
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not 0.0 <= value <= 1.0:
            raise ConfigurationError(
                f"class_thresholds entry '{key}:{text}'",
                expected="a threshold from 0 to 1",
                fix="set the parameter `class_thresholds`",
            )
        thresholds[key] = value
    return thresholds


#: Names of classes in an error.
_CLASSES_SHOWN = 10


def class_thresholds_by_id(
    thresholds: dict[str, float], class_names: Sequence[str], num_classes: int
) -> dict[int, float]:
    """Turn class names (or numbers) into class ids.

    Raises:
        ConfigurationError: a class that the model does not have.
    """
    ids: dict[int, float] = {}
    for key, value in thresholds.items():
        if key in class_names:
            ids[class_names.index(key)] = value
        elif key.isdecimal() and int(key) < num_classes:
            ids[int(key)] = value
        else:
            known = ", ".join(class_names[:_CLASSES_SHOWN]) or f"0 to {num_classes - 1}"
            if len(class_names) > _CLASSES_SHOWN:
                known += f" and {len(class_names) - _CLASSES_SHOWN} more"
            raise ConfigurationError(
                f"class_thresholds entry for class '{key}'",
                expected=f"a class of the model: {known}",
                fix="set the parameter `class_thresholds`",
            )
    return ids


#: A topic's name as ROS 2 takes it, where the substitutions of _SUBSTITUTION stand for a letter.
_TOPIC = re.compile(r"(?:~?/)?[A-Za-z_][A-Za-z0-9_]*(?:/[A-Za-z_][A-Za-z0-9_]*)*")
_SUBSTITUTION = re.compile(r"\{(?:node|ns|namespace)\}")


def check_topic(text: str, *, fix: str = "set the parameter `image_topic`") -> None:
    """Check the name of a topic (https://design.ros2.org/articles/topic_and_service_names.html).

    Args:
        text: absolute, relative or below the node (~/).
        fix: what mends it, for the error.

    Raises:
        ConfigurationError: ROS 2 would not take it.
    """
    if not _TOPIC.fullmatch(_SUBSTITUTION.sub("x", text)):
        raise ConfigurationError(
            f"topic name '{text}'",
            expected="letters, digits and underscores between single slashes, such as "
            "/front/image_raw or ~/image_raw; no part begins with a digit; of substitutions "
            "{node}, {ns} and {namespace}",
            fix=fix,
        )


def _check_names(name: str, values: Sequence[str]) -> None:
    """Check camera names: valid ROS node names, each once."""
    for value in values:
        if not value.isidentifier() or not value.isascii() or values.count(value) > 1:
            raise ConfigurationError(
                f"{name} entry '{value}'",
                expected="letters, digits and underscores, not starting with a digit, each once",
                fix=f"set the parameter `{name}`",
            )


_KIND = ParameterKind

#: Parameters of every camera node.
CAMERA_PARAMETERS: tuple[ParameterSpec, ...] = (
    ParameterSpec(
        name="enabled",
        kind=_KIND.BOOL,
        default=True,
        applies=Applies.AT_ONCE,
        description="Whether the camera is subscribed and its images are processed.",
    ),
    ParameterSpec(
        name="image_topic",
        kind=_KIND.STRING,
        default="~/image_raw",
        check=check_topic,
        description="Topic of the camera's images; ~ stands for the camera node's own name.",
    ),
    ParameterSpec(
        name="transport",
        kind=_KIND.STRING,
        default="raw",
        choices=("raw", "compressed"),
        description="raw: sensor_msgs/Image on image_topic. compressed: "
        "sensor_msgs/CompressedImage on image_topic/compressed, as image_transport names it.",
    ),
    ParameterSpec(
        name="on_demand",
        kind=_KIND.BOOL,
        default=True,
        applies=Applies.AT_ONCE,
        description="Subscribe the camera only while somebody listens to one of its outputs.",
    ),
    ParameterSpec(
        name="qos_reliability",
        kind=_KIND.STRING,
        default="best_effort",
        choices=("best_effort", "reliable"),
        description="Reliability of the image subscription. reliable needs a reliable publisher.",
    ),
    ParameterSpec(
        name="qos_depth",
        kind=_KIND.INTEGER,
        default=1,
        minimum=1,
        maximum=1000,
        unit="images",
        description="Depth of the middleware's own queue, in front of queue_depth.",
    ),
    ParameterSpec(
        name="queue_depth",
        kind=_KIND.INTEGER,
        default=1,
        minimum=1,
        maximum=1000,
        unit="images",
        applies=Applies.AT_ONCE,
        description="Images that wait for a device at most. 1: only the newest waits. With "
        "`ingest_processes`, 1 GB of images at most.",
    ),
    ParameterSpec(
        name="overflow",
        kind=_KIND.STRING,
        default="drop_oldest",
        choices=("drop_oldest", "drop_newest"),
        applies=Applies.AT_ONCE,
        description="Which image is dropped when the queue is full.",
    ),
    ParameterSpec(
        name="max_rate",
        kind=_KIND.DOUBLE,
        default=0.0,
        minimum=0.0,
        maximum=1000.0,
        unit="Hz",
        applies=Applies.AT_ONCE,
        description="Images processed a second at most; 0 for all. The others are counted.",
    ),
    ParameterSpec(
        name="stale_after",
        kind=_KIND.DOUBLE,
        default=0.0,
        minimum=0.0,
        maximum=3600.0,
        unit="s",
        applies=Applies.AT_ONCE,
        description="An image that has waited longer since it arrived is dropped before work is "
        "spent on it; 0 for never.",
    ),
    ParameterSpec(
        name="deadline",
        kind=_KIND.DOUBLE,
        default=0.0,
        minimum=0.0,
        maximum=3600.0,
        unit="s",
        applies=Applies.AT_ONCE,
        description="Time from arrival to result that the camera asks for; images with the "
        "earliest deadline go first within a priority. 0 for none.",
    ),
    ParameterSpec(
        name="expected_rate",
        kind=_KIND.DOUBLE,
        default=0.0,
        minimum=0.0,
        maximum=1000.0,
        unit="Hz",
        applies=Applies.AT_ONCE,
        description="Rate that the placement reckons with until it has measured the camera; 0 for "
        "unknown.",
    ),
    ParameterSpec(
        name="priority",
        kind=_KIND.INTEGER,
        default=0,
        minimum=-100,
        maximum=100,
        applies=Applies.AT_ONCE,
        description="Cameras of a higher priority are served first.",
    ),
    ParameterSpec(
        name="weight",
        kind=_KIND.INTEGER,
        default=1,
        minimum=1,
        maximum=1000,
        applies=Applies.AT_ONCE,
        description="Share among the cameras of one priority when a device has too much to do.",
    ),
    ParameterSpec(
        name="device",
        kind=_KIND.STRING,
        default=AUTO,
        check=parse_device,
        applies=Applies.AT_ONCE,
        description="Device that serves the camera: gpu, gpu:1, dla0, dla1, cpu, or auto: the "
        "placement policy chooses.",
    ),
    ParameterSpec(
        name="model",
        kind=_KIND.STRING,
        default="",
        description="ONNX or engine file of this camera; empty for the process's `model`.",
    ),
    ParameterSpec(
        name="allow_model_change",
        kind=_KIND.BOOL,
        default=False,
        applies=Applies.AT_ONCE,
        description="Whether the camera may move to a device that runs another model, or the same "
        "one in another precision, when its own is overloaded or out of service.",
    ),
    ParameterSpec(
        name="score_threshold",
        kind=_KIND.DOUBLE,
        default=0.3,
        minimum=0.0,
        maximum=1.0,
        applies=Applies.AT_ONCE,
        description="Least objectness x class probability of a detection.",
    ),
    ParameterSpec(
        name="class_thresholds",
        kind=_KIND.STRING_ARRAY,
        default=[],
        applies=Applies.AT_ONCE,
        check=parse_class_thresholds,
        description="Score thresholds of single classes, as class:threshold (class a name or a "
        "number), such as [person:0.25, traffic light:0.4].",
    ),
    ParameterSpec(
        name="nms_threshold",
        kind=_KIND.DOUBLE,
        default=0.45,
        minimum=0.0,
        maximum=1.0,
        applies=Applies.AT_ONCE,
        description="IoU above which the box with the lower score is dropped.",
    ),
    ParameterSpec(
        name="class_agnostic",
        kind=_KIND.BOOL,
        default=False,
        applies=Applies.AT_ONCE,
        description="Whether boxes of different classes suppress each other.",
    ),
    ParameterSpec(
        name="max_detections",
        kind=_KIND.INTEGER,
        default=300,
        minimum=1,
        maximum=1000,
        applies=Applies.AT_ONCE,
        description="The best N detections of an image are published.",
    ),
    ParameterSpec(
        name="roi",
        kind=_KIND.INTEGER_ARRAY,
        default=[],
        applies=Applies.AT_ONCE,
        check=parse_roi,
        unit="pixels",
        description="Part of the image that the network sees, as [x, y, width, height]; [] or "
        "four zeros for the whole image. Boxes stay in pixels of the whole image.",
    ),
    ParameterSpec(
        name="publish_annotated",
        kind=_KIND.BOOL,
        default=True,
        applies=Applies.AT_ONCE,
        description="Whether ~/annotated is drawn while somebody subscribes to it.",
    ),
    ParameterSpec(
        name="publish_objects",
        kind=_KIND.BOOL,
        default=False,
        description="Whether ~/objects is published for Autoware "
        "(tier4_perception_msgs/DetectedObjectsWithFeature).",
    ),
    ParameterSpec(
        name="class_remap",
        kind=_KIND.STRING_ARRAY,
        default=[],
        description="Autoware labels of single classes for ~/objects, as class:LABEL, such as "
        "[dog:ANIMAL]; it goes before the built-in table. Classes without a label are UNKNOWN.",
    ),
    ParameterSpec(
        name="class_names",
        kind=_KIND.STRING_ARRAY,
        default=[],
        applies=Applies.BY_NODE,
        description="Class names of the model that serves the camera, in the order of its outputs. "
        "~/vision_info points here.",
    ),
)

#: Parameters of the node `multi_camera`.
EXECUTOR_PARAMETERS: tuple[ParameterSpec, ...] = (
    ParameterSpec(
        name="cameras",
        kind=_KIND.STRING_ARRAY,
        default=["camera"],
        applies=Applies.AT_ONCE,
        check=lambda values: _check_names("cameras", values),
        description="Names of the camera nodes. Changed at run time, cameras are added and "
        "removed.",
    ),
    ParameterSpec(
        name="model",
        kind=_KIND.STRING,
        default="",
        description="ONNX or engine file; empty for the one that is shipped in models/, or the "
        "environment variable YOLOX_TRT_MODEL.",
    ),
    ParameterSpec(
        name="label_path",
        kind=_KIND.STRING,
        default="",
        description="Text file with one class name a line; empty for the model's own names.",
    ),
    ParameterSpec(
        name="preprocessing",
        kind=_KIND.STRING,
        default=AUTO,
        choices=(AUTO, *PREPROCESSING_PRESETS),
        description="What the network expects in its input; auto reads the ONNX metadata and "
        "falls back to bgr (YOLOX from 0.1.1 on). rgb_imagenet is YOLOX 0.1.0.",
    ),
    ParameterSpec(
        name="devices",
        kind=_KIND.STRING_ARRAY,
        default=[AUTO],
        check=lambda values: [parse_device(value, name="devices") for value in values],
        description="Devices that the process owns, such as [gpu, dla0, dla1]; [auto] for the GPU "
        "where there is one, else the CPU.",
    ),
    ParameterSpec(
        name="engine",
        kind=_KIND.STRING,
        default=AUTO,
        choices=(AUTO, "tensorrt", "onnxruntime", "simulated"),
        description="What runs the network; auto takes TensorRT where it works, else ONNX Runtime.",
    ),
    ParameterSpec(
        name="precision",
        kind=_KIND.STRING,
        default="",
        choices=("", "fp32", "fp16", "int8"),
        description="Precision of TensorRT engines that are built from an ONNX file; empty for the "
        "engine's default. ONNX Runtime runs the file as it is.",
    ),
    ParameterSpec(
        name="calibration_cache",
        kind=_KIND.STRING,
        default="",
        description="INT8 calibration cache, as `yolox_trt calibrate` writes it.",
    ),
    ParameterSpec(
        name="engine_cache",
        kind=_KIND.STRING,
        default="",
        description="Folder of built engines; empty for ~/.cache/yolox_trt.",
    ),
    ParameterSpec(
        name="cpu_threads",
        kind=_KIND.INTEGER,
        default=0,
        minimum=0,
        maximum=256,
        description="Threads of ONNX Runtime on the CPU; 0 for one a core.",
    ),
    ParameterSpec(
        name="placement",
        kind=_KIND.STRING,
        default="dynamic",
        choices=("static", "balanced", "dynamic"),
        description="static: each camera on its parameter `device`. balanced: least load of the "
        "busiest device, from measured times and rates. dynamic: each image to the device that "
        "will be done first.",
    ),
    ParameterSpec(
        name="contention",
        kind=_KIND.STRING,
        default="none",
        description="How GPU and DLA slow each other down, for the placement: none (not known), "
        "measured (GPU x 1.31, DLA x 1.24, as a user measured on an Orin), or the factors of your "
        "board, as {gpu_with_dla: 1.31, dla_with_gpu: 1.24}.",
        check=Contention.parse,
    ),
    ParameterSpec(
        name="max_batch",
        kind=_KIND.INTEGER,
        default=1,
        minimum=1,
        maximum=64,
        unit="images",
        description="Images of cameras with the same model that share one run on the GPU or the "
        "CPU. A model with batch 1 built in is opened for it. The DLA always takes one.",
    ),
    ParameterSpec(
        name="batch_window",
        kind=_KIND.DOUBLE,
        default=0.0,
        minimum=0.0,
        maximum=1.0,
        unit="s",
        description="How long a run waits for further images of its batch.",
    ),
    ParameterSpec(
        name="watchdog",
        kind=_KIND.DOUBLE,
        default=5.0,
        minimum=0.0,
        maximum=3600.0,
        unit="s",
        description="A device that has not answered for this long is taken out of service and "
        "tried again later; a camera whose result has not been published for this long no longer "
        "holds up its device. 0 for never.",
    ),
    ParameterSpec(
        name="exit_on_broken_device",
        kind=_KIND.BOOL,
        default=False,
        description="Whether the process ends, with an error, when a device can only be brought "
        "back by a restart of the process (a broken CUDA context); for launch files that respawn "
        "it. Otherwise the other devices go on without it.",
        applies=Applies.AT_ONCE,
    ),
    ParameterSpec(
        name="ingest_processes",
        kind=_KIND.INTEGER,
        default=0,
        minimum=0,
        maximum=64,
        description="Processes that receive the images and hand them over in shared memory; 0: "
        "this process receives them itself (about 100 images of 1920x1280 a second).",
    ),
    ParameterSpec(
        name="autostart",
        kind=_KIND.BOOL,
        default=True,
        applies=Applies.READ_ONLY,
        description="Whether the node configures and activates itself at its start.",
    ),
    ParameterSpec(
        name="diagnostics_period",
        kind=_KIND.DOUBLE,
        default=1.0,
        minimum=0.1,
        maximum=60.0,
        unit="s",
        applies=Applies.READ_ONLY,
        description="Time between two messages on /diagnostics.",
    ),
    ParameterSpec(
        name="timeline_seconds",
        kind=_KIND.DOUBLE,
        default=10.0,
        minimum=0.1,
        maximum=600.0,
        unit="s",
        applies=Applies.AT_ONCE,
        description="How far back the service ~/timeline reaches.",
    ),
    ParameterSpec(
        name="timeline_folder",
        kind=_KIND.STRING,
        default="",
        applies=Applies.AT_ONCE,
        description="Folder that ~/timeline writes into; empty for the working directory.",
    ),
    ParameterSpec(
        name="nvtx",
        kind=_KIND.BOOL,
        default=False,
        description="Whether the devices' work is marked with NVTX ranges for Nsight Systems.",
    ),
)

#: Autoware's names (autoware_tensorrt_yolox): name -> (name here, how its value is turned).
#: An entry whose value turns into None changes nothing (dla_core_id -1: no DLA).
DEPRECATED_ALIASES: dict[str, tuple[str, Any]] = {
    "model_path": ("model", lambda value: value),
    "calibration_cache_path": ("calibration_cache", lambda value: value),
    "gpu_id": ("device", lambda value: str(Device("gpu", int(value)))),
    "dla_core_id": ("device", lambda value: f"dla{value}" if int(value) >= 0 else None),
    "is_publish_debug_image": ("publish_annotated", lambda value: value),
}

#: Names that ROS 2 itself gives to every node.
ROS_PARAMETERS = ("use_sim_time", "start_type_description_service")
ROS_PARAMETER_PREFIXES = ("qos_overrides.",)
#: Topics of ROS 2 itself, whose QoS a `/**` section may override for nodes of other kinds.
ROS_TOPICS = ("/clock", "/parameter_events", "/rosout")


def _table(specs: Sequence[ParameterSpec]) -> list[str]:
    lines = [
        "| parameter | type | default | range | change applies | description |",
        "|---|---|---|---|---|---|",
    ]
    for spec in specs:
        default = spec.default
        if isinstance(default, bool):
            shown = str(default).lower()
        elif isinstance(default, list):
            shown = "[" + ", ".join(map(str, default)) + "]"
        else:
            shown = str(default) if default != "" else "''"
        unit = f" {spec.unit}" if spec.unit and not isinstance(default, list) else ""
        lines.append(
            f"| `{spec.name}` | {spec.kind.value} | `{shown}`{unit} | {spec.range_text} "
            f"| {spec.applies.value} | {spec.description} |"
        )
    return lines


def parameters_page() -> str:
    """Return docs/parameters.md; `yolox_trt parameters` prints it."""
    aliases = [f"| `{old}` | `{new}` |" for old, (new, _) in sorted(DEPRECATED_ALIASES.items())]
    lines = [
        "# Parameters",
        "",
        "Made from the tables in `yolox_trt/ros/nodes/parameters.py` by `yolox_trt parameters`; "
        "a test checks that it is fresh.",
        "",
        "A value of the wrong type or out of its range is refused, and the answer names the range. "
        "An integer is taken where a double is expected. `at the next configure` means: "
        "`ros2 lifecycle set /multi_camera deactivate`, `cleanup`, `configure`, `activate`. "
        "A parameter in a YAML file that no node of the process knows is reported at the start.",
        "",
        "## Camera nodes",
        "",
        *_table(CAMERA_PARAMETERS),
        "",
        "## The node `multi_camera`",
        "",
        *_table(EXECUTOR_PARAMETERS),
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
