# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Options of demo, up, replay, publish and the benchmarks through ROS. Imports no ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.input_size import InputSize
from yolox_trt.core.option import (
    Kind,
    OptionGroup,
    again,
    option,
    options_of,
    parse_path,
    path_option,
    size_option,
)
from yolox_trt.core.output_paths import parse_output_folder
from yolox_trt.core.shipped_files import default_model
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.engines import model_zoo
from yolox_trt.evaluation.options import CAMERA_SIZE, check_frames
from yolox_trt.ros.nodes.parameter_values import check_topic
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS, EXECUTOR_OPTIONS

_DETECTOR = options_of(DetectorOptions)


def parse_remaps(rules: Sequence[str]) -> dict[str, str]:
    """Read `/old:=/new` rules.

    Raises:
        ConfigurationError: a rule of another form.
    """
    remaps = {}
    for rule in rules:
        old, separator, new = rule.partition(":=")
        if not (separator and old.startswith("/") and new.startswith("/")):
            raise ConfigurationError(
                f"remapping '{rule}'", expected="/topic_in_the_bag:=/topic_to_publish"
            )
        remaps[old] = check_topic(new)
    return remaps


def _known_model(text: str) -> Path:
    """Read a file's path or a published model's name."""
    path = parse_path(text)  # told now, not by the process that loads it
    if path.suffix and not path.is_file():
        raise ConfigurationError(
            f"model '{path}', which is no file", expected="an ONNX or engine file"
        )
    if not path.is_file():
        model_zoo.find(text)
    return path


def model_file(model: Path | None) -> Path:
    """Return a model's file, absolute; a published model is fetched.

    Args:
        model: a file, or a published model's name; None for the shipped model.

    Raises:
        ModelError: a published model cannot be fetched.
        ConfigurationError: there is no shipped model.
    """
    located = DetectorOptions(model=model or default_model()).located()
    return Path(str(located.model)).resolve()


@dataclass(frozen=True, kw_only=True)
class DemoOptions(OptionGroup):
    """Moving cameras and what detects in them."""

    model: Path | None = path_option(
        parse=_known_model,
        metavar="MODEL",
        help=_DETECTOR["model"].help,
    )
    device: Device | None = again(_DETECTOR["device"])
    duration: float = option(20.0, above=0.0, unit="s", help="Time to run.")
    rate: float = option(10.0, above=0.0, unit="Hz", help="Pictures a second of each camera.")
    size: tuple[int, int] = size_option(CAMERA_SIZE, help="Size of a picture.")
    input_size: InputSize | None = again(
        _DETECTOR["input_size"],
        help="Input size of the network: HxW, auto, or model, as multi_camera's parameter "
        "`input_size` (default: that with fewest pixels in which a picture is as large as in the "
        "model's own, where the model leaves it to the images).",
    )
    score: float = again(CAMERA_OPTIONS["score_threshold"])
    output: Path = option(
        "demo_output",
        parse=parse_output_folder,
        flag="--output -o",
        metavar="FOLDER",
        help="Folder of the annotated pictures and the logs.",
    )


@dataclass(frozen=True, kw_only=True)
class UpOptions(OptionGroup):
    """What multi_camera is started with."""

    config: Path | None = path_option(
        metavar="FILE.yaml", help="Parameter file (default: config/multi_camera.yaml)."
    )
    namespace: str = option("", help="Namespace of all nodes.")
    computer: str = option(
        "",
        help="Name of this computer, where two stand in for one another, as "
        "two_computers.launch.py takes it; it becomes the namespace.",
    )
    arguments: Sequence[str] = option(
        [],
        kind=Kind.STRING_ARRAY,
        flag="NAME:=VALUE",
        help="Arguments of the launch file: model:=..., cameras:=front,rear, "
        "<camera>.<parameter>:=<value>, multi_camera.<parameter>:=<value>.",
    )


_UP = options_of(UpOptions)


