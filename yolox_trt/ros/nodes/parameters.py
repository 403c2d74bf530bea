# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Every parameter of the process `multi_camera`, as Options.

This module imports no ROS: the documentation (parameters_page) is built without it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from yolox_trt.compiler.int8.options import CalibrateOptions
from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.core.contention import Contention
from yolox_trt.core.device import AUTO, Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.input_size import InputSize, parse_input_size
from yolox_trt.core.labels import load_class_names
from yolox_trt.core.limits import ImageLimits
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.option import (
    Applies,
    Kind,
    Option,
    option,
    options_of,
    parse_pairs,
    parse_path,
)
from yolox_trt.core.postprocess_options import PostprocessOptions, parse_class_thresholds
from yolox_trt.core.roi import Roi
from yolox_trt.core.zones import Zones
from yolox_trt.detectors.decoders import DecoderOptions
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.executor.scheduler_options import SchedulerOptions
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.ros.nodes.autoware_parameters import MANIFEST, PRESETS
from yolox_trt.ros.nodes.parameter_values import (
    check_topic,
    parse_calibration_algorithm,
    parse_computer,
    parse_devices,
    parse_folders,
    parse_node_names,
    parse_roi,
)
from yolox_trt.tracking.options import TrackingOptions

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SourceParameters:
    """Where other values come from than from the options' defaults; of both kinds of nodes."""

    preset: str = option(
        "",
        choices=tuple(PRESETS),
        applies=Applies.READ_ONLY,
        help="Other defaults: autoware for those of autoware_tensorrt_yolox (thresholds, "
        "class-agnostic NMS, topics ~/in/image and ~/out/..., objects and debug topics). A camera "
        "has that of multi_camera, unless it has its own.",
    )
    config_dir: str = option(
        "",
        file=True,
        applies=Applies.READ_ONLY,
        help="Folder of an Autoware package's configuration: the files that its "
        f"{MANIFEST} names hold parameters. Given with model_dir.",
    )
    model_dir: str = option(
        "",
        file=True,
        applies=Applies.READ_ONLY,
        help="Folder of an Autoware package's model, with a manifest of its own, which goes before "
        "that of config_dir; model_file, label_file and roi_remap_file are relative to it.",
    )


