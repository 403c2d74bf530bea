# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""SurgeryOptions: what `optimize` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.model_spec import Preprocessing

Target = Literal["gpu", "dla"]
Head = Literal["raw", "keep", "efficient-nms"]


@dataclass(frozen=True)
class SurgeryOptions:
    """What the pipeline shall make of a model.

    Attributes:
        target: "dla" (batch 1 unless told, grouped convolutions within its limits) or "gpu".
        tensorrt: version whose DLA rules count.
        precision: "int8" or "fp16", for the DLA's rules.
        soc: "orin" or "xavier".
        batch: images in one run; None keeps the model's (an open batch becomes 1 on a DLA).
        open_batch: any number of images in one run (GPU and CPU).
        input_size: (height, width) in pixels; None keeps the model's.
        head: "raw" (reg_8, obj_8, cls_8, ...), "keep", or "efficient-nms".
        sigmoid: of a raw head, "cut" (logits) or "keep" (probabilities).
        preprocessing: what the input expects, written into the metadata; None keeps them.
        class_names: likewise.
        fold_preprocessing: fold the metadata's colour order and normalisation into the first
            convolution.
        uint8_input: uint8 input (GPU; folds the preprocessing).
        max_groups: most groups of a convolution; None for the DLA's own limit (or, for the GPU,
            as many as there are).
        score_threshold, iou_threshold, max_output_boxes, class_agnostic: of EfficientNMS.
        skip: names of passes to leave out.
    """

    target: Target = "gpu"
    tensorrt: str = "8.6"
    precision: Literal["int8", "fp16"] = "int8"
    soc: str = "orin"
    batch: int | None = None
    open_batch: bool = False
    input_size: tuple[int, int] | None = None
    head: Head = "raw"
    sigmoid: Literal["cut", "keep"] = "cut"
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None
    fold_preprocessing: bool = False
    uint8_input: bool = False
    max_groups: int | None = None
    score_threshold: float = 0.3
    iou_threshold: float = 0.45
    max_output_boxes: int = 300
    class_agnostic: bool = False
    skip: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ConfigurationError: with the option to change.
        """
        for name, value, allowed in (
            ("target", self.target, ("gpu", "dla")),
            ("head", self.head, ("raw", "keep", "efficient-nms")),
            ("sigmoid", self.sigmoid, ("cut", "keep")),
            ("precision", self.precision, ("int8", "fp16")),
        ):
            if value not in allowed:
                raise ConfigurationError(
                    f"{name} = {value!r}",
                    expected=" or ".join(allowed),
                    fix=f"set `--{name}`",
                )
        if self.open_batch and self.target == "dla":
            raise ConfigurationError(
                "an open batch for the DLA",
                expected="a fixed one: the DLA takes static batches only",
                fix="leave `--open-batch` out, or `--target gpu`",
            )
        if self.open_batch and self.batch is not None:
            raise ConfigurationError(
                f"an open batch, and batch {self.batch}",
                expected="one of them",
                fix="leave `--batch` or `--open-batch` out",
            )
        if self.target == "dla" and self.uint8_input:
            raise ConfigurationError(
                "a uint8 input for the DLA",
                expected="int8 or fp16: a DLA has no unsigned type",
                fix="leave `--uint8-input` out (the engine takes int8:dla_hwc4), or `--target gpu`",
            )
        if self.target == "dla" and self.head == "efficient-nms":
            raise ConfigurationError(
                "EfficientNMS_TRT for the DLA",
                expected="a head that a DLA runs",
                fix="use `--head raw` (this package decodes and suppresses itself), or "
                "`--target gpu`",
            )
