# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt demo`, `up`, `replay`, `publish` and `parameters`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.ros.tools.options import DemoOptions, PublishOptions, ReplayOptions, UpOptions

_ROS = ("rclpy", "vision_msgs")


@dataclass(frozen=True, kw_only=True)
class Demo(DemoOptions, Command, name="demo", needs=_ROS, has_json=True):
    """Show four moving cameras, the real multi_camera process, and a live table.

    Four processes publish moving photographs, multi_camera detects in them, and this process shows
    its results. The exit status is 1 if a camera had no detection.
    """

    def run(self, output: Output) -> int:
        from yolox_trt.ros.tools.demo import run_demo

        last: list[Mapping[str, str]] = []
        with output.live() as live:

            def show(title: str, rows: Sequence[Mapping[str, str]]) -> None:
                last[:] = rows
                live(title, tuple(rows[0]), [tuple(row.values()) for row in rows])

            wrong = run_demo(self, say=output.print, show=show)
        output.json(last)
        output.print("\n".join(wrong) or "every camera detected something")
        return 1 if wrong else 0


@dataclass(frozen=True, kw_only=True)
class Up(UpOptions, Command, name="up", needs=_ROS):
    """Start multi_camera with the settings for large images, without ros2 launch.

    It does what launch/multi_camera.launch.py does.

    Examples:
        yolox_trt up model:=yolox_s.onnx cameras:=front,rear front.score_threshold:=0.5
    """

    def run(self, output: Output) -> int:
        from yolox_trt.ros.tools.up import run_up

        return run_up(self, output.print)


@dataclass(frozen=True, kw_only=True)
class Replay(ReplayOptions, Command, name="replay", needs=(*_ROS, "rosbags")):
    """Publish a rosbag2 bag.

    The messages of a bag (sqlite3 or mcap) go out on their topics, at recorded speed, a multiple
    of it, or as fast as the consumer gives results. The exit status is 1 if there was none.

    Examples:
        yolox_trt replay drive/ --topic /front/image_raw --max
    """

    def run(self, output: Output) -> int:
        from yolox_trt.ros.tools.replay import run_replay

        with output.progress() as progress:
            return run_replay(self, say=output.print, on_progress=progress)


@dataclass(frozen=True, kw_only=True)
class Publish(PublishOptions, Command, name="publish", needs=_ROS):
    """Publish images, a video or a camera device.

    They go out as sensor_msgs/Image or CompressedImage. The exit status is 1 if there was none.

    Examples:
        yolox_trt publish drive.mp4 --topic /front/image_raw --size 1280x1920
    """

    def run(self, output: Output) -> int:
        from yolox_trt.ros.tools.publish import run_publish

        with output.progress() as progress:
            return run_publish(self, say=output.print, on_progress=progress)


@dataclass(frozen=True, kw_only=True)
class Parameters(Command, name="parameters"):
    """Print docs/parameters.md: every parameter of multi_camera and its cameras."""

    def run(self, output: Output) -> int:
        from yolox_trt.ros.nodes.parameters import parameters_page

        print(parameters_page(), end="")
        return 0