@dataclass(frozen=True, kw_only=True)
class CameraParameters(SourceParameters):
    """Parameters of a camera node that other rooms do not declare."""

    image_topic: str = option(
        "~/image_raw",
        parse=check_topic,
        help="Topic of the camera's images; ~ stands for the camera node's own name.",
    )
    detections_topic: str = option(
        "~/detections", parse=check_topic, help="Topic of the detections (vision_msgs)."
    )
    objects_topic: str = option(
        "~/objects", parse=check_topic, help="Topic of the objects for Autoware."
    )
    annotated_topic: str = option(
        "~/annotated", parse=check_topic, help="Topic of the images with boxes drawn in."
    )
    mask_topic: str = option(
        "~/mask",
        parse=check_topic,
        help="Topic of the masks of a model with a segmentation head, made while somebody listens: "
        "mono8, whose data are runs of equal pixels as Autoware reads them.",
    )
    color_mask_topic: str = option(
        "~/color_mask", parse=check_topic, help="Topic of the masks in colours (bgr8)."
    )
    mask_color_path: str = option(
        "",
        file=True,
        help="CSV file with a line `id,name,r,g,b` for each class of the masks; empty for built-in "
        "colours.",
    )
    mask_remap_path: str = option(
        "",
        file=True,
        help="CSV file with a line `name,id` for each class of the detections: the class of the "
        "masks that its boxes are painted with, or -1. Empty to paint nothing.",
    )
    mask_overlap: bool = option(
        True, help="Whether boxes are painted over the masks, where mask_remap_path is given."
    )
    mask_overlap_score: float = option(
        0.3, minimum=0.0, maximum=1.0, help="Least score of a box that is painted over the mask."
    )
    transport: str = option(
        "raw",
        choices=("raw", "compressed", "ffmpeg", "foxglove"),
        help="raw: sensor_msgs/Image on image_topic. The others are on image_topic/TRANSPORT, as "
        "image_transport names them; compressed: sensor_msgs/CompressedImage. Video, H.264 or "
        "HEVC; ffmpeg: ffmpeg_image_transport_msgs/FFMPEGPacket. foxglove: "
        "foxglove_msgs/CompressedVideo.",
    )
    on_demand: bool = option(
        True,
        applies=Applies.AT_ONCE,
        help="Subscribe the camera only while somebody listens to one of its outputs.",
    )
    qos_reliability: str = option(
        "best_effort",
        choices=("best_effort", "reliable", "system_default"),
        help="Reliability of the image subscription. reliable needs a reliable publisher; "
        "system_default is what the middleware's own settings say. `qos_overrides` go before.",
    )
    qos_depth: int = option(
        1,
        minimum=1,
        maximum=1000,
        unit="images",
        help="Depth of the middleware's own queue, in front of queue_depth.",
    )
    model: str = option(
        "", file=True, help="ONNX or engine file of this camera; empty for the process's `model`."
    )
    input_size: InputSize | None = option(
        "",
        kind=Kind.STRING,
        parse=lambda text: parse_input_size(text) if text else None,
        unit="pixels",
        help="Input size of the network for this camera: HxW, auto or model; empty for the "
        "process's `input_size`.",
    )
    label_path: str = option(
        "",
        file=True,
        help="Text file with one class name a line, for this camera; empty for the names that "
        "multi_camera has for the model.",
    )
    class_thresholds: Mapping[str, float] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=parse_class_thresholds,
        applies=Applies.AT_ONCE,
        help="Score thresholds of single classes, as class:threshold (class a name or a number), "
        "such as [person:0.25, traffic light:0.4].",
    )
    roi: Roi | None = option(
        [],
        kind=Kind.INTEGER_ARRAY,
        parse=parse_roi,
        unit="pixels",
        applies=Applies.AT_ONCE,
        help="Part of the image that the network sees, as [x, y, width, height]; [] or four zeros "
        "for the whole image. Boxes stay in pixels of the whole image.",
    )
    publish_annotated: bool = option(
        True,
        applies=Applies.AT_ONCE,
        help="Whether ~/annotated is drawn while somebody subscribes to it.",
    )
    publish_image_annotations: bool = option(
        False,
        help="Whether ~/image_annotations is published for Foxglove "
        "(foxglove_msgs/ImageAnnotations).",
    )
    publish_objects: bool = option(
        False,
        help="Whether ~/objects is published for Autoware "
        "(tier4_perception_msgs/DetectedObjectsWithFeature).",
    )
    class_remap: Mapping[str, str] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=parse_pairs,
        help="Autoware labels of single classes for the objects, as class:LABEL, such as "
        "[dog:ANIMAL], or class:-1 for none; it goes before roi_remap_path and the built-in table, "
        "in which classes without a label are UNKNOWN.",
    )
    roi_remap_path: str = option(
        "",
        file=True,
        help="CSV file with a line `name,id` for each class: its Autoware label from 0 to 9, or -1 "
        "for a class that the objects leave out. Empty for the built-in table.",
    )
    publish_debug: bool = option(
        False,
        help="Whether Autoware's ~/debug/cyclic_time_ms, processing_time_ms and "
        "pipeline_latency_ms are published.",
    )
    primary: str = option(
        "",
        parse=parse_computer,
        applies=Applies.READ_ONLY,
        help="Computer that serves the camera as long as it lives, by its parameter `computer`; "
        "`enabled` is then set by the node itself. Empty for a camera of this computer alone.",
    )
    standby: str = option(
        "",
        parse=parse_computer,
        applies=Applies.READ_ONLY,
        help="Computer that serves the camera while its primary is silent.",
    )
    class_names: tuple[str, ...] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=tuple,
        applies=Applies.BY_NODE,
        help="Class names of the model that serves the camera, in the order of its outputs. "
        "~/vision_info points here.",
    )

    stream: StreamConfig
    limits: ImageLimits
    decoder: DecoderOptions
    zones: Zones
    tracking: TrackingOptions

    @classmethod
    def of(cls, name: str, values: Mapping[str, Any]) -> CameraParameters:
        """Make the parameters of a camera of plain values.

        Raises:
            ConfigurationError: a value that its option refuses.
        """
        options = _part(PostprocessOptions, values)
        decoder, roi = _part(DecoderOptions, values), values["roi"]
        if decoder.max_reduction > 1 and any(roi or ()):
            scale, region = options_of(DecoderOptions)["jpeg_scale"], options_of(cls)["roi"]
            raise ConfigurationError(
                (scale, f" = {decoder.jpeg_scale} with ", region, f" = {list(roi)}"),
                expected="one of both: a region is in pixels of the whole image",
                fix=("set ", scale, " to 1"),
            )
        return _part(
            cls,
            values,
            stream=_part(StreamConfig, values, id=name, options=options),
            limits=_part(ImageLimits, values),
            decoder=decoder,
            zones=_part(Zones, values),
            tracking=_part(TrackingOptions, values),
        )

    def stream_config(self, model: str, spec: ModelSpec) -> StreamConfig:
        """Return the configuration of the camera's Stream.

        Args:
            model: the executor's name of the model that serves it.
            spec: has the model's classes.

        Raises:
            ConfigurationError: a threshold for a class that the model does not have.
        """
        declared = options_of(type(self))["class_thresholds"]
        options = self.stream.options.with_classes(self.class_thresholds, spec, declared)
        return replace(self.stream, model=model, options=options)

    def named(self, spec: ModelSpec) -> ModelSpec:
        """Return a model with this camera's class names; see ExecutorParameters.load_labels."""
        labels = _labels(self.label_path, type(self), spec.num_classes)
        return spec if labels is None else replace(spec, class_names=labels)


