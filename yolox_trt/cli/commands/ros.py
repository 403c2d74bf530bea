# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of the room ros: demo, up, replay, publish, parameters."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable

from yolox_trt.cli.arguments import positive_number
from yolox_trt.core.optional import require
from yolox_trt.evaluation import bench

Subparsers = argparse._SubParsersAction


def add_parsers(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the commands; ROS is imported only when one of them runs."""
    bench.register(
        "ros",
        "yolox_trt.ros.tools.bench",
        "many cameras through ROS: rate held, drops, latency, overhead, CPU",
    )
    bench.register(
        "ros-transport",
        "yolox_trt.ros.tools.bench_transport",
        "large images over Fast DDS, before and after the shipped settings",
    )
    parser = subparsers.add_parser(
        "demo",
        help="four moving cameras, the real multi_camera process, a live table",
        description="Four processes publish moving photographs, multi_camera detects in them, and "
        "this process shows its results. Exit status 1 if a camera had no detection.",
    )
    parser.add_argument("--model", help="ONNX or engine file (default: the shipped one)")
    parser.add_argument("--device", default="auto", help="gpu, dla0, cpu, ... (default: auto)")
    parser.add_argument(
        "--duration",
        type=positive_number,
        default=20.0,
        help="seconds to run (default: %(default)s)",
    )
    parser.add_argument(
        "--rate",
        type=positive_number,
        default=10.0,
        help="pictures a second (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=_whole(1),
        nargs=2,
        default=(1920, 1280),
        metavar=("W", "H"),
        help="of a picture (default: 1920 1280)",
    )
    parser.add_argument("--score", type=float, default=0.3, help="threshold (default: %(default)s)")
    parser.add_argument("--output", default="demo_output", help="folder (default: %(default)s)")
    parser.set_defaults(run=_ros_command("yolox_trt.ros.tools.demo", "run_demo"))

    parser = subparsers.add_parser(
        "up",
        help="start multi_camera with the settings for large images, without ros2 launch",
        description="Start multi_camera as launch/multi_camera.launch.py does, on machines without "
        "ros2 launch. NAME:=VALUE are its arguments: model:=..., cameras:=front,rear, "
        "<camera>.<parameter>:=<value>, multi_camera.<parameter>:=<value>.",
    )
    parser.add_argument("--config", metavar="YAML", help="default: config/multi_camera.yaml")
    parser.add_argument("--namespace", default="", help="namespace of all nodes")
    parser.add_argument("arguments", nargs="*", metavar="NAME:=VALUE")
    parser.set_defaults(run=_ros_command("yolox_trt.ros.tools.up", "run_up"))

    parser = subparsers.add_parser(
        "replay",
        help="publish a rosbag2 bag",
        description="Publish the messages of a rosbag2 bag (sqlite3 or mcap) on their topics, at "
        "recorded speed, a multiple of it, or as fast as the consumer gives results.",
    )
    parser.add_argument("bag", metavar="BAG", help="folder, .mcap or .db3 file")
    parser.add_argument(
        "--speed", type=positive_number, default=1.0, help="times the recorded speed (default: 1)"
    )
    parser.add_argument("--clock", action="store_true", help="publish the recording's /clock")
    parser.add_argument("--topics", nargs="+", default=[], metavar="TOPIC", help="only these")
    parser.add_argument(
        "--remap", action="append", default=[], metavar="/OLD:=/NEW", help="publish elsewhere"
    )
    parser.add_argument(
        "--restamp", action="store_true", help="put the present time into the headers"
    )
    _add_source_arguments(parser)
    parser.set_defaults(run=_ros_command("yolox_trt.ros.tools.replay", "run_replay"))

    parser = subparsers.add_parser(
        "publish",
        help="publish images, a video or a camera device",
        description="Publish an image, a folder of images, a video or a camera device as "
        "sensor_msgs/Image or CompressedImage.",
    )
    parser.add_argument("source", metavar="IMAGE|FOLDER|VIDEO|DEVICE")
    parser.add_argument("--topic", default="/camera/image_raw", help="default: %(default)s")
    parser.add_argument(
        "--rate",
        type=positive_number,
        help="pictures a second (default: a video's own, 10 for images)",
    )
    parser.add_argument(
        "--speed", type=positive_number, default=1.0, help="times that rate (default: 1)"
    )
    parser.add_argument("--frame-id", default="camera", help="default: %(default)s")
    parser.add_argument(
        "--size", type=_whole(1), nargs=2, metavar=("W", "H"), help="resize to this"
    )
    parser.add_argument("--compressed", action="store_true", help="send JPEGs")
    parser.add_argument("--reliable", action="store_true", help="reliable quality of service")
    _add_source_arguments(parser)
    parser.set_defaults(run=_ros_command("yolox_trt.ros.tools.publish", "run_publish"))

    parser = subparsers.add_parser(
        "parameters",
        help="print docs/parameters.md",
        description="Print every parameter of multi_camera and its cameras as Markdown.",
    )
    parser.set_defaults(run=_parameters)


def _add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what replay and publish have in common."""
    parser.add_argument(
        "--loop", type=_whole(0), default=1, metavar="N", help="rounds; 0 until Ctrl-C (default: 1)"
    )
    parser.add_argument(
        "--max",
        action="store_true",
        help="as fast as the consumer takes it: --window images of a topic are under way",
    )
    parser.add_argument(
        "--window",
        type=_whole(1),
        default=1,
        metavar="N",
        help="with --max; more than 1 needs larger qos_depth and queue_depth (default: 1)",
    )
    parser.add_argument(
        "--results",
        action="append",
        default=[],
        metavar="TOPIC",
        help="with --max: the consumer's Detection2DArray topic, once for each image topic "
        "(default: detections beside the images)",
    )
    parser.add_argument(
        "--wait", type=float, default=10.0, help="with --max: seconds to wait for the consumer"
    )


def _whole(least: int) -> Callable[[str], int]:
    """Return a type of arguments: whole numbers from `least` on."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {least} on")
        return value

    return number


def _ros_command(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """Return a command that needs ROS; its module is imported when it runs."""

    def run(args: argparse.Namespace) -> int:
        require("rclpy", purpose=f"`yolox_trt {args.command}`")
        require("vision_msgs", purpose=f"`yolox_trt {args.command}`")
        status: int = getattr(importlib.import_module(module), function)(args)
        return status

    return run


def _parameters(args: argparse.Namespace) -> int:
    from yolox_trt.ros.nodes.parameters import parameters_page

    print(parameters_page(), end="")
    return 0
