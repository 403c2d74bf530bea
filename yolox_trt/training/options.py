# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Options of training, distillation and export. No PyTorch here: help and checks need none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from yolox_trt.compiler.int8.options import ImageOptions, QuantizeOptions
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.labels import load_class_names
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.option import (
    Kind,
    Option,
    OptionGroup,
    again,
    nested,
    option,
    options_of,
    parse_path,
    parse_size,
    path_option,
    size_option,
)
from yolox_trt.core.output_paths import parse_output_folder
from yolox_trt.training.model_config import CONFIGS, STRIDES, Separable

DEFAULT_OPSET = 13
#: Pixels of a network's input, along one side.
_LARGEST_SIDE = 8192
#: Configurations that can teach.
SILU_CONFIGS = tuple(
    c.name for c in CONFIGS.values() if c.block == "csp" and c.activation == "silu"
)


def _device(text: str) -> Device | None:
    if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", text.lower()):  # a DLA trains nothing
        raise ConfigurationError(f"device '{text}'", expected="auto, gpu, gpu:N or cpu")
    return None if text.lower() == "auto" else Device.parse(text)


def check_input_size(declared: Option, size: tuple[int, int]) -> None:
    """Check that a network takes inputs of a size.

    Args:
        declared: the option that the error is about.
        size: (height, width) in pixels.

    Raises:
        ConfigurationError: a side is no positive multiple of the largest stride, or too long.
    """
    if not 0 < min(size) <= max(size) <= _LARGEST_SIDE or any(s % STRIDES[-1] for s in size):
        raise ConfigurationError(
            (declared, f" = {size[0]}x{size[1]}"),
            expected=f"positive multiples of {STRIDES[-1]} up to {_LARGEST_SIDE} (H x W)",
            fix=("set ", declared),
        )


def _share(default: float, group: str, help: str) -> Any:  # noqa: A002
    return option(default, group=group, minimum=0.0, maximum=1.0, help=help)


def _weight(default: float, group: str, help: str) -> Any:  # noqa: A002
    return option(default, group=group, minimum=0.0, help=help)


@dataclass(frozen=True, kw_only=True)
class AugmentOptions(OptionGroup):
    """Random views: the share of each kind in a batch, and how strong the changes are.

    Attributes:
        scale: range of a single view's size, relative to the network's input.
        mosaic_scale: the same for a tile of a mosaic.
        aspect: largest change of the ratio of width to height, as a logarithm.
    """

    plain: float = _share(0.125, "views", "Share of whole images as at inference, only mirrored.")
    mosaic: float = _share(
        0.5,
        "views",
        "Share of 2 x 2 mosaics; the rest are single images under a random affine map.",
    )
    mixup: float = _share(0.2, "views", "Share of views that another view is blended into.")
    colour: float = _weight(0.7, "views", "Strength of colour changes.")
    rotate_degrees: float = option(
        8.0, group="views", minimum=0.0, unit="degrees", help="Largest rotation."
    )
    scale: tuple[float, float] = (0.5, 2.0)
    mosaic_scale: tuple[float, float] = (0.8, 2.4)
    aspect: float = 0.25


@dataclass(frozen=True, kw_only=True)
class RunOptions(OptionGroup):
    """What every training run has."""

    size: tuple[int, int] = size_option(
        "640x640", help="Input of the network; a square, since the views are squares."
    )
    batch: int = option(16, minimum=1, maximum=65536, help="Images a step.")
    steps: int = option(10000, minimum=0, help="Optimiser steps; 0 trains for a time instead.")
    seconds: float = option(
        600.0,
        above=0.0,
        unit="s",
        help="Time of the steps where no number of them is given; begins behind the first one, "
        "which compiles.",
    )
    learning_rate: float = option(
        0.01,
        group="optimiser",
        above=0.0,
        help="Peak learning rate; `train` scales it with the batch, from 64 on.",
    )
    final_ratio: float = _share(0.05, "optimiser", "Last learning rate over the peak.")
    warmup: float = _share(0.02, "optimiser", "Share of the run in which the learning rate rises.")
    weight_decay: float = _weight(5e-4, "optimiser", "Weight decay of kernels.")
    clip: float = option(35.0, group="optimiser", above=0.0, help="Largest norm of the gradient.")
    average: float = option(
        0.9998,
        group="optimiser",
        minimum=0.0,
        maximum=0.999999,
        help="Decay of the weight average, which is what is saved.",
    )
    seed: int = option(0, minimum=0, maximum=999_999_999, help="Seed of all random numbers.")

    def __post_init__(self) -> None:
        super().__post_init__()
        size = options_of(type(self))["size"]
        check_input_size(size, self.size)
        if self.size[0] != self.size[1]:
            raise ConfigurationError(
                (size, f" = {self.size[0]}x{self.size[1]}"),
                expected="a square: the exported model may have any size",
                fix=("set ", size, f" to {max(self.size)}x{max(self.size)}"),
            )

    @property
    def side(self) -> int:
        """Side of the square input in pixels."""
        return self.size[0]


