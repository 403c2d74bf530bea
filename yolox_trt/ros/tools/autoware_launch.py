# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Autoware's launch arguments -> one multi_camera for all cameras. Imports `launch`, `launch_ros`.

Autoware includes yolox.launch.xml once for each camera, and starts a process each time. Here each
include adds a camera; when the whole launch description has been visited, one process starts for
all cameras of a namespace.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import launch.logging
from launch.actions import OpaqueFunction, TimerAction

from launch import LaunchContext
from yolox_trt.ros.nodes.autoware_parameters import DEPRECATED_ALIASES
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS, EXECUTOR_OPTIONS
from yolox_trt.ros.tools.launch_actions import (
    in_words_of_launch,
    multi_camera,
    namespace_of,
    substitute,
    text_values,
)
from yolox_trt.ros.tools.launch_arguments import (
    EXECUTOR_NODE,
    file_in_memory,
    parameter_text,
    plain_value,
    read_config,
)

#: Arguments that are parameters; and those that count where the files come from manifests.
PARAMETERS = (
    "label_path",
    "semantic_segmentation_color_map_path",
    "roi_remap_path",
    "roi_to_semantic_segmentation_remap_path",
    "build_only",
)
WITH_MANIFEST = ("config_dir", "model_dir", "build_only")
#: Arguments that name parameter files; the later one wins.
FILES = ("yolox_param_path", "ml_package_param_path")
#: Argument that names a topic -> the camera's parameter.
TOPICS = {
    "input/image": "image_topic",
    "output/objects": "objects_topic",
    "output/mask": "mask_topic",
}

#: In the launch context: namespace -> its process.
_KEY = "yolox_trt_autoware"


@dataclasses.dataclass
class _Process:
    """The cameras of a namespace, while the launch description is visited.

    Attributes:
        values: launch arguments, as of the first camera.
        files: parameter files of the first camera.
        before: parameter files that those go before.
        sections: node, or "/**" for all -> parameters.
        remaps: ROS arguments.
        warnings: what was told.
    """

    values: dict[str, str]
    files: list[str]
    before: list[str]
    sections: dict[str, dict[str, Any]]
    remaps: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)


def add_camera(context: LaunchContext) -> list[Any]:
    """Add the camera of yolox.launch.xml's arguments to the process of its namespace.

    Raises:
        RuntimeError: a bad value, or a parameter file that cannot be read.
    """
    values = text_values(context)
    processes = context.get_locals_as_dict().get(_KEY, {})
    context.extend_globals({_KEY: processes})
    namespace = namespace_of(context, "")
    first = namespace not in processes
    if first:
        processes[namespace] = _new_process(context, values)
    process = processes[namespace]
    name = values["yolox_node_name"]
    camera = process.sections[name] = {
        "transport": "compressed" if values["use_decompress"] == "true" else "raw",
        **{own: values[theirs] for theirs, own in TOPICS.items() if values.get(theirs)},
    }
    executor = process.sections[EXECUTOR_NODE]
    executor["cameras"].append(name)
    names = WITH_MANIFEST if values.get("config_dir") else PARAMETERS
    if names is PARAMETERS and (
        executor.setdefault("model", values["model_path"]) != values["model_path"]
    ):
        camera["model"] = values["model_path"]
    with in_words_of_launch():
        if (files := _files(values)) != process.files:
            # What all cameras share is in the process's files; this one differs in its own.
            for path in files:
                _, sections = read_config(path, partial(substitute, context))
                for section in sections.values():
                    found = section.get("ros__parameters") or {}
                    camera |= {k: v for k, v in found.items() if k in CAMERA_OPTIONS}
        reasons = [_place(each, values.get(each, ""), camera, executor) for each in names]
    for line in reasons:
        if line and line not in process.warnings:
            process.warnings.append(line)
            launch.logging.get_logger("multi_camera.launch").warning(line)
    # After everything that is visited now: other includes add their cameras before.
    start = OpaqueFunction(function=_start, args=[namespace])
    return [TimerAction(period=0.0, actions=[start])] if first else []


def _new_process(context: LaunchContext, values: dict[str, str]) -> _Process:
    remaps = context.launch_configurations.get("ros_remaps", [])
    return _Process(
        values={name: text for name, text in values.items() if name not in ("config", "model")},
        files=_files(values),
        before=_files_of_parents(context),
        sections={EXECUTOR_NODE: {"preset": "autoware", "cameras": []}},
        remaps=[word for old, new in remaps for word in ("-r", f"{old}:={new}")],
    )


def _files_of_parents(context: LaunchContext) -> list[str]:
    """Return what SetParameter and SetParametersFromFile have set, as parameter files."""
    given = context.launch_configurations.get("global_params", [])
    single: dict[str, Any] = dict(each for each in given if isinstance(each, tuple))
    files = [str(each) for each in given if not isinstance(each, tuple)]
    return files + ([file_in_memory(parameter_text({"/**": single}))] if single else [])


def _files(values: dict[str, str]) -> list[str]:
    return [values[name] for name in FILES if values.get(name)]


def _place(name: str, text: str, camera: dict[str, Any], executor: dict[str, Any]) -> str:
    """Give a value to the camera where it has such a parameter, else to the process.

    Returns:
        Why it is left out; "" where it is not.
    """
    if text in ("", "false"):
        return ""
    if name in DEPRECATED_ALIASES:
        name, _ = DEPRECATED_ALIASES[name]
    for options, section in ((CAMERA_OPTIONS, camera), (EXECUTOR_OPTIONS, executor)):
        if name in options:
            value = plain_value(options[name], text)
            if section.setdefault(name, value) != value:
                return f"{name}:={text}: the process has {section[name]}, of a camera before"
            return ""
    return f"{name}:={text} has no meaning for multi_camera"


def _start(context: LaunchContext, namespace: str) -> list[Any]:
    process = context.get_locals_as_dict()[_KEY].pop(namespace)
    return multi_camera(
        context,
        process.values,
        namespace=namespace,
        files=[*process.before, *process.files],
        sections=process.sections,
        arguments=process.remaps,
    )
