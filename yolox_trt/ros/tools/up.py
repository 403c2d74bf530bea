# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The launch file's work on machines without ros2 launch."""

from __future__ import annotations

import os
from collections.abc import Callable

from yolox_trt.ros.middleware import transport_environment
from yolox_trt.ros.module_command import module_command
from yolox_trt.ros.tools.launch_arguments import (
    argument_values,
    computer_sections,
    default_values,
    process_settings,
)
from yolox_trt.ros.tools.options import UpOptions


def run_up(options: UpOptions, say: Callable[[str], None]) -> int:
    """Become the process multi_camera; returns only by raising.

    Args:
        options: what it is started with.
        say: takes a line for each argument or section that reaches no node.

    Raises:
        ConfigurationError: an argument that is no NAME:=VALUE, a bad parameter or a bad file.
    """
    values = {**default_values(), "namespace": options.namespace}
    if options.config is not None:
        values["config"] = str(options.config)
    values |= argument_values(options.arguments)
    space, sections = None, None
    if options.computer:
        space = f"/{options.computer}"
        sections = computer_sections({**values, "computer": options.computer})
    settings = process_settings(values, namespace=space, sections=sections, strict=True)
    for line in settings.warnings:
        say(line)
    command = module_command("yolox_trt.ros.nodes", "--ros-args")
    command += ["--log-level", values["log_level"]]
    for file in settings.files:
        command += ["--params-file", file]
    if settings.namespace:
        command += ["-r", f"__ns:={settings.namespace}"]
    # The malloc settings are read when a process starts: this one becomes another.
    os.execve(command[0], command, transport_environment())
