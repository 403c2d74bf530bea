# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""docs/parameters.md, made of the declarations. Imports no ROS."""

from __future__ import annotations

from collections.abc import Mapping

from yolox_trt.core.option import Option
from yolox_trt.ros.nodes.autoware_parameters import DEPRECATED_ALIASES
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS, EXECUTOR_OPTIONS


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
            f"| {each.applies.value}{', within `file_folders`' * each.file} | {each.help} |"
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
        "## Other names",
        "",
        "Taken as well: those of autoware_tensorrt_yolox ([autoware.md](autoware.md)) and of "
        "image_transport.",
        "",
        "| name | here |",
        "|---|---|",
        *aliases,
        "",
    ]
    return "\n".join(lines)
