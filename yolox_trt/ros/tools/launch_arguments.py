# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Launch arguments -> a parameter file of multi_camera. Imports neither ROS nor launch."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import Kind, Option
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS, EXECUTOR_OPTIONS

#: Name of the node that owns the devices.
EXECUTOR_NODE = "multi_camera"


def parameter_overrides(values: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Read `model`, `cameras` and `<node>.<parameter>` out of launch arguments.

    Args:
        values: launch arguments by name; those of another form are left alone.

    Returns:
        Node name -> parameter -> value in the parameter's type.

    Raises:
        ConfigurationError: a parameter that the node does not have, or a bad value.
    """
    texts: dict[tuple[str, str], str] = {}
    for name in ("model", "cameras"):
        if values.get(name):
            texts[EXECUTOR_NODE, name] = values[name]
    for name, value in values.items():
        node, dot, parameter = name.partition(".")
        if dot and node.isidentifier():
            texts[node, parameter] = value
    overrides: dict[str, dict[str, Any]] = {}
    for (node, parameter), text in texts.items():
        option = _option(node, parameter)
        overrides.setdefault(node, {})[parameter] = option.plain(_value(option, text))
    return overrides


def read_parameter_file(path: str | Path) -> dict[str, Any]:
    """Read a ROS parameter file before the process does, whose own errors are hard to read.

    Returns:
        Node name, or a pattern of names, -> its section.

    Raises:
        ConfigurationError: no file, no YAML, or not node: ros__parameters: name: value.
    """
    with ConfigurationError.instead_of(
        (OSError, UnicodeDecodeError),
        f"parameter file '{path}' that cannot be read",
        expected="a YAML file such as config/multi_camera.yaml",
        fix="check the path",
    ):
        text = Path(path).read_text(encoding="utf-8")
    try:
        sections = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            where = f"line {error.problem_mark.line + 1}: {error.problem}"
        raise ConfigurationError(
            f"parameter file '{path}' that is no YAML ({where})",
            expected="a file such as config/multi_camera.yaml",
            fix="mend that line or the one before",
        ) from error
    sections = {} if sections is None else sections
    found = dict(_nodes(sections)) if isinstance(sections, dict) else {str(sections): None}
    if wrong := [name for name, parameters in found.items() if parameters is None]:
        raise ConfigurationError(
            f"parameter file '{path}' with {wrong[0]!r} that holds no ros__parameters",
            expected="node name: ros__parameters: name: value",
            fix="see config/multi_camera.yaml",
        )
    return dict(sections)


def _nodes(sections: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the names of nodes, namespaces put before them, and their parameters.

    A namespace may hold nodes in its turn; None stands for a section that holds neither.
    """
    for name, section in sections.items():
        full = f"{above}/{name.strip('/')}"
        if not isinstance(section, dict) or not section:
            yield full, None
        elif "ros__parameters" in section:
            yield full, section["ros__parameters"] or {}
        else:
            yield from _nodes(section, full)


def unknown_cameras(
    overrides: Mapping[str, Mapping[str, Any]], sections: Mapping[str, Any]
) -> list[str]:
    """Return a line for each camera that overrides name and the process will not have.

    They are reported and not refused: a camera may be added at run time.
    """
    cameras = overrides.get(EXECUTOR_NODE, {}).get("cameras")
    if cameras is None:
        cameras = EXECUTOR_OPTIONS["cameras"].default
        for name, given in _nodes(sections):
            if name.rpartition("/")[2] in (EXECUTOR_NODE, "*", "**"):
                cameras = given.get("cameras", cameras)
    return [
        f"no camera '{node}' in the parameter `cameras`; expected {', '.join(cameras) or 'none'}; "
        f"fix: the argument's name, or cameras:={','.join([*cameras, node])}"
        for node in overrides
        if node != EXECUTOR_NODE and node not in cameras
    ]


def unreached_sections(sections: Mapping[str, Any], namespace: str) -> list[str]:
    """Return a line for each section of a parameter file that no node of a namespace finds.

    ROS 2 leaves such a section out without a word, and the process runs with the defaults.
    """
    prefix = f"/{namespace.strip('/')}" if namespace.strip("/") else ""
    lines = []
    for name, _ in _nodes(sections):
        # ROS 2's patterns: /* is one part of a name, /** any number of them.
        pattern = "".join(
            {"**": "(/\\w+)*", "*": "/\\w+"}.get(part, "/" + re.escape(part))
            for part in name.strip("/").split("/")
        )
        node = name.rpartition("/")[2]
        if "*" not in node and not re.fullmatch(pattern, f"{prefix}/{node}"):
            lines.append(
                f"section '{name}' of the parameter file reaches no node in the namespace "
                f"'{prefix or '/'}'; expected {prefix}/{node}, or /**/{node} for every namespace; "
                "fix: the section's name"
            )
    return lines


def write_parameter_file(
    overrides: Mapping[str, Mapping[str, Any]], path: Path | None = None
) -> Path:
    """Write a ROS parameter file that reaches the nodes in any namespace.

    Args:
        overrides: node name, or "/**" for every node -> its parameters.
        path: the file; None for one in the temporary folder, where ROS 2 launch leaves its own
            as well: the process that reads it starts later, and may be started again.
    """
    sections = {
        node if node.startswith("/") else f"/**/{node}": {"ros__parameters": dict(values)}
        for node, values in overrides.items()
    }
    if path is None:
        with tempfile.NamedTemporaryFile(
            prefix="yolox_trt_launch_", suffix=".yaml", delete=False
        ) as file:
            path = Path(file.name)
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return path


def parameter_files(values: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Make the parameter files of multi_camera from the arguments of a launch.

    Args:
        values: the arguments; `config` and `namespace` are among them.

    Returns:
        The files, of which the later one wins; and a line for each argument or section that
        reaches no node.

    Raises:
        ConfigurationError: a parameter that a node does not have, a bad value, or a bad file.
    """
    overrides = parameter_overrides(values)
    sections = read_parameter_file(values["config"])
    files = [values["config"]]
    if overrides:
        files.append(str(write_parameter_file(overrides)))
    reports = unknown_cameras(overrides, sections)
    return files, reports + unreached_sections(sections, values["namespace"])


def _option(node: str, parameter: str) -> Option:
    options = EXECUTOR_OPTIONS if node == EXECUTOR_NODE else CAMERA_OPTIONS
    if parameter not in options:
        known, fix = [f"{node}.{name}" for name in options], "see docs/parameters.md"
        raise ConfigurationError.unknown("launch argument", f"{node}.{parameter}", known, fix=fix)
    return options[parameter]


def _value(option: Option, text: str) -> Any:
    """Return a launch argument's text as a value; arrays are written [a, b] or a,b."""
    if option.kind is Kind.STRING:
        return text
    if option.kind is Kind.STRING_ARRAY:
        # Entries such as person:0.5 would become mappings in YAML.
        items = (item.strip().strip("'\"") for item in text.strip().strip("[]").split(","))
        return [item for item in items if item]
    if option.kind is Kind.INTEGER_ARRAY and not text.startswith("["):
        text = f"[{text}]"
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
