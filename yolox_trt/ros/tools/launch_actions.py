# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What the files in launch/ are made of. Imports `launch` and `launch_ros`.

def generate_launch_description():
return LaunchDescription([*declared(), OpaqueFunction(function=multi_camera)])
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import launch.logging
from launch.actions import DeclareLaunchArgument
from launch.frontend.parse_substitution import parse_substitution
from launch.utilities import perform_substitutions
from launch_ros.actions import LoadComposableNodes, Node
from launch_ros.descriptions import ComposableNode
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from launch import LaunchContext
from yolox_trt.core.errors import ConfigurationError, YoloxTrtError
from yolox_trt.core.option import Option
from yolox_trt.ros.middleware import transport_settings
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS, EXECUTOR_OPTIONS
from yolox_trt.ros.tools.launch_arguments import (
    EXECUTOR_NODE,
    OTHERS,
    PARAMETERS,
    ProcessSettings,
    computer_sections,
    default_values,
    process_settings,
)

#: Seconds between the end of a process and its next start, with respawn.
RESPAWN_DELAY = 2.0
#: Arguments of the launch files alone: name -> default, help.
_LAUNCH = {
    "large_images": ("true", "Whether Fast DDS and malloc are set up for large images."),
    "respawn": ("false", "Whether the process is started again after it has ended."),
    "container": (
        "",
        "Name of a running multi_camera, such as /multi_camera, into which `cameras` are loaded "
        "with what the arguments give; empty: a process of its own.",
    ),
}


def declared(*without: str, **defaults: str) -> list[DeclareLaunchArgument]:
    """Declare the arguments of multi_camera.

    Args:
        without: names of those that a launch file does not have.
        defaults: other defaults by name.
    """
    given = default_values() | defaults
    texts = {name: (given.get(name, ""), text) for name, text in OTHERS.items()}
    for name in PARAMETERS:
        option = EXECUTOR_OPTIONS[name]
        choices = f" {option.range_text}." if option.choices else ""
        text = f"{option.help}{choices} Empty: as in the parameter file."
        texts[name] = (given.get(name, ""), text)
    return [
        DeclareLaunchArgument(
            name,
            default_value=default,
            description=text,
            **({"choices": ["true", "false"]} if default in ("true", "false") else {}),
        )
        for name, (default, text) in {**texts, **_LAUNCH}.items()
        if name not in without
    ]


def text_values(context: LaunchContext) -> dict[str, str]:
    """Return the launch arguments and variables in force."""
    return {
        name: value
        for name, value in context.launch_configurations.items()
        if isinstance(value, str)
    }


def substitute(context: LaunchContext, text: str) -> str:
    """Replace the $(...) of a parameter file as `allow_substs` does."""
    return str(perform_substitutions(context, parse_substitution(text)))


@contextlib.contextmanager
def in_words_of_launch() -> Iterator[None]:
    """Let errors name options as launch arguments; launch shows an exception in one line.

    Raises:
        RuntimeError: instead of an error of this package.
    """
    try:
        yield
    except YoloxTrtError as error:
        raise RuntimeError(error.text(_argument)) from error


def namespace_of(context: LaunchContext, namespace: str) -> str:
    """Return a namespace within those that a parent has pushed, absolute."""
    pushed = context.launch_configurations.get("ros_namespace")
    return str(make_namespace_absolute(prefix_namespace(pushed, namespace)) or "/")


def multi_camera(
    context: LaunchContext,
    values: Mapping[str, str] | None = None,
    *,
    namespace: str | None = None,
    files: Sequence[str] = (),
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    arguments: Sequence[str] = (),
) -> list[Any]:
    """Start the process, or load cameras into one that runs.

    Args:
        context: has the launch arguments.
        values: arguments instead of those.
        namespace: absolute; None for `namespace` within those that a parent has pushed.
        files: parameter files beside `config`; see process_settings.
        sections: parameters beside those of the arguments; see process_settings.
        arguments: ROS arguments of the process.

    Raises:
        RuntimeError: a bad argument, name, value or file, in the words of launch arguments.
    """
    given = text_values(context) if values is None else dict(values)
    space = namespace_of(context, given.get("namespace", "")) if namespace is None else namespace
    with in_words_of_launch():
        settings = process_settings(
            given,
            namespace=space,
            files=files,
            sections=sections,
            substitute=partial(substitute, context),
        )
        if given.get("container"):
            return [_load(settings, given["container"])]
    for line in settings.warnings:
        launch.logging.get_logger("multi_camera.launch").warning(line)
    large_images = given.get("large_images", "true") == "true"
    return [
        # No name: it would rename every node of the process.
        Node(
            package="yolox_trt",
            executable="multi_camera",
            namespace=settings.namespace or "/",
            parameters=list(settings.files),
            arguments=[
                *("--ros-args", "--log-level", given.get("log_level") or "info"),
                *arguments,
            ],
            additional_env=transport_settings() if large_images else {},
            output="screen",
            emulate_tty=True,
            respawn=given.get("respawn") == "true",
            respawn_delay=RESPAWN_DELAY,
        ),
    ]


def one_of_two_computers(context: LaunchContext) -> list[Any]:
    """Start the process of the computer `computer`, as launch/two_computers.launch.py describes.

    Raises:
        RuntimeError: see multi_camera.
    """
    given = text_values(context)
    with in_words_of_launch():
        sections = computer_sections(given, partial(substitute, context))
    return multi_camera(context, given, namespace=f"/{given['computer']}", sections=sections)


def _load(settings: ProcessSettings, container: str) -> LoadComposableNodes:
    """Load the cameras into a running multi_camera, which reads its own parameter file for them."""
    cameras = settings.overrides.get(EXECUTOR_NODE, {}).get("cameras")
    if not cameras:
        raise ConfigurationError(
            f"container:={container} without cameras",
            expected="the names of the cameras that are loaded",
            fix="give cameras:=front,rear",
        )
    everywhere = settings.overrides.get("/**", {})
    return LoadComposableNodes(
        target_container=container,
        composable_node_descriptions=[
            ComposableNode(
                package="yolox_trt",
                plugin="CameraNode",
                name=camera,
                parameters=[{**everywhere, **settings.overrides.get(camera, {})}],
            )
            for camera in cameras
        ],
    )


def _argument(option: Option) -> str:
    """Name an option as whoever gives launch arguments does."""
    if option.name in PARAMETERS:
        return f"{option.name}:="
    node = "<camera>" if option.name in CAMERA_OPTIONS else EXECUTOR_NODE
    return f"{node}.{option.name}:="
