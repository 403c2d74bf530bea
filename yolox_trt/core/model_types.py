# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The kinds of detector that are known by name, and how a detector outside these registers itself.

    from yolox_trt.core.model_types import Candidate, CustomDetector, register

    @register
    class Centres(CustomDetector):
        name = "centres"
        ...

`model_type: my_package.my_file` (or `--model-type my_file`) imports that module first.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ConfigurationError, YoloxTrtError

if TYPE_CHECKING:
    from yolox_trt.core.model_spec import Preprocessing

AUTO = "auto"
#: No detector: an engine of any network, whose outputs nothing here decodes.
NO_DETECTOR = "none"
#: For the help of the options `model_type` and `box_format`.
MODEL_TYPE_HELP = (
    "Kind of detector (default: what the metadata and the outputs tell), or a Python module that "
    "registers one; none builds an engine of any network, whose outputs nothing here decodes"
)
BOX_FORMAT_HELP = (
    "What the four numbers of a decoded box are, pixels of the input or parts of its size "
    "(default: as usual for the kind)."
)


class ModelType(NamedTuple):
    """A kind of detector: what one decoding serves.

    Attributes:
        name: by which it is chosen; the first network of the kind.
        also: other names of the kind.
        form: its outputs, as a reader sees them in an error.
    """

    name: str
    also: tuple[str, ...]
    form: str


#: C classes; A anchors, grid cells or queries; K detections.
MODEL_TYPES = {
    kind.name: kind
    for kind in (
        ModelType(
            "yolox", (), "(N, A, 5 + C), or box, objectness and classes of each level (NCHW)"
        ),
        ModelType("yolov5", ("yolov7",), "(N, A, 5 + C) of three anchors a grid cell"),
        ModelType(
            "yolov8", ("yolov6", "yolov9", "yolo11", "yolo12"), "(N, 4 + C, A) or (N, A, 4 + C)"
        ),
        ModelType("yolov10", ("yolo26",), "(N, K, 6): corners, score, class"),
        ModelType(
            "rtdetr",
            ("dfine", "deim"),
            "labels (N, K), boxes (N, K, 4), scores (N, K); or (N, A, 4 + C) of queries; or logits "
            "(N, A, C) and boxes (N, A, 4)",
        ),
        ModelType(
            "efficientdet", (), "classes (N, A, C) and boxes (N, A, 4) of nine anchors a grid cell"
        ),
        ModelType("boxes_scores", (), "boxes (N, A, 4) and scores (N, A, C)"),
        ModelType("efficient_nms", (), "the four outputs of EfficientNMS_TRT"),
    )
}
_NAMES = {name: kind.name for kind in MODEL_TYPES.values() for name in (kind.name, *kind.also)}
#: Values of the option `model_type`, without those of detectors that register themselves.
MODEL_TYPE_NAMES = (AUTO, *_NAMES, NO_DETECTOR)
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class OutputShape(NamedTuple):
    """An output of a network.

    Attributes:
        name: of the graph's output.
        shape: its sizes, the batch first; None for one that is open.
        dtype: NumPy name of its elements.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Found:
    """What a CustomDetector decodes from one image's outputs.

    Attributes:
        boxes: float32 (N, 4), x1 y1 x2 y2 in input pixels.
        scores: float32 (N,), 0 to 1.
        class_ids: int32 (N,).
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]


class CustomDetector(ABC):
    """A detector whose outputs have none of the known forms.

    It is decoded on the CPU; where the network runs on a GPU or a DLA, its outputs are copied to
    the host first. Thresholds, NMS, and the way back to source pixels are done for it.

    Attributes:
        name: value of the option `model_type`.
        nms: whether boxes that overlap are still to be suppressed.
        preprocessing: what the input expects where nothing else says so; None for BGR 0..255.
    """

    name: str
    nms: bool = True
    preprocessing: Preprocessing | None = None

    @abstractmethod
    def num_classes(self, outputs: tuple[OutputShape, ...], size: tuple[int, int]) -> int | None:
        """Return the number of classes, or None where the outputs are not this detector's.

        Args:
            outputs: all outputs of the graph.
            size: (height, width) of the input in pixels.
        """

    @abstractmethod
    def decode(self, outputs: Mapping[str, npt.NDArray[Any]], size: tuple[int, int]) -> Found:
        """Decode one image.

        Args:
            outputs: the graph's outputs by name, without the batch axis.
            size: (height, width) of the input in pixels.
        """


_CUSTOM: dict[str, CustomDetector] = {}


def register(kind: type[CustomDetector]) -> type[CustomDetector]:
    """Let a CustomDetector be found by its name, and tried on models that nothing else knows.

    Raises:
        ConfigurationError: the name is taken by a known kind.
    """
    if kind.name in MODEL_TYPE_NAMES:
        raise ConfigurationError(
            f"a detector that registers itself as '{kind.name}'",
            expected=f"another name than {', '.join(MODEL_TYPE_NAMES)}",
        )
    _CUSTOM[kind.name] = kind()
    return kind


def custom_detectors() -> Mapping[str, CustomDetector]:
    """Return the detectors that have registered themselves, by name."""
    return _CUSTOM


def custom_detector(name: str) -> CustomDetector:
    """Return a registered detector.

    Raises:
        ConfigurationError: it is not registered in this process.
    """
    if name not in _CUSTOM:
        raise ConfigurationError(
            f"a model of type '{name}', which no module has registered here",
            expected="a module that registers it",
            fix="name the module as model type, or import it first",
        )
    return _CUSTOM[name]


def parse_model_type(text: str) -> str:
    """Return the name of a kind, from one of its names or a module that registers one.

    Raises:
        ConfigurationError: an unknown name, or a module that cannot be imported, or registers none.
    """
    name = text.strip()
    key = name.lower().replace("-", "")
    if key in (AUTO, NO_DETECTOR) or name in _CUSTOM:
        return key if key in (AUTO, NO_DETECTOR) else name
    if key in _NAMES:
        return _NAMES[key]
    if not _MODULE.fullmatch(name):
        raise ConfigurationError.unknown("model type", name, MODEL_TYPE_NAMES)
    before = set(_CUSTOM)
    try:
        module = importlib.import_module(name)
    except YoloxTrtError:
        raise
    except ModuleNotFoundError as error:
        if name.partition(".")[0] != error.name and name != error.name:
            raise ConfigurationError(
                f"module '{name}', which misses {error.name}", expected="a module that is complete"
            ) from error
        raise ConfigurationError.unknown(
            "model type",
            name,
            MODEL_TYPE_NAMES,
            fix="or name a Python module that registers a detector, in a folder of PYTHONPATH",
        ) from error
    except Exception as error:  # whatever the user's module raises
        raise ConfigurationError(
            f"module '{name}' that cannot be imported ({error})", expected="a Python module"
        ) from error
    found = [
        custom.name
        for custom in _CUSTOM.values()
        if custom.name not in before or type(custom).__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigurationError(
            f"module '{name}', which registers {len(found)} detectors",
            expected="one class under @register (yolox_trt.core.model_types)",
        )
    return found[0]