@dataclass(frozen=True, kw_only=True)
class ExecutorParameters(SourceParameters):
    """Parameters of the node `multi_camera`."""

    cameras: tuple[str, ...] = option(
        ["camera"],
        applies=Applies.AT_ONCE,
        parse=parse_node_names,
        help="Names of the camera nodes. Changed at run time, cameras are added and removed.",
    )
    model: str = option(
        "",
        file=True,
        help="ONNX or engine file; empty for the one that is shipped in models/, or the "
        "environment variable YOLOX_TRT_MODEL.",
    )
    label_path: str = option(
        "", file=True, help="Text file with one class name a line; empty for the model's own names."
    )
    file_folders: tuple[Path, ...] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=parse_folders,
        applies=Applies.READ_ONLY,
        help="Folders below which parameters that name files may be changed at run time, of this "
        "node and of the cameras; without any they are read-only after the start.",
    )
    devices: tuple[Device | None, ...] = option(
        [AUTO],
        parse=parse_devices,
        help="Devices that the process owns, such as [gpu, dla0, dla1]; [auto] for the GPU "
        "where there is one, else the CPU.",
    )
    placement: str = option(
        "dynamic",
        choices=("static", "balanced", "dynamic"),
        help="static: each camera on its parameter `device`. balanced: least load of the "
        "busiest device, from measured times and rates. dynamic: each image to the device that "
        "will be done first.",
    )
    contention: Contention = option(
        "none",
        help="How GPU and DLA slow each other down, for the placement: none (not known), "
        "measured (GPU x 1.31, DLA x 1.24, as a user measured on an Orin), or the factors of your "
        "board, as {gpu_with_dla: 1.31, dla_with_gpu: 1.24}.",
        parse=Contention.parse,
    )
    max_batch: int = option(
        1,
        minimum=1,
        maximum=64,
        unit="images",
        help="Images of cameras with the same model that share one run on the GPU or the "
        "CPU. A model with batch 1 built in is opened for it. The DLA always takes one.",
    )
    exit_on_broken_device: bool = option(
        False,
        help="Whether the process ends, with an error, when a device can only be brought "
        "back by a restart of the process (a broken CUDA context); for launch files that respawn "
        "it. Otherwise the other devices go on without it.",
        applies=Applies.AT_ONCE,
    )
    ingest_processes: int = option(
        0,
        minimum=0,
        maximum=64,
        help="Processes that receive the images and hand them over in shared memory; 0: "
        "this process receives them itself (about 100 images of 1920x1280 a second). Those of one "
        "camera take 1 GB at most.",
    )
    autostart: bool = option(
        True,
        applies=Applies.READ_ONLY,
        help="Whether the node configures and activates itself at its start.",
    )
    computer: str = option(
        "",
        parse=parse_computer,
        applies=Applies.READ_ONLY,
        help="Name of this computer, where another one stands in for it or it for another one; "
        "empty where there is one. See the cameras' parameters `primary` and `standby`.",
    )
    computer_silence: float = option(
        0.5,
        minimum=0.05,
        maximum=60.0,
        unit="s",
        applies=Applies.READ_ONLY,
        help="Time without a heartbeat after which another computer is taken for dead. All "
        "computers have the same.",
    )
    diagnostics_period: float = option(
        1.0,
        minimum=0.1,
        maximum=60.0,
        unit="s",
        applies=Applies.READ_ONLY,
        help="Time between two messages on /diagnostics.",
    )
    timeline_seconds: float = option(
        10.0,
        minimum=0.1,
        maximum=600.0,
        unit="s",
        applies=Applies.AT_ONCE,
        help="How far back the service ~/timeline reaches.",
    )
    timeline_folder: str = option(
        "",
        file=True,
        applies=Applies.AT_ONCE,
        help="Folder that ~/timeline writes into; empty for the working directory.",
    )
    calibration_images: Path | None = option(
        "",
        file=True,
        parse=lambda text: parse_path(text) if text else None,
        help="Calibration images for precision int8 with TensorRT 8.5 to 10.x: a list file, a "
        "folder, or a COCO folder or json. They are run through the model once, and the ranges are "
        "kept in the engine cache.",
    )
    calibration_algorithm: str = option(
        options_of(CalibrateOptions)["algorithm"].default,
        parse=parse_calibration_algorithm,
        help="How calibration_images give ranges: max, entropy, mse, percentile or "
        "percentile:NUMBER; of Autoware's names, Entropy, MinMax, Legacy and Percentile.",
    )
    build_only: bool = option(
        False,
        applies=Applies.READ_ONLY,
        help="Whether the process builds the engines of all devices and ends with status 0.",
    )
    nvtx: bool = option(
        False,
        help="Whether the devices' work is marked with NVTX ranges for Nsight Systems.",
    )

    detector: DetectorOptions
    scheduler: SchedulerOptions

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ExecutorParameters:
        """Make the parameters of plain values, as CameraParameters.of does."""
        scheduler, detector = (
            {field: each.typed(values[each.name]) for field, each in options.items()}
            for options in (_SCHEDULER, _DETECTOR)
        )
        if images := values["calibration_images"]:
            _check_calibration(images, values)
        given = {name: each.typed(values[name]) for name, each in _BUILD.items()}
        if given["default_dynamic_range"] is not None:  # which would cut the heads' values off
            given["keep_last_layer_fp16"] = True
        build = BuildOptions(precision=detector["precision"], **given)
        return _part(
            cls,
            values,
            detector=DetectorOptions(**detector, build=build),
            scheduler=SchedulerOptions(**scheduler, callback_limit=scheduler["watchdog"]),
        )

    def load_labels(self) -> tuple[str, ...] | None:
        """Read the label file: at each configure, and not whenever a parameter is set.

        Returns:
            Its names; None for the model's own.

        Raises:
            ConfigurationError: the file cannot be read, or it has no names.
        """
        return _labels(self.label_path, type(self))