_RUN = options_of(RunOptions)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions):
    """One training run on labelled images."""

    momentum: float = option(
        0.9, group="optimiser", minimum=0.0, maximum=0.999999, help="Nesterov momentum."
    )
    plain_share: float = _share(
        0.05, "optimiser", "Last share of the steps, without mosaics and with the L1 loss of boxes."
    )
    augment: AugmentOptions = field(
        default_factory=lambda: AugmentOptions(rotate_degrees=0.0, aspect=0.1, mixup=0.0)
    )


@dataclass(frozen=True, kw_only=True)
class DistillOptions(RunOptions):
    """One distillation."""

    size: tuple[int, int] = again(_RUN["size"], default="416x416")
    batch: int = again(_RUN["batch"], default=64)
    steps: int = again(_RUN["steps"], default=0)
    learning_rate: float = again(_RUN["learning_rate"], default=2e-3)
    final_ratio: float = again(_RUN["final_ratio"], default=0.01)
    warmup: float = again(_RUN["warmup"], default=0.01)
    weight_decay: float = again(_RUN["weight_decay"], default=0.02)
    clip: float = again(_RUN["clip"], default=10.0)
    average: float = again(_RUN["average"], default=0.9995)
    form: Separable = option(
        "full",
        choices=("full", "depthwise"),
        help="3 x 3 convolutions of the student of a teacher with depthwise ones.",
    )
    batch_norm: bool = option(True, help="Batch norm behind every convolution during the training.")
    blend_until: float = _share(
        0.4, "", "Share of the run after which the activation is ReLU6 alone."
    )
    plain_share: float = again(
        options_of(TrainOptions)["plain_share"],
        default=0.2,
        group="views",
        help="Last share of the run, without mosaics and blended views: half of them whole images.",
    )
    taps: str = option(
        "blocks",
        group="losses",
        choices=("blocks", "all", "none"),
        help="Where features are compared with the teacher's: at the ends of blocks, behind every "
        "convolution, or nowhere.",
    )
    feature_weight: float = _weight(0.5, "losses", "Weight of the feature loss at the start.")
    feature_weight_end: float = _weight(0.1, "losses", "Weight of the feature loss at the end.")
    box_weight: float = _weight(3.0, "losses", "Weight of the box loss.")
    other_sizes: tuple[tuple[int, int], ...] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=lambda texts: tuple(map(parse_size, texts)),
        metavar="HxW",
        help="A further input size to train at, such as that of a wide camera; may be given "
        "several times. Each step has one of the sizes by chance, and the exported model wishes "
        "`input_size` auto.",
    )
    compile: bool = option(
        False,
        help="Use torch.compile: two or three minutes before the first step, then faster ones.",
    )
    cuda_graph: bool = option(False, help="Record a whole step as a CUDA graph.")
    canvas: int = option(
        448,
        minimum=2,
        maximum=_LARGEST_SIDE,
        unit="pixels",
        help="Side at which images are kept in memory; longer ones are shrunk to it.",
    )
    augment: AugmentOptions = nested(AugmentOptions)

    @property
    def all_sizes(self) -> tuple[tuple[int, int], ...]:
        """`size` and `other_sizes`, each (height, width) once."""
        return tuple(dict.fromkeys((self.size, *self.other_sizes)))

    def __post_init__(self) -> None:
        super().__post_init__()
        for size in self.other_sizes:
            check_input_size(options_of(type(self))["other_sizes"], size)
        views = self.augment
        if views.plain + views.mosaic > 1.0:
            plain, mosaic = (options_of(AugmentOptions)[name] for name in ("plain", "mosaic"))
            raise ConfigurationError(
                (plain, f" = {views.plain} and ", mosaic, f" = {views.mosaic}"),
                expected="two shares of one batch, together at most 1",
                fix=("lower ", plain, " or ", mosaic),
            )


