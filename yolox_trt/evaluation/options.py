# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Options of detect, evaluate, compare and the benchmarks. Imports nothing slow or optional."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yolox_trt.compiler.int8.algorithms import parse_algorithm
from yolox_trt.compiler.int8.options import parse_float_layers
from yolox_trt.core.device import Device
from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import (
    Kind,
    Option,
    OptionGroup,
    again,
    nested,
    option,
    options_of,
    path_option,
    size_option,
)
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.executor.stream_config import StreamConfig

if TYPE_CHECKING:
    import onnx

#: A camera's image, height and width.
CAMERA_SIZE = "1280x1920"
_DETECTOR = options_of(DetectorOptions)


@dataclass(frozen=True, kw_only=True)
class ToleranceOptions(OptionGroup):
    """How far detections may be from those that are expected."""

    iou: float = option(
        0.9, minimum=0.5, maximum=1.0, help="Least IoU with the box that is expected."
    )
    score_tolerance: float = option(
        0.05, minimum=0.0, maximum=1.0, help="Largest difference of scores."
    )
    min_score: float = option(
        0.0,
        minimum=0.0,
        maximum=1.0,
        help="Detections with a lower score may come and go.",
    )


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(OptionGroup):
    """Which labelled images to take: a COCO folder, or a label file and its images."""

    coco: Path | None = path_option(
        metavar="DIR",
        help="Folder with instances_*.json (in it or in annotations/) and images (in images/, "
        "val2017/, train2017/ or itself).",
    )
    annotations: Path | None = path_option(
        help="COCO label file, where the folder has none or several."
    )
    bdd100k: Path | None = path_option(
        metavar="LABELS", help="BDD100K label file, or folder of label files."
    )
    images: Path | None = path_option(
        metavar="DIR", help="Folder of the labelled images, where it is not beside the labels."
    )
    limit: int | None = option(None, kind=Kind.INTEGER, minimum=1, help="The first N images only.")

    @property
    def named(self) -> Mapping[str, Option]:
        """The options by name, for errors."""
        return options_of(type(self))