def _check_calibration(images: str, values: Mapping[str, Any]) -> None:
    """Raise ConfigurationError if images are given to calibrate with, and something against it."""
    declared = options_of(ExecutorParameters)["calibration_images"]
    others = [name for name in ("calibration_cache", "default_dynamic_range") if values[name]]
    if values["precision"] not in ("", "int8") or others:
        against = others[0] if others else f"precision {values['precision']}"
        raise ConfigurationError(
            (declared, f" = '{images}' with {against}"),
            expected="precision int8, and one source of INT8 ranges",
            fix=("drop ", declared, " or the other"),
        )


def _labels(path: str, group: type[Any], num_classes: int | None = None) -> tuple[str, ...] | None:
    if not path:
        return None
    read = functools.partial(load_class_names, num_classes=num_classes)
    names: tuple[str, ...] = replace(options_of(group)["label_path"], parse=read).typed(path)
    return names


def _part(group: type[T], values: Mapping[str, Any], **others: Any) -> T:
    """Make an option group of those plain values that are its own."""
    own = options_of(group).items()
    return group(**{name: each.typed(values[name]) for name, each in own}, **others)


def _unset(option: Option, empty: str | float, **changes: Any) -> Option:
    """Return an option that may be None for ROS 2, whose parameters always have a value.

    Args:
        option: the option.
        empty: the value that stands for None.
        changes: other attributes that differ.
    """
    parse = option.parse
    return replace(
        option,
        default=empty,
        help=f"{option.help} {'Empty' if empty == '' else empty} stands for the default.",
        choices=option.choices and (str(empty), *option.choices),
        minimum=option.minimum and 0,
        above=None,
        parse=lambda value: None if value == empty else parse(value) if parse else value,
        **changes,
    )


