# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ModelSpec: what a detector's network takes and gives, found from its graph."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from yolox_trt.core.documents import checked, parse_json
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError, ModelError
from yolox_trt.core.letterbox import PAD_VALUE, RESIZES
from yolox_trt.core.limits import LIMITS, clean_text
from yolox_trt.core.option import as_float

#: ONNX metadata_props keys; values are JSON. Written by training, surgery and quantisation,
#: read by graph.spec.
METADATA_PREPROCESSING = "yolox_trt.preprocessing"
METADATA_CLASS_NAMES = "yolox_trt.class_names"
METADATA_STRIDES = "yolox_trt.strides"
METADATA_SIGMOID = "yolox_trt.sigmoid"
METADATA_ACTIVATION = "yolox_trt.activation"
METADATA_MASK_CLASS_NAMES = "yolox_trt.mask_class_names"
#: What the option `input_size` is where nobody sets it: "auto", "model" or "HxW".
METADATA_INPUT_SIZE = "yolox_trt.input_size"
METADATA_MODEL_TYPE = "yolox_trt.model_type"
METADATA_BOX_FORMAT = "yolox_trt.box_format"


class HeadLayout(enum.Enum):
    """Form of a network's output. A is the number of anchors (grid cells over all levels)."""

    UNDECODED = "undecoded"
    """One tensor (N, A, 5 + C): x y w h relative to the grid, objectness, classes."""
    DECODED = "decoded"
    """One tensor (N, A, 5 + C): box (YOLOX and YOLOv5: centre x y, width, height in input pixels),
    objectness, classes."""
    RAW_LEVELS = "raw_levels"
    """Per level NCHW tensors: box (4), objectness (1), classes (C), split or concatenated."""
    EFFICIENT_NMS = "efficient_nms"
    """EfficientNMS_TRT: num_detections (N,1), boxes (N,K,4) x1 y1 x2 y2, scores, classes (N,K)."""
    CLASS_SCORES = "class_scores"
    """One tensor (N, 4 + C, A) or (N, A, 4 + C): box, classes; no objectness (YOLOv8)."""
    BOXES_AND_SCORES = "boxes_and_scores"
    """Two tensors: boxes (N, A, 4), classes (N, A, C); no objectness (EfficientDet, DETR)."""
    END_TO_END = "end_to_end"
    """One tensor (N, K, 6): box x1 y1 x2 y2, score, class; none to suppress (YOLOv10)."""
    LABELS_BOXES_SCORES = "labels_boxes_scores"
    """Labels (N, K), boxes (N, K, 4), scores (N, K); none to suppress (RT-DETR)."""
    NONE = "none"
    """Any outputs: no detections are read from them."""
    CUSTOM = "custom"
    """What a core.model_types.CustomDetector decodes."""


#: Forms that hold detections already, and no candidates.
FINISHED = frozenset(
    {HeadLayout.EFFICIENT_NMS, HeadLayout.END_TO_END, HeadLayout.LABELS_BOXES_SCORES}
)


class BoxFormat(enum.Enum):
    """What the four numbers of a box are, where the graph has decoded it."""

    CXCYWH = "cxcywh"
    """Centre x y, width, height in input pixels."""
    XYXY = "xyxy"
    """Corners x1 y1 x2 y2 in input pixels."""
    CXCYWH_RELATIVE = "cxcywh_relative"
    """Centre x y, width, height as parts of the input's width and height."""
    XYXY_RELATIVE = "xyxy_relative"
    """Corners x1 y1 x2 y2 likewise."""
    ANCHORS = "anchors"
    """EfficientDet: dy dx dh dw from core.anchors, not decoded yet."""

    @property
    def is_relative(self) -> bool:
        """Whether they are parts of the input's size."""
        return self.value.endswith("_relative")