def _paths(texts: Sequence[str]) -> tuple[Path, ...]:
    return tuple(map(parse_path, texts))


@dataclass(frozen=True, kw_only=True)
class Job(OptionGroup):
    """What every run has: where it trains, and where it is written."""

    output: Path = option(
        parse=parse_output_folder,
        flag="--output -o",
        metavar="FOLDER",
        help="Folder for weights, ONNX file, checkpoint and log.",
    )
    resume: Path | None = path_option(
        help="Run to go on with: its checkpoint.pt, with the options that it had."
    )
    save_every: float = option(
        120.0, above=0.0, unit="s", help="Time from one checkpoint to the next."
    )
    device: Device | None = option(
        "auto", parse=_device, help="gpu, gpu:N or cpu; auto takes the GPU where there is one."
    )

    #: Names of the files with what was trained.
    results: ClassVar[tuple[str, ...]]

    @property
    def files(self) -> list[Path]:
        """What is written into the folder; but for the checkpoint of a run that goes on."""
        own = ("log.json",) if self.resume else ("log.json", "checkpoint.pt")
        return [self.output / name for name in (*self.results, *own)]


@dataclass(frozen=True, kw_only=True)
class TrainJob(Job):
    """What `train` reads, trains and writes."""

    results = ("model.pt", "model.onnx")

    model: str = option(
        "yolox_s_opt", choices=tuple(sorted(CONFIGS)), help="Configuration of the network."
    )
    dla_ready: bool = option(
        False, help="Give it ReLU6, a strided stem and chained pools, as a DLA needs."
    )
    annotations: Path = option(parse=parse_path, metavar="FILE", help="COCO instances_*.json.")
    images: Path = option(parse=parse_path, metavar="FOLDER", help="Folder of its images.")
    masks: Path | None = path_option(
        metavar="FOLDER",
        help="Folder of the images' masks, for a segmentation head beside the detection head: PNG "
        "files of the images' names, the class of each pixel in 8 bits, 255 for none.",
    )
    mask_labels: tuple[str, ...] | None = path_option(
        parse=load_class_names, help="Names of the classes of the masks, one a line."
    )
    mask_stride: int = option(
        "4",
        choices=("1", "2", "4", "8"),
        parse=int,
        unit="pixels",
        help="Side of a cell of the segmentation head.",
    )
    options: TrainOptions = nested(TrainOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        named = options_of(type(self))
        if (self.masks is None) != (self.mask_labels is None):
            given, absent = ("masks", "mask_labels")[:: 1 if self.masks else -1]
            raise ConfigurationError(
                (named[given], " alone"),
                expected=("both it and ", named[absent]),
                fix=("add ", named[absent]),
            )


@dataclass(frozen=True, kw_only=True)
class DistillJob(Job):
    """What `distill` reads, trains and writes."""

    results = ("student.pt", "student.onnx")

    teacher: Path = option(parse=parse_path, metavar="FILE", help="Exported YOLOX ONNX (SiLU).")
    teacher_name: str = option(
        "yolox_nano", choices=SILU_CONFIGS, help="Configuration that the teacher was exported from."
    )
    images: tuple[Path, ...] = option(
        kind=Kind.STRING_ARRAY, parse=_paths, metavar="FOLDER", help="Folders with photographs."
    )
    held_out: tuple[Path, ...] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=_paths,
        metavar="FOLDER",
        help="Folders that are never trained on; the student is measured on them.",
    )
    resume: Path | None = again(
        options_of(Job)["resume"],
        help="Run to go on with: its checkpoint.pt, with the options that it had; or a student.pt "
        "or student.onnx, such as the shipped model, to begin a new run from.",
    )
    equalize_images: int = option(
        96,
        minimum=0,
        flag="--equalize-images --equalise-images",
        help="Images for the ranges of channels; 0 for no equalisation.",
    )
    limit: int = option(0, minimum=0, help="Use only so many images; 0 for all.")
    options: DistillOptions = nested(DistillOptions)