_OF_SCHEDULER, _OF_DETECTOR = options_of(SchedulerOptions), options_of(DetectorOptions)
#: Parameters of `multi_camera` that other rooms declare, by their field there.
_SCHEDULER = {
    # Longer than between two images of a camera, it would only delay them.
    "batch_window": replace(_OF_SCHEDULER["batch_window"], maximum=1.0),
    "watchdog": replace(
        _OF_SCHEDULER["watchdog"],
        help=f"{_OF_SCHEDULER['watchdog'].help} A camera whose result has not been published for "
        "this long no longer holds up its device.",
    ),
}
_DETECTOR = {
    "engine": _OF_DETECTOR["engine"],
    "cudla_mode": _OF_DETECTOR["cudla_mode"],
    "input_size": _unset(
        replace(
            _OF_DETECTOR["input_size"],
            help="Input size of the network: HxW, one for all cameras; auto, for each camera the "
            "size with about as many pixels as the model's own in which its images are largest, "
            "loaded when the first image has come (until then it is the model's own); or model, as "
            "it was exported. Default: what the model's metadata wishes, else model; the shipped "
            "model wishes auto.",
        ),
        "",
    ),
    "precision": _unset(_OF_DETECTOR["precision"], ""),
    "preprocessing": _unset(_OF_DETECTOR["preprocessing"], AUTO),
    "model_type": _OF_DETECTOR["model_type"],
    "box_format": _unset(_OF_DETECTOR["box_format"], AUTO),
    "engine_cache": _unset(_OF_DETECTOR["engine_cache"], ""),
    "threads": _unset(_OF_DETECTOR["threads"], 0, name="cpu_threads", maximum=256),
}
_OF_BUILD = options_of(BuildOptions)
_BUILD = {
    "calibration_cache": _unset(_OF_BUILD["calibration_cache"], ""),
    "default_dynamic_range": _unset(
        replace(
            _OF_BUILD["default_dynamic_range"],
            help="Range (0, MAX) of the tensors between convolutions with precision int8, instead "
            "of a calibration: 6 for a ReLU6 model. The last convolutions stay in FP16 then.",
        ),
        0.0,
    ),
    "keep_first_layer_fp16": _OF_BUILD["keep_first_layer_fp16"],
    "keep_last_layer_fp16": _OF_BUILD["keep_last_layer_fp16"],
}

#: Parameters of every camera node, and of the node `multi_camera`, by name.
CAMERA_OPTIONS: Mapping[str, Option] = {
    **options_of(CameraParameters),
    **options_of(StreamConfig),
    **options_of(PostprocessOptions),
    **options_of(ImageLimits),
    **options_of(DecoderOptions),
    **options_of(Zones),
    **options_of(TrackingOptions),
}
EXECUTOR_OPTIONS: Mapping[str, Option] = {
    **options_of(ExecutorParameters),
    **{each.name: each for group in (_DETECTOR, _BUILD, _SCHEDULER) for each in group.values()},
}
