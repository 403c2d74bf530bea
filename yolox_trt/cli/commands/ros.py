# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt demo`, `up`, `replay`, `publish`, `regress` and `parameters`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from yolox_trt import __version__
from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.core.option import nested, option, parse_path, path_option
from yolox_trt.core.output_paths import OutputFile, prepare_outputs
from yolox_trt.evaluation.options import ToleranceOptions
from yolox_trt.ros.tools.options import (
    DemoOptions,
    PublishOptions,
    RegressOptions,
    ReplayOptions,
    UpOptions,
)

_ROS = ("rclpy", "vision_msgs")
#: Changes that `regress` prints.
_CHANGES = 100


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

            wrong, why_fewer = run_demo(self, say=output.print, show=show)
        output.json(last)
        output.print("\n".join(wrong) or "every camera detected something")
        if why_fewer:
            output.print(why_fewer)
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
    of it, or as fast as the consumer gives results. The exit status is 1 if there was none, or one
    that could not be read.

    Examples:
        yolox_trt replay drive/ --topic /front/image_raw --max
    """

    def run(self, output: Output) -> int:
        from yolox_trt.ros.tools.replay import run_replay

        with output.progress() as progress:
            return run_replay(self, say=output.print, on_progress=progress)


@dataclass(frozen=True, kw_only=True)
class Regress(RegressOptions, Command, name="regress", needs=(*_ROS, "rosbags"), has_json=True):
    """Compare the detections in a bag with those that are expected.

    The images go through the real multi_camera process, none is lost, and the results are held
    against the expectation. The exit status is 1 if they differ.

    Examples:
        yolox_trt regress drive/ --expect drive.json --config cameras.yaml --update
        yolox_trt regress drive/ --expect drive.json --config cameras.yaml --junit regress.xml
    """

    expect: Path = option(
        parse=parse_path, metavar="FILE.json", help="The expectation, which --update writes."
    )
    update: bool = option(False, help="Write what is found as the new expectation.")
    junit: Path | None = path_option(
        parse=OutputFile(".xml"), help="Write a JUnit report, a test case for each camera."
    )
    tolerances: ToleranceOptions = nested(ToleranceOptions)

    def run(self, output: Output) -> int:
        from yolox_trt.evaluation.regression import (
            compare,
            junit_suite,
            read_expectation,
            write_expectation,
            write_junit,
        )
        from yolox_trt.ros.tools.regress import run_regress

        # A wrong file is told before the work.
        prepare_outputs(self.expect if self.update else None)
        expected = {} if self.update and not self.expect.exists() else read_expectation(self.expect)
        with output.progress() as progress:
            found = run_regress(self, say=output.print, on_progress=progress)
        changes = compare(expected, found, self.tolerances)
        for change in changes[:_CHANGES] if expected else ():
            output.print(str(change))
        kinds = Counter(change.kind for change in changes)
        if len(changes) > _CHANGES and expected:
            output.print(f"and {len(changes) - _CHANGES} more")
        images = sum(map(len, found.values()))
        words = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        output.print(f"{len(found)} cameras, {images} images: {words or 'as expected'}")
        if self.update:
            write_expectation(self.expect, found, {"bag": self.bag.name, "version": __version__})
            output.print(f"Wrote {self.expect}")
        if self.junit is not None:
            shown = () if self.update else changes
            write_junit(self.junit, junit_suite(found, shown, f"regress.{self.bag.stem}"))
        output.json({"changes": changes, "images": images, "kinds": kinds})
        return 1 if changes and not self.update else 0


@dataclass(frozen=True, kw_only=True)
class Publish(PublishOptions, Command, name="publish", needs=_ROS):
    """Publish images, a video or a camera device.

    They go out as sensor_msgs/Image or CompressedImage. The exit status is 1 if there was none, or
    one that could not be read.

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
        from yolox_trt.ros.nodes.parameters_page import parameters_page

        print(parameters_page(), end="")
        return 0
