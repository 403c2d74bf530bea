# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of the room ros: demo, replay, publish, parameters, up."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable

from yolox_trt.core.optional import require

Subparsers = argparse._SubParsersAction


def add_parsers(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the commands; ROS is imported only when one of them runs."""
    parser = subparsers.add_parser(
        "demo",
        help="four moving cameras, the real multi_camera process, a live table",
        description="Four processes publish moving photographs, multi_camera detects in them, and "
        "this process shows its results. Exit status 1 if a camera had no detection.",
    )
    parser.add_argument("--model", help="ONNX or engine file (default: the shipped one)")
    parser.add_argument("--device", default="auto", help="gpu, dla0, cpu, ... (default: auto)")
    parser.add_argument(
        "--duration", type=float, default=20.0, help="seconds to run (default: %(default)s)"
    )
    parser.add_argument(
        "--rate", type=float, default=10.0, help="pictures a second (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, default=(1920, 1280), metavar=("W", "H"), help="of a picture"
    )
    parser.add_argument("--output", default="demo_output", help="folder (default: %(default)s)")
    parser.set_defaults(run=_ros_command("yolox_trt.ros.demo", "run_demo"))

    parser = subparsers.add_parser(
        "parameters",
        help="print docs/parameters.md",
        description="Print every parameter of multi_camera and its cameras as Markdown.",
    )
    parser.set_defaults(run=_parameters)


def _ros_command(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """Return a command that needs ROS; its module is imported when it runs."""

    def run(args: argparse.Namespace) -> int:
        require("rclpy", purpose=f"`yolox_trt {args.command}`")
        require("vision_msgs", purpose=f"`yolox_trt {args.command}`")
        status: int = getattr(importlib.import_module(module), function)(args)
        return status

    return run


def _parameters(args: argparse.Namespace) -> int:
    from yolox_trt.ros.parameters import parameters_page

    print(parameters_page(), end="")
    return 0
