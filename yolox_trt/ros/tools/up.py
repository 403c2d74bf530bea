# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The launch file's work on machines without ros2 launch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.shipped_files import shared_folder
from yolox_trt.ros.middleware import transport_environment
from yolox_trt.ros.tools.launch_arguments import parameter_files
from yolox_trt.ros.tools.options import UpOptions

#: Arguments of the launch file without a dot that are taken here.
_ARGUMENTS = ("config", "model", "cameras", "namespace", "log_level")


def run_up(options: UpOptions, say: Callable[[str], None]) -> int:
    """Become the process multi_camera; returns only by raising.

    Args:
        options: what it is started with.
        say: takes a line for each argument or section that reaches no node.

    Raises:
        ConfigurationError: an argument that is no NAME:=VALUE, a bad parameter or a bad file.
    """
    values = {
        "config": str(options.config or ""),
        "namespace": options.namespace,
        "log_level": "info",
    }
    for argument in options.arguments:
        name, separator, value = argument.partition(":=")
        if not separator or not ("." in name or name in _ARGUMENTS):
            raise ConfigurationError(
                f"argument '{argument}'",
                expected=f"NAME:=VALUE, where NAME is {', '.join(_ARGUMENTS)} or "
                "<node>.<parameter>, such as front.score_threshold:=0.5",
                fix="see `yolox_trt up --help`",
            )
        values[name] = value
    values["config"] = values["config"] or str(shared_folder("config") / "multi_camera.yaml")
    command = [sys.executable, "-m", "yolox_trt.ros.nodes.multi_camera", "--ros-args"]
    command += ["--log-level", values["log_level"]]
    files, reports = parameter_files(values)
    for line in reports:
        say(line)
    for file in files:
        command += ["--params-file", file]
    if values["namespace"]:
        command += ["-r", f"__ns:=/{values['namespace'].strip('/')}"]
    # The malloc settings are read when a process starts: this one becomes another.
    os.execve(sys.executable, command, transport_environment())