@dataclass(frozen=True, kw_only=True)
class SourceOptions(OptionGroup):
    """What publish and replay have in common."""

    speed: float = option(1.0, above=0.0, help="Times the source's own speed.")
    loop: int = option(1, minimum=0, help="Rounds; 0 for as many as there are until Ctrl-C.")
    max: bool = option(
        False, help="As fast as the consumer takes it: --window images of a topic are under way."
    )
    window: int = option(
        1, minimum=1, help="With --max; more than 1 needs larger qos_depth and queue_depth."
    )
    results: Sequence[str] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=lambda topics: tuple(map(check_topic, topics)),
        metavar="TOPIC",
        help="With --max: the consumer's Detection2DArray topic, once for each image topic "
        "(default: detections beside the images).",
    )
    wait: float | None = option(
        None,
        kind=Kind.DOUBLE,
        minimum=0.0,
        unit="s",
        help="Time for a subscriber of each image topic to come, and with --max for its results "
        "(default: 5 s for any subscriber, 10 s with --max).",
    )
    ros_args: Sequence[str] = option(
        [],
        kind=Kind.STRING_ARRAY,
        flag="--ros-args",
        metavar="...",
        help="ROS arguments, last on the line: -r __node:=NAME, -r __ns:=/NAMESPACE, -p "
        "use_sim_time:=true.",
    )


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(SourceOptions):
    """A bag, and how it is published."""

    bag: Path = option(parse=parse_path, flag="BAG", help="Folder, .mcap or .db3 file.")
    clock: bool = option(False, help="Publish the recording's /clock.")
    topics: Sequence[str] = option(
        [], kind=Kind.STRING_ARRAY, flag="--topic", help="Topic to publish (default: all)."
    )
    remap: Mapping[str, str] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=parse_remaps,
        metavar="/OLD:=/NEW",
        help="Publish a topic under another name.",
    )
    restamp: bool = option(False, help="Put the present time into the headers.")


@dataclass(frozen=True, kw_only=True)
class RegressOptions(OptionGroup):
    """A bag, and what detects in it."""

    bag: Path = option(parse=parse_path, flag="BAG", help="Folder, .mcap or .db3 file.")
    arguments: Sequence[str] = again(_UP["arguments"])
    config: Path | None = path_option(
        metavar="FILE.yaml",
        help="Parameter file of the cameras (default: a camera for each image topic of the bag).",
    )
    logs: Path | None = path_option(
        parse=parse_output_folder, metavar="FOLDER", help="Keep multi_camera's log here."
    )


@dataclass(frozen=True, kw_only=True)
class PublishOptions(SourceOptions):
    """Images, and how they are published."""

    source: str = option(
        flag="SOURCE",
        help="Image, folder of images, video, http or rtsp address, or a camera: its number "
        "or device.",
    )
    topic: str = option("/camera/image_raw", parse=check_topic, help="Image topic.")
    rate: float | None = option(
        None,
        kind=Kind.DOUBLE,
        above=0.0,
        unit="Hz",
        help="Pictures a second (default: a video's own, 10 for images).",
    )
    frame_id: str = option("camera", help="Coordinate frame in the headers.")
    size: tuple[int, int] | None = size_option(help="Resize to this size.")
    compressed: bool = option(False, help="Send JPEGs.")
    reliable: bool = option(False, help="Reliable quality of service.")


@dataclass(frozen=True, kw_only=True)
class RosBenchOptions(OptionGroup):
    """Many cameras through ROS: rate held, drops, latency, overhead, CPU.

    Cameras are processes, multi_camera is the real one, its results come back here. The exit
    status is 1 if a camera had no result at all.
    """

    cameras: int = option(1, minimum=1, help="Number of cameras.")
    rate: float = option(10.0, above=0.0, unit="Hz", help="Rate of each camera.")
    size: tuple[int, int] = size_option(CAMERA_SIZE, help="Size of the images.")
    model: Path | None = path_option(
        parse=_known_model,
        metavar="MODEL",
        help=_DETECTOR["model"].help,
    )
    devices: Sequence[Device | None] = again(
        EXECUTOR_OPTIONS["devices"],
        flag="--device",
        metavar="DEVICE",
        help=_DETECTOR["device"].help,
    )
    engine: str = again(_DETECTOR["engine"])
    precision: str | None = again(_DETECTOR["precision"])
    placement: str = again(EXECUTOR_OPTIONS["placement"])
    max_batch: int = again(EXECUTOR_OPTIONS["max_batch"])
    batch_window: float = again(EXECUTOR_OPTIONS["batch_window"])
    ingest: int = again(EXECUTOR_OPTIONS["ingest_processes"])
    queue_depth: int = again(CAMERA_OPTIONS["queue_depth"])
    qos_depth: int = again(CAMERA_OPTIONS["qos_depth"])
    compressed: bool = option(False, help="Cameras send JPEGs.")
    decoder: str = again(CAMERA_OPTIONS["decoder"])
    duration: float = option(10.0, above=0.0, unit="s", help="Measured time.")
    warmup: float = option(3.0, minimum=0.0, unit="s", help="Time before it.")
    logs: Path | None = path_option(metavar="FOLDER", help="Keep the processes' logs here.")