def _algorithms(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        parse_algorithm(name)
    return tuple(names)


def _layer_counts(texts: Sequence[str]) -> tuple[str, ...]:
    for text in texts:
        parse_float_layers(text)
    return tuple(texts)


@dataclass(frozen=True, kw_only=True)
class CompareOptions(OptionGroup):
    """Which ways to quantise are compared."""

    algorithms: Sequence[str] = option(
        ["max", "entropy", "mse", *(f"percentile:{p}" for p in ("99.9999", "99.999", "99.99"))],
        flag="--algorithm",
        parse=_algorithms,
        help="Calibration algorithm.",
    )
    alpha: float = option(
        0.75, minimum=0.0, maximum=1.0, help="Share of the equalisation that the weights take."
    )
    keep_fp16: Sequence[str] = option(
        ["5%", "15%"],
        metavar="P%|N",
        parse=_layer_counts,
        help="Mixed precision: share of the operations, or number of layers, that stay in FP16.",
    )
    threads: int | None = again(_DETECTOR["threads"])


@dataclass(frozen=True, kw_only=True)
class NamedModelOptions(DetectorOptions):
    """DetectorOptions of a command whose model is no positional argument."""

    model: Path | str | onnx.ModelProto | None = path_option(
        help="ONNX file or built engine (default: the shipped model)."
    )


@dataclass(frozen=True, kw_only=True)
class CamerasOptions(OptionGroup):
    """Many cameras through one executor and a real engine, without ROS."""

    detector: DetectorOptions = nested(NamedModelOptions, without=("max_batch",))
    cameras: Sequence[int] = option([8], minimum=1, metavar="N", help="Number of cameras.")
    rate: float = option(30.0, above=0.0, unit="Hz", help="Rate of each camera.")
    size: tuple[int, int] = size_option(CAMERA_SIZE, help="Size of the images.")
    encoding: str = option("bgr8", choices=tuple(sorted(ENCODINGS)), help="Encoding of the images.")
    max_batch: Sequence[int] = option([1], minimum=1, metavar="N", help="Most images of a call.")
    overlap: Sequence[str] = option(
        ["yes"],
        choices=("yes", "no"),
        help="Whether the next call is given to a device while it works on the last.",
    )
    queue_depth: int = again(options_of(StreamConfig)["queue_depth"], default=2)
    seconds: float = option(5.0, above=0.0, unit="s", help="Length of each measurement.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_frames(self.rate, self.seconds, options_of(type(self)))


@dataclass(frozen=True, kw_only=True)
class CpuOptions(OptionGroup):
    """CPU preprocessing, decode + NMS and the whole path, against YOLOX's ONNX demo."""

    model: Path | None = path_option(help="Undecoded YOLOX ONNX (default: the shipped one).")
    source: Path | None = path_option(
        metavar="IMAGE", help="Photograph (default: scikit-image's, side by side)."
    )
    size: tuple[int, int] = size_option(CAMERA_SIZE, help="Size of the image.")
    seconds: float = option(3.0, above=0.0, unit="s", help="Length of each stage's measurement.")
    threads: int | None = again(_DETECTOR["threads"])


@dataclass(frozen=True, kw_only=True)
class ExecutorOptions(OptionGroup):
    """The executor's own time for each frame, with simulated engines.

    The engines sleep for a constant time, so what is left is the executor: from submit() to the
    start of detect() (less the time that the device was still busy with another frame), and from
    the end of detect() to the call of on_result.
    """

    streams: int = option(8, minimum=1, help="Number of streams.")
    rate: float = option(30.0, above=0.0, unit="Hz", help="Rate of each stream.")
    engine_ms: float = option(1.0, above=0.0, unit="ms", help="Time of a simulated call.")
    devices: Sequence[Device] = option(
        ["gpu", "dla0", "dla1"],
        flag="--device",
        parse=lambda names: tuple(Device.parse(name) for name in names),
        help="Simulated device.",
    )
    policy: str = option(
        "balanced", choices=("static", "balanced", "dynamic"), help="Placement policy."
    )
    arrival: str = option(
        "staggered",
        choices=("staggered", "together"),
        help="Whether the streams' frames come evenly spread or all at once.",
    )
    seconds: float = option(
        20.0, above=0.0, unit="s", help="Length of the measurement; a second before is not counted."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_frames(self.rate, self.seconds, options_of(type(self)))


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(OptionGroup):
    """A network by itself: any ONNX model with one image input, without pre- and postprocessing."""

    model: Path | None = path_option(help="ONNX file (default: the shipped one).")
    device: Device = option(
        "cpu", parse=Device.parse, help="cpu (ONNX Runtime), or gpu, gpu:N, dla0, dla1 (TensorRT)."
    )
    precision: str | None = again(_DETECTOR["precision"])
    input_size: tuple[int, int] | None = size_option(
        unit="pixels", help="Input size, where the model leaves it open or in place of its own."
    )
    max_batch: int | None = option(
        None, kind=Kind.INTEGER, minimum=1, flag="--batch", help="Images of a run (default: the "
        "model's).",
    )  # fmt: skip
    threads: int | None = again(_DETECTOR["threads"])
    runs: int = option(20, minimum=1, help="Runs of which the median is taken.")


_GPU_FORMATS = ("float32:nchw", "float16:nchw", "uint8:nchw")
_DLA_FORMATS = ("int8:hwc4", "float16:chw16", "int8:chw32")


@dataclass(frozen=True, kw_only=True)
class KernelsOptions(OptionGroup):
    """CUDA kernels: preprocessing against the copy bandwidth, decode + NMS."""

    encodings: Sequence[str] = option(
        ["bgr8", "nv12", "uyvy"],
        flag="--encoding",
        choices=tuple(sorted(ENCODINGS)),
        help="Encoding of the images.",
    )
    batches: Sequence[int] = option(
        [1, 8], flag="--batch", minimum=1, metavar="N", help="Images of a launch."
    )
    formats: Sequence[str] = option(
        ["float32:nchw", "float16:nchw"],
        flag="--format",
        choices=(*_GPU_FORMATS, *_DLA_FORMATS),
        help="Element type and layout of the network's input; the DLA's layouts have their outputs "
        "measured too.",
    )
    tile: Sequence[int] = option(
        [],
        kind=Kind.INTEGER_ARRAY,
        help="A constant of preprocess.cu's tile, given five times in the order of "
        "kernels.cuda.preprocess.Tile (default: the shipped choice).",
    )
    skip: Sequence[str] = option(
        [],
        kind=Kind.STRING_ARRAY,
        choices=("preprocess", "postprocess", "masks"),
        help="Leave these kernels out.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.tile) not in (0, 5):
            tile = options_of(type(self))["tile"]
            raise ConfigurationError((tile, f" {len(self.tile)} times"), expected="none or five")


@dataclass(frozen=True, kw_only=True)
class PipelineOptions(OptionGroup):
    """Host bytes to host detections on the GPU: engine, copy, and everything else."""

    model: Path | None = path_option(help="FP32 ONNX model (default: the shipped one).")
    precisions: Sequence[str] = option(
        ["fp32", "fp16"],
        flag="--precision",
        choices=("fp32", "fp16"),
        help="Precision of the network.",
    )
    batches: Sequence[int] = option(
        [1, 8], flag="--batch", minimum=1, metavar="N", help="Images of a call."
    )
    size: tuple[int, int] = size_option(CAMERA_SIZE, help="Size of the images.")
    encoding: str = option("bgr8", choices=("bgr8", "rgb8"), help="Encoding of the images.")
    calls: int = option(60, minimum=1, help="Timed calls of each kind.")


@dataclass(frozen=True, kw_only=True)
class WorkersOptions(OptionGroup):
    """detect() in several processes at a time, a GPU each, or a core.

    Frames of noise lie in memory: what is measured is what a machine gains by each further GPU,
    without reading and decoding images.
    """

    detector: DetectorOptions = nested(NamedModelOptions)
    workers: Sequence[int] = option([1, 2], minimum=1, metavar="N", help="Number of processes.")
    size: tuple[int, int] = size_option(CAMERA_SIZE, help="Size of the images.")
    overlap: Sequence[str] = again(options_of(CamerasOptions)["overlap"], default=["no", "yes"])
    seconds: float = again(options_of(CamerasOptions)["seconds"])


def check_frames(rate: float, seconds: float, named: Mapping[str, Option]) -> None:
    """Refuse a time in which no frame comes.

    Raises:
        ConfigurationError: `rate` times `seconds` is below 1.
    """
    if rate * seconds < 1.0:
        raise ConfigurationError(
            (named["rate"], f" {rate:g} for ", named["seconds"], f" {seconds:g}"),
            expected="at least one frame of each camera",
            fix=("raise ", named["seconds"], f" to {1.0 / rate:g} or more"),
        )
