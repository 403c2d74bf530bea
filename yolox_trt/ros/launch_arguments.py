# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Launch arguments -> a parameter file of multi_camera. Imports neither ROS nor launch."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.ros.parameter_spec import ParameterKind, ParameterSpec
from yolox_trt.ros.parameters import CAMERA_PARAMETERS, EXECUTOR_PARAMETERS

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
        spec = _spec(node, parameter)
        overrides.setdefault(node, {})[parameter] = spec.normalise(_value(spec, text))
    return overrides


def write_parameter_file(overrides: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write a ROS parameter file that reaches the nodes in any namespace.

    ROS 2 launch leaves its own parameter files in the temporary folder as well: the process that
    reads this one starts later, and may be started again.
    """
    sections = {
        f"/**/{node}": {"ros__parameters": dict(values)} for node, values in overrides.items()
    }
    with tempfile.NamedTemporaryFile(
        "w", prefix="yolox_trt_launch_", suffix=".yaml", delete=False, encoding="utf-8"
    ) as file:
        yaml.safe_dump(sections, file)
    return Path(file.name)


def _spec(node: str, parameter: str) -> ParameterSpec:
    specs = EXECUTOR_PARAMETERS if node == EXECUTOR_NODE else CAMERA_PARAMETERS
    for spec in specs:
        if spec.name == parameter:
            return spec
    raise ConfigurationError(
        f"launch argument '{node}.{parameter}'",
        expected=f"a parameter of {node}: {', '.join(spec.name for spec in specs)}",
        fix="see docs/parameters.md",
    )


def _value(spec: ParameterSpec, text: str) -> Any:
    """Return a launch argument's text as a value; arrays are written [a, b] or a,b."""
    if spec.kind is ParameterKind.STRING:
        return text
    if spec.kind is ParameterKind.STRING_ARRAY:
        # Entries such as person:0.5 would become mappings in YAML.
        items = (item.strip().strip("'\"") for item in text.strip().strip("[]").split(","))
        return [item for item in items if item]
    if spec.kind is ParameterKind.INTEGER_ARRAY and not text.startswith("["):
        text = f"[{text}]"
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