_ROS_BENCH = options_of(RosBenchOptions)


@dataclass(frozen=True, kw_only=True)
class ConsolidationOptions(OptionGroup):
    """One process for N cameras against N processes with a camera each, with one model.

    Both through ROS, where it is installed, and without it: images in memory, one thread submits.
    """

    cameras: Sequence[int] = option([1, 2, 4], minimum=1, metavar="N", help="Number of cameras.")
    rate: float = again(_ROS_BENCH["rate"])
    size: tuple[int, int] = again(_ROS_BENCH["size"])
    model: Path | None = again(_ROS_BENCH["model"])
    device: Device | None = again(_DETECTOR["device"])
    engine: str = again(_DETECTOR["engine"])
    precision: str | None = again(_DETECTOR["precision"])
    max_batch: int = again(
        EXECUTOR_OPTIONS["max_batch"],
        help="Images that may share a run where one process has all cameras.",
    )
    ingest: int = option(2, minimum=0, help="Ingest processes of the third way; 0: without it.")
    duration: float = again(_ROS_BENCH["duration"])
    warmup: float = again(_ROS_BENCH["warmup"])
    without_ros: bool = option(False, help="Measure without ROS alone.")


@dataclass(frozen=True, kw_only=True)
class HandOverOptions(OptionGroup):
    """One camera's images from an ingest process to a detector, in host memory and in a GPU's.

    Real processes, rings, detector and engine; no ROS. Without --jpeg the images are there before.
    """

    size: tuple[int, int] = again(_ROS_BENCH["size"])
    jpeg: bool = option(
        False,
        help="The ingest process decodes JPEGs: on the CPU for host memory, else on the GPU "
        "(nvImageCodec).",
    )
    rate: float = option(30.0, above=0.0, unit="Hz", help="Images a second.")
    model: Path | None = again(_ROS_BENCH["model"])
    device: Device | None = again(_DETECTOR["device"])
    engine: str = again(_DETECTOR["engine"])
    precision: str | None = again(_DETECTOR["precision"])
    duration: float = again(_ROS_BENCH["duration"])
    warmup: float = again(_ROS_BENCH["warmup"])

    def __post_init__(self) -> None:
        super().__post_init__()
        named = options_of(type(self))
        check_frames(self.rate, self.duration, {**named, "seconds": named["duration"]})


@dataclass(frozen=True, kw_only=True)
class TransportOptions(OptionGroup):
    """Large images over Fast DDS, before and after the shipped settings."""

    size: tuple[int, int] = size_option(CAMERA_SIZE, help="Size of the images.")
    rate: float = option(10.0, above=0.0, unit="Hz", help="Rate at which latency is measured.")
    duration: float = option(6.0, above=0.0, unit="s", help="Length of each run.")


@dataclass(frozen=True, kw_only=True)
class CameraOptions(OptionGroup):
    """A camera of the demonstration or of a benchmark, as a process of its own."""

    name: str = option(help="It publishes /NAME/image_raw.")
    photograph: str = option(help="Image file that it shows.")
    rate: float = option(10.0, above=0.0, unit="Hz", help="Pictures a second.")
    size: tuple[int, int] = size_option(CAMERA_SIZE, help="Size of a picture.")
    still: bool = option(False, help="Whether one picture is drawn and sent again and again.")
    numbered: bool = option(False, help="Whether each picture's number is its frame_id.")
    reliable: bool = option(False, help="Reliable quality of service.")
    compressed: bool = option(False, help="Send JPEGs.")
    plain: bool = option(False, help="Whether malloc stays as it is.")