#: Values of the option `box_format`.
BOX_FORMATS = tuple(form.value for form in BoxFormat if form is not BoxFormat.ANCHORS)


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects in its input.

    A value in 0..255 becomes (value * scale - mean[c]) / std[c], c in the order of `color_order`.

    Attributes:
        color_order: "bgr" (YOLOX >= 0.1.1) or "rgb".
        scale: factor on 0..255 values; 1 / 255 for YOLOX 0.1.0.
        mean: three numbers, in the channel order of `color_order`, after `scale`.
        std: three numbers, likewise.
        pad: value of the padding in 0..255, before scale, mean and std.
        resize: how an image is brought to the input's size, one of core.letterbox.RESIZES.
    """

    color_order: str = "bgr"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    pad: int = PAD_VALUE
    resize: str = RESIZES[0]

    def __post_init__(self) -> None:
        if (
            self.color_order not in ("bgr", "rgb")
            or len(self.mean) != 3
            or len(self.std) != 3
            or not all(_is_finite(v) for v in (self.scale, *self.mean, *self.std))
            or 0.0 in self.std
            or not (type(self.pad) is int and 0 <= self.pad <= 255)
            or self.resize not in RESIZES
        ):
            raise ModelError(
                f"preprocessing {self}",
                expected="color_order bgr or rgb, a finite scale, three finite means, three finite "
                f"stds other than 0, a whole pad from 0 to 255, resize {', '.join(RESIZES)}",
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
            f"preprocessing metadata {text!r:.200}",
            expected='like {"color_order": "bgr", "scale": 1.0, "mean": [0, 0, 0], '
            '"std": [1, 1, 1], "pad": 114, "resize": "letterbox"}',
            fix=f"write the ONNX metadata '{METADATA_PREPROCESSING}' again",
        ):
            return cls._of(parse_json(text))

    @classmethod
    def _of(cls, values: dict[str, Any]) -> Preprocessing:
        typed: dict[str, Any] = {
            key: tuple(map(float, values[key])) for key in ("mean", "std") if key in values
        }
        if isinstance(pad := values.get("pad"), float) and pad.is_integer():
            values = {**values, "pad": int(pad)}  # other tools write numbers as 114.0
        return cls(**{**values, **typed})


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(as_float(value))


#: First words of the option `preprocessing`.
PREPROCESSING_PRESETS: dict[str, Preprocessing] = {
    # YOLOX >= 0.1.1: preproc() without normalisation.
    "bgr": Preprocessing(),
    # YOLOX 0.1.0: RGB, / 255, ImageNet mean and std; its padding is 114 before normalisation.
    "rgb_imagenet": Preprocessing("rgb", 1.0 / 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "rgb": Preprocessing("rgb"),
    "rgb_unit": Preprocessing("rgb", 1.0 / 255.0),
}
#: What the option `preprocessing` takes, for its help.
PREPROCESSING_FORM = (
    "a preset (" + ", ".join(sorted(PREPROCESSING_PRESETS)) + "), and behind it with commas what "
    "differs: order=rgb, scale=1/255, mean=0.5:0.5:0.5, std=0.2:0.2:0.2 (one number for all "
    "channels), pad=0, resize=" + " or ".join(RESIZES)
)


def parse_preprocessing(text: str) -> Preprocessing:
    """Read a preset and what differs from it, such as "rgb_unit,resize=stretch,pad=0".

    Raises:
        ConfigurationError: an unknown preset or word, or a number that is none.
    """
    preset, *changes = (word.strip() for word in text.split(","))
    if preset not in PREPROCESSING_PRESETS:
        raise ConfigurationError.unknown("preprocessing", preset, sorted(PREPROCESSING_PRESETS))
    values: dict[str, Any] = {}
    for change in changes:
        word, _, value = (part.strip() for part in change.partition("="))
        if word not in _READERS:
            raise ConfigurationError.unknown("word of the preprocessing", word, sorted(_READERS))
        name, read = _READERS[word]
        with ConfigurationError.instead_of(
            (ValueError, ZeroDivisionError), f"'{change}'", expected=PREPROCESSING_FORM
        ):
            values[name] = read(value)
    try:
        return dataclasses.replace(PREPROCESSING_PRESETS[preset], **values)
    except ModelError as error:
        raise ConfigurationError(f"preprocessing '{text}'", expected=error.expected) from error


def _ratio(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below or 1.0)


def _three(text: str) -> tuple[float, ...]:
    numbers = tuple(_ratio(part) for part in text.split(":"))
    return numbers * 3 if len(numbers) == 1 else numbers


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "order": ("color_order", str),
    "scale": ("scale", _ratio),
    "mean": ("mean", _three),
    "std": ("std", _three),
    "pad": ("pad", int),
    "resize": ("resize", str),
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
class SegmentationHead:
    """The output that gives a class to each cell of a grid over the whole input.

    Attributes:
        name: name of the graph's output: logits (N, C, h, w), or classes (N, h, w) or (N, 1, h, w).
        num_classes: classes C.
        stride: input pixels for each cell, in both directions.
        height: grid rows h.
        width: grid columns w.
        has_argmax: whether the output holds classes, and not logits.
        class_names: C names, or () where unknown.
    """

    name: str
    num_classes: int
    stride: int
    height: int
    width: int
    has_argmax: bool = False
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """What a detector's network takes and gives. Made by graph.spec, kept beside engine files.

    Attributes:
        input_name: name of the image input.
        input_height: rows of the input; of a YOLOX a multiple of the largest stride.
        input_width: columns of the input, likewise.
        batch: images in one run, or None where the graph leaves it open.
        num_classes: classes C.
        head: form of the output.
        output_names: outputs of the detection head in graph order; where the form has several of
            different meaning always in the order that HeadLayout names, whatever that in the graph.
        levels: levels in the order of the anchors (ascending stride); empty where the form tells
            none (EFFICIENT_NMS) and for other detectors than YOLOX.
        input_dtype: numpy name of the input's element type, "float32", "float16" or "uint8".
        sigmoid: whether objectness and classes come out as probabilities.
        preprocessing: what the input values mean.
        class_names: C names, or () where unknown.
        segmentation: the segmentation head beside the detection head; None without one.
        model_type: kind of detector, a name of core.model_types.
        box_format: of boxes that the graph has decoded.
        nms: whether boxes that overlap are still to be suppressed; EFFICIENT_NMS and the other
            finished forms need none, whatever this says (`needs_nms`).
        channels_first: CLASS_SCORES: whether it is (N, 4 + C, A).
        ignored: graph outputs beside those of the heads, which are left out.
        stride: the largest one of a network without `levels`; 32 where it is not known.
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
    segmentation: SegmentationHead | None = None
    model_type: str = "yolox"
    box_format: BoxFormat = BoxFormat.CXCYWH
    nms: bool = True
    channels_first: bool = False
    ignored: tuple[str, ...] = ()
    stride: int = 32

    @property
    def is_yolox(self) -> bool:
        """Whether the head is that of a YOLOX, with its levels (none behind EfficientNMS_TRT)."""
        return self.model_type == "yolox"

    @property
    def needs_nms(self) -> bool:
        """Whether boxes that overlap are still to be suppressed."""
        return self.nms and self.head not in FINISHED

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the input in pixels."""
        return self.input_height, self.input_width

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """All outputs: those of the detection head, then that of the segmentation head."""
        return self.output_names + ((self.segmentation.name,) if self.segmentation else ())

    def __post_init__(self) -> None:
        # They are repeated in results, tables and pictures: cleaned once, for all of them.
        names = tuple(clean_text(name, LIMITS.name_characters) for name in self.class_names)
        object.__setattr__(self, "class_names", names)

    @property
    def num_anchors(self) -> int:
        """Grid cells over all levels, A."""
        return sum(level.height * level.width for level in self.levels)

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides in the order of the levels."""
        return tuple(level.stride for level in self.levels)

    @property
    def size_step(self) -> int:
        """What both sides of the network's input are multiples of, whatever its size."""
        return max((self.stride, *self.strides))

    def class_name(self, class_id: int) -> str:
        """Return a class's name, or its number where the model does not name it."""
        return self.class_names[class_id] if class_id < len(self.class_names) else str(class_id)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = {"head": self.head.value, "box_format": self.box_format.value}
        return dataclasses.asdict(self) | plain

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
            typed = {
                "levels": tuple(map(_level, values["levels"])),
                "preprocessing": Preprocessing._of(values["preprocessing"]),
                "head": HeadLayout(values["head"]),
                "output_names": tuple(values["output_names"]),
                "class_names": tuple(values["class_names"]),
                "box_format": BoxFormat(values.get("box_format", "cxcywh")),
                "ignored": tuple(values.get("ignored", ())),
            }
            if segmentation := values.get("segmentation"):  # absent in older files
                names = tuple(segmentation["class_names"])
                typed["segmentation"] = checked(
                    SegmentationHead(**{**segmentation, "class_names": names})
                )
            return checked(cls(**{**values, **typed}))


def _level(values: dict[str, Any]) -> HeadLevel:
    parts = {
        name: checked(HeadTensor(**values[name]))
        for name in ("box", "objectness", "classes")
        if values.get(name) is not None
    }
    return checked(HeadLevel(**{**values, **parts}))
