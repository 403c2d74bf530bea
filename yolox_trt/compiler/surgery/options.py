# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""SurgeryOptions: what `optimize` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.input_size import InputSize, Size, tool_size_option
from yolox_trt.core.labels import load_class_names
from yolox_trt.core.model_spec import PREPROCESSING_FORM, Preprocessing, parse_preprocessing
from yolox_trt.core.option import Kind, option, options_of

_INPUT, _HEAD = "input", "head"


def _read_names(path: str) -> tuple[str, ...]:
    return tuple(load_class_names(path))


@dataclass(frozen=True, kw_only=True)
class SurgeryOptions(DlaTarget):
    """What the pipeline shall make of a model. None keeps what the model has.

    Raises:
        ConfigurationError: a value out of range, or two that exclude each other.
    """

    target: str = option(
        "gpu",
        choices=("gpu", "dla"),
        help="What the model is for; dla fixes an open batch to 1 and splits grouped convolutions.",
    )
    skip: frozenset[str] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=frozenset,
        metavar="PASS",
        help="Leave a pass out.",
    )
    batch: int | None = option(
        None, kind=Kind.INTEGER, minimum=1, help="Fix the batch.", group=_INPUT
    )
    open_batch: bool = option(
        False, help="Let the batch be any (GPU and CPU, not the DLA).", group=_INPUT
    )
    input_size: InputSize | None = tool_size_option(group=_INPUT)
    preprocessing: Preprocessing | None = option(
        None,
        kind=Kind.STRING,
        parse=parse_preprocessing,
        metavar="FORM",
        help=f"What the input expects, written into the metadata (default: as they say): "
        f"{PREPROCESSING_FORM}.",
        group=_INPUT,
    )
    class_names: tuple[str, ...] | None = option(
        None,
        kind=Kind.STRING,
        parse=_read_names,
        flag="--labels",
        metavar="FILE",
        help="Class names, one a line, written into the metadata (default: as they say).",
        group=_INPUT,
    )
    fold_preprocessing: bool = option(
        False,
        help="Fold colour order, scale and mean into the first convolution.",
        group=_INPUT,
    )
    uint8_input: bool = option(
        False, help="Take bytes (GPU only); folds the preprocessing too.", group=_INPUT
    )
    head: str = option(
        "auto",
        choices=("auto", "raw", "keep", "efficient-nms"),
        help="raw: a YOLOX ends at its last convolutions, reg_8, obj_8, cls_8, ..., without "
        "EfficientNMS_TRT; keep: as it is; auto: raw for a YOLOX, keep for any other network; "
        "efficient-nms: EfficientNMS_TRT attached to boxes and scores (YOLOX, YOLOv5, YOLOv8, "
        "EfficientDet).",
        group=_HEAD,
    )
    sigmoid: Literal["cut", "keep"] = option(
        "cut",
        choices=("cut", "keep"),
        help="Of a raw head: cut gives logits, keep probabilities.",
        group=_HEAD,
    )
    score_threshold: float = option(
        0.3, minimum=0.0, maximum=1.0, flag="--score", help="Of EfficientNMS.", group=_HEAD
    )
    iou_threshold: float = option(
        0.45, minimum=0.0, maximum=1.0, flag="--nms", help="IoU of EfficientNMS.", group=_HEAD
    )
    max_output_boxes: int = option(
        300, minimum=1, flag="--max-detections", help="Of EfficientNMS.", group=_HEAD
    )
    class_agnostic: bool = option(
        False, help="EfficientNMS lets boxes of all classes suppress each other.", group=_HEAD
    )
    replace_abs: bool = option(
        False, help="Write Abs as Sqrt of the square, for compilers without Abs.", group="DLA rules"
    )
    max_groups: int | None = option(
        None,
        kind=Kind.INTEGER,
        minimum=1,
        help="Split convolutions with more groups (default: than the DLA takes).",
        group="DLA rules",
    )

    @property
    def fixed_size(self) -> Size | None:
        """The size that `input_size` names, None where it leaves it to the model."""
        return self.input_size if isinstance(self.input_size, tuple) else None

    def __post_init__(self) -> None:
        super().__post_init__()
        declared, dla = options_of(SurgeryOptions), self.target == "dla"
        target = (declared["target"], f" {self.target}")
        if self.open_batch and dla:
            raise ConfigurationError(
                (declared["open_batch"], " with ", *target),
                expected="a fixed batch: the DLA takes static batches only",
                fix=("leave ", declared["open_batch"], " out"),
            )
        if self.open_batch and self.batch is not None:
            raise ConfigurationError(
                (declared["open_batch"], " with ", declared["batch"], f" {self.batch}"),
                expected="one of them",
                fix="leave one out",
            )
        if self.uint8_input and dla:
            raise ConfigurationError(
                (declared["uint8_input"], " with ", *target),
                expected="int8 or fp16: a DLA has no unsigned type",
                fix=("leave ", declared["uint8_input"], " out (the engine takes int8:dla_hwc4)"),
            )
        if self.head == "efficient-nms" and dla:
            raise ConfigurationError(
                (declared["head"], " efficient-nms with ", *target),
                expected="a head that a DLA runs",
                fix=("set ", declared["head"], " to raw: this package decodes and suppresses"),
            )