@dataclass(frozen=True, kw_only=True)
class QatOptions(RunOptions):
    """One quantisation-aware training."""

    size: tuple[int, int] = again(_RUN["size"], default="416x416")
    batch: int = again(_RUN["batch"], default=32)
    steps: int = again(_RUN["steps"], default=1000)
    learning_rate: float = again(
        _RUN["learning_rate"],
        default=2e-4,
        help="Peak learning rate, as a share of each weight tensor's own size.",
    )
    final_ratio: float = again(_RUN["final_ratio"], default=0.01)
    weight_decay: float = again(_RUN["weight_decay"], default=0.0)
    clip: float = again(_RUN["clip"], default=10.0)
    average: float = again(_RUN["average"], default=0.998)
    shared_scales: bool = option(
        True,
        help="One scale for tensors that a DLA wants equal: those of a concatenation, of a sum.",
    )
    feature_weight: float = _weight(
        0.1, "losses", "Weight of the feature loss, at the ends of blocks."
    )
    box_weight: float = again(options_of(DistillOptions)["box_weight"])
    label_weight: float = _weight(0.2, "losses", "Weight of the labels' loss, where there are any.")
    cuda_graph: bool = again(options_of(DistillOptions)["cuda_graph"])
    canvas: int = again(options_of(DistillOptions)["canvas"])
    augment: AugmentOptions = nested(AugmentOptions)


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions(ImageOptions):
    """Images that the first scales are found with."""

    images: Path | None = again(
        options_of(ImageOptions)["images"],
        flag="--calibration",
        help="Images for the first scales: a folder, a list file, a COCO folder or json (default: "
        "the first of the training's folders).",
    )
    limit: int = again(options_of(ImageOptions)["limit"], default=128, flag="--calibration-images")


@dataclass(frozen=True, kw_only=True)
class QatJob(Job):
    """What `qat` reads, trains and writes."""

    results = ("qat.onnx",)

    model: Path = option(parse=parse_path, flag="MODEL", help="Float ONNX model.")
    images: tuple[Path, ...] = again(options_of(DistillJob)["images"])
    held_out: tuple[Path, ...] = again(options_of(DistillJob)["held_out"])
    annotations: Path | None = path_option(
        help="COCO instances_*.json of labelled images, a quarter of each batch."
    )
    labelled_images: Path | None = path_option(metavar="FOLDER", help="Folder of these images.")
    limit: int = again(options_of(DistillJob)["limit"])
    calibration: CalibrationOptions = nested(CalibrationOptions, without=("input_size",))
    quantization: QuantizeOptions = nested(
        QuantizeOptions, without=("weights", "from_ranges", "int8_outputs")
    )
    options: QatOptions = nested(QatOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        declared = options_of(QatJob)
        both = declared["annotations"], declared["labelled_images"]
        if (self.annotations is None) != (self.labelled_images is None):
            given = both[0] if self.labelled_images is None else both[1]
            raise ConfigurationError(
                (given, " alone"), expected="both or none", fix=("give ", both[0], " and ", both[1])
            )
        if self.annotations is not None and self.options.cuda_graph:
            graph = options_of(QatOptions)["cuda_graph"]
            raise ConfigurationError(
                (graph, " with ", both[0]),
                expected="steps of one form: each image has another number of boxes",
                fix=("leave out ", graph),
            )


@dataclass(frozen=True, kw_only=True)
class ExportOptions(OptionGroup):
    """The form in which a trained model is written as ONNX."""

    size: tuple[int, int] | None = size_option(
        help="Input of the network, multiples of 32 (default: the configuration's)."
    )
    batch: int = option(
        1, minimum=1, maximum=LIMITS.batch, help="Images a run; the DLA takes fixed batches only."
    )
    dynamic_batch: bool = option(False, help="Leave the batch open (GPU and CPU only).")
    form: str = option(
        "raw",
        choices=("raw", "decoded"),
        help="raw: the last convolutions' outputs, as the DLA needs them; decoded: one tensor with "
        "boxes in pixels and probabilities.",
    )
    argmax: bool = option(
        False, help="End a segmentation head in an ArgMax: classes (N, h, w) in place of logits."
    )
    half_weights: bool = option(
        False,
        help="Store weights as float16: half the file. Runtimes compute in float32 as before.",
    )
    auto_size: bool = option(
        False,
        help="Let the model wish `input_size` auto: it runs at the size that fits the images, "
        "where nobody names another one.",
    )
    opset: int = option(DEFAULT_OPSET, minimum=9, maximum=20, help="ONNX operator set to write.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None:
            check_input_size(options_of(ExportOptions)["size"], self.size)
