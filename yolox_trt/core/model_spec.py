# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ModelSpec: what a YOLOX network takes and gives, found from its graph."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from dataclasses import dataclass
from typing import Any

from yolox_trt.core.errors import FILE_ERRORS, ModelError
from yolox_trt.core.letterbox import PAD_VALUE

#: ONNX metadata_props keys; values are JSON. Written by training, surgery and quantisation,
#: read by graph.spec.
METADATA_PREPROCESSING = "yolox_trt.preprocessing"
METADATA_CLASS_NAMES = "yolox_trt.class_names"
METADATA_STRIDES = "yolox_trt.strides"
METADATA_SIGMOID = "yolox_trt.sigmoid"
METADATA_ACTIVATION = "yolox_trt.activation"


class HeadLayout(enum.Enum):
    """Form of a network's output. A is the number of anchors (grid cells over all levels)."""

    UNDECODED = "undecoded"
    """One tensor (N, A, 5 + C): x y w h relative to the grid, objectness, classes."""
    DECODED = "decoded"
    """One tensor (N, A, 5 + C): centre x y, width, height in input pixels, objectness, classes."""
    RAW_LEVELS = "raw_levels"
    """Per level NCHW tensors: box (4), objectness (1), classes (C), split or concatenated."""
    EFFICIENT_NMS = "efficient_nms"
    """EfficientNMS_TRT: num_detections (N,1), boxes (N,K,4) x1 y1 x2 y2, scores, classes (N,K)."""


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects in its input, besides the Letterbox.

    A value in 0..255 becomes (value * scale - mean[c]) / std[c], c in the order of `color_order`.

    Attributes:
        color_order: "bgr" (YOLOX >= 0.1.1) or "rgb".
        scale: factor on 0..255 values; 1 / 255 for YOLOX 0.1.0.
        mean: three numbers, in the channel order of `color_order`, after `scale`.
        std: three numbers, likewise.
        pad: value of the padding in 0..255, before scale, mean and std.
    """

    color_order: str = "bgr"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    pad: int = PAD_VALUE

    def __post_init__(self) -> None:
        if (
            self.color_order not in ("bgr", "rgb")
            or len(self.mean) != 3
            or len(self.std) != 3
            or not all(_is_finite(v) for v in (self.scale, *self.mean, *self.std))
            or 0.0 in self.std
            or not (type(self.pad) is int and 0 <= self.pad <= 255)
        ):
            raise ModelError(
                f"preprocessing {self}",
                expected="color_order bgr or rgb, a finite scale, three finite means, three finite "
                "stds other than 0, a whole pad from 0 to 255",
                fix=f"choose another preprocessing, or mend metadata '{METADATA_PREPROCESSING}'",
            )

    @property
    def is_identity(self) -> bool:
        """Whether values stay 0..255 (no scale, mean, std)."""
        return self.scale == 1.0 and self.mean == (0.0,) * 3 and self.std == (1.0,) * 3

    @property
    def factors(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return (multiplier, offset) of each channel: out = value * multiplier + offset."""
        multiplier = tuple(self.scale / s for s in self.std)
        offset = tuple(-m / s for m, s in zip(self.mean, self.std, strict=True))
        return multiplier, offset

    def to_json(self) -> str:
        """Return the JSON object of the ONNX metadata."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """Read the JSON object of the ONNX metadata.

        Raises:
            ModelError: not an object with the attributes of this class.
        """
        with ModelError.instead_of(
            FILE_ERRORS,
            f"preprocessing metadata {text!r}",
            expected='like {"color_order": "bgr", "scale": 1.0, "mean": [0, 0, 0], '
            '"std": [1, 1, 1], "pad": 114}',
            fix=f"write the ONNX metadata '{METADATA_PREPROCESSING}' again",
        ):
            return cls._of(json.loads(text))

    @classmethod
    def _of(cls, values: dict[str, Any]) -> Preprocessing:
        typed: dict[str, Any] = {
            key: tuple(map(float, values[key])) for key in ("mean", "std") if key in values
        }
        if isinstance(pad := values.get("pad"), float) and pad.is_integer():
            values = {**values, "pad": int(pad)}  # other tools write numbers as 114.0
        return cls(**{**values, **typed})


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


#: Values of the option `preprocessing`.
PREPROCESSING_PRESETS: dict[str, Preprocessing] = {
    # YOLOX >= 0.1.1: preproc() without normalisation.
    "bgr": Preprocessing(),
    # YOLOX 0.1.0: RGB, / 255, ImageNet mean and std; its padding is 114 before normalisation.
    "rgb_imagenet": Preprocessing("rgb", 1.0 / 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "rgb": Preprocessing("rgb"),
    "rgb_unit": Preprocessing("rgb", 1.0 / 255.0),
}


@dataclass(frozen=True)
class HeadTensor:
    """Channels of one output tensor of a raw level.

    Attributes:
        name: name of the graph's output.
        channel: first channel in that tensor (0 where the output is split).
    """

    name: str
    channel: int = 0


@dataclass(frozen=True)
class HeadLevel:
    """One level of the head.

    Attributes:
        stride: input pixels for each grid cell.
        height: grid rows.
        width: grid columns.
        box, objectness, classes: where the level's raw values are; None unless RAW_LEVELS.
    """

    stride: int
    height: int
    width: int
    box: HeadTensor | None = None
    objectness: HeadTensor | None = None
    classes: HeadTensor | None = None


@dataclass(frozen=True)
class ModelSpec:
    """What a YOLOX network takes and gives. Made by graph.spec, kept beside engine files.

    Attributes:
        input_name: name of the image input.
        input_height: rows of the input, a multiple of the largest stride.
        input_width: columns of the input, likewise.
        batch: images in one run, or None where the graph leaves it open.
        num_classes: classes C.
        head: form of the output.
        output_names: graph outputs in graph order; for EFFICIENT_NMS always in the order
            num_detections, boxes, scores, classes, whatever the order in the graph.
        levels: levels in the order of the anchors (ascending stride), empty for EFFICIENT_NMS.
        input_dtype: numpy name of the input's element type, "float32", "float16" or "uint8".
        sigmoid: whether objectness and classes come out as probabilities.
        preprocessing: what the input values mean.
        class_names: C names, or () where unknown.
    """

    input_name: str
    input_height: int
    input_width: int
    batch: int | None
    num_classes: int
    head: HeadLayout
    output_names: tuple[str, ...]
    levels: tuple[HeadLevel, ...]
    input_dtype: str = "float32"
    sigmoid: bool = True
    preprocessing: Preprocessing = Preprocessing()
    class_names: tuple[str, ...] = ()

    @property
    def num_anchors(self) -> int:
        """Grid cells over all levels, A."""
        return sum(level.height * level.width for level in self.levels)

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides in the order of the levels."""
        return tuple(level.stride for level in self.levels)

    def class_name(self, class_id: int) -> str:
        """Return a class's name, or its number where the model does not name it."""
        return self.class_names[class_id] if class_id < len(self.class_names) else str(class_id)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self) | {"head": self.head.value}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelSpec:
        """Read what to_dict wrote (lists where it wrote tuples are accepted).

        Raises:
            ModelError: an attribute is missing or unknown.
        """
        with ModelError.instead_of(
            FILE_ERRORS,
            "model description that cannot be read",
            expected="what ModelSpec.to_dict writes",
            fix="build the engine again",
        ):
            levels: list[dict[str, Any]] = [
                {k: HeadTensor(**v) if isinstance(v, dict) else v for k, v in level.items()}
                for level in values["levels"]
            ]
            typed = {
                "levels": tuple(HeadLevel(**level) for level in levels),
                "preprocessing": Preprocessing._of(values["preprocessing"]),
                "head": HeadLayout(values["head"]),
                "output_names": tuple(values["output_names"]),
                "class_names": tuple(values["class_names"]),
            }
            return cls(**{**values, **typed})
