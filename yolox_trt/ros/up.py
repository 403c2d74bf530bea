# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt up`: the launch file's work on machines without ros2 launch."""

from __future__ import annotations

import argparse
import os
import sys

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.share import shared_folder
from yolox_trt.ros.launch_arguments import parameter_overrides, write_parameter_file
from yolox_trt.ros.middleware import transport_environment


def run_up(args: argparse.Namespace) -> int:
    """Become the process multi_camera; returns only by raising.

    Raises:
        ConfigurationError: an argument that is no NAME:=VALUE, or a bad parameter.
    """
    values = {"namespace": args.namespace}
    for argument in args.arguments:
        name, separator, value = argument.partition(":=")
        if not separator:
            raise ConfigurationError(
                f"argument '{argument}'",
                expected="NAME:=VALUE, such as front.score_threshold:=0.5",
                fix="see `yolox_trt up --help`",
            )
        values[name] = value
    command = [sys.executable, "-m", "yolox_trt.ros.multi_camera", "--ros-args"]
    command += ["--params-file", args.config or str(shared_folder("config") / "multi_camera.yaml")]
    overrides = parameter_overrides(values)
    if overrides:
        command += ["--params-file", str(write_parameter_file(overrides))]
    if args.namespace:
        command += ["-r", f"__ns:=/{args.namespace.strip('/')}"]
    # The malloc settings are read when a process starts: this one becomes another.
    os.execve(sys.executable, command, transport_environment())
