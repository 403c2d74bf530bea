# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PostprocessOptions: what counts as a detection, per stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.option import (
    Applies,
    Kind,
    Option,
    OptionGroup,
    option,
    options_of,
    parse_pairs,
)


def parse_class_thresholds(entries: Iterable[str]) -> dict[str, float]:
    """Read entries "class:threshold", class a name or a number; for Option.parse.

    Raises:
        ConfigurationError: an entry of another form, or a threshold outside 0 to 1.
    """
    thresholds = {}
    for name, text in parse_pairs(entries).items():
        try:
            thresholds[name] = float(text)
        except ValueError:
            thresholds[name] = float("nan")
        if not 0.0 <= thresholds[name] <= 1.0:
            raise ConfigurationError(f"entry '{name}:{text}'", expected="a threshold from 0 to 1")
    return thresholds


@dataclass(frozen=True)
class PostprocessOptions(OptionGroup):
    """Thresholds of decode and NMS; may change between two frames.

    Attributes:
        class_thresholds: class id -> score threshold that replaces `score_threshold`.
        masks: whether a model with a segmentation head gives the class of each pixel too.
    """

    score_threshold: float = option(
        0.3,
        minimum=0.0,
        maximum=1.0,
        applies=Applies.AT_ONCE,
        flag="--score",
        help="Least objectness x class probability of a detection.",
    )
    nms_threshold: float = option(
        0.45,
        minimum=0.0,
        maximum=1.0,
        applies=Applies.AT_ONCE,
        flag="--nms",
        help="IoU above which the box with the lower score is dropped.",
    )
    class_thresholds: Mapping[int, float] = field(default_factory=dict)
    max_detections: int = option(
        300,
        minimum=1,
        maximum=1000,
        applies=Applies.AT_ONCE,
        help="Detections of an image at most.",
    )
    class_agnostic: bool = option(
        False,
        applies=Applies.AT_ONCE,
        help="Whether boxes of different classes suppress each other.",
    )
    masks: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for class_id, value in self.class_thresholds.items():
            if not 0.0 <= value <= 1.0:
                raise ConfigurationError(
                    f"class_thresholds[{class_id}] = {value}",
                    expected="a number from 0 to 1",
                    fix="set `class_thresholds`",
                )

    def threshold_array(self, num_classes: int) -> npt.NDArray[np.float32]:
        """Return the score threshold of each class, float32 (num_classes,).

        Raises:
            ConfigurationError: class_thresholds names a class that the model does not have.
        """
        thresholds = np.full(num_classes, self.score_threshold, np.float32)
        for class_id, value in self.class_thresholds.items():
            if not 0 <= class_id < num_classes:
                raise ConfigurationError(
                    f"class_thresholds for class {class_id}",
                    expected=f"a class from 0 to {num_classes - 1}",
                    fix="set `class_thresholds` to classes of the model",
                )
            thresholds[class_id] = value
        return thresholds

    def with_classes(
        self, thresholds: Mapping[str, float], spec: ModelSpec, declared: Option
    ) -> PostprocessOptions:
        """Return these options with thresholds of single classes.

        Args:
            thresholds: class name or number -> threshold.
            spec: has the model's classes.
            declared: the option that the thresholds come from, for the error.

        Raises:
            ConfigurationError: a class that the model does not have.
        """
        names, ids = spec.class_names, {}
        for name, threshold in thresholds.items():
            if name in names:
                ids[names.index(name)] = threshold
            elif name in (numbers := list(map(str, range(spec.num_classes)))):
                ids[int(name)] = threshold
            else:
                known = names or numbers
                what = (declared, " for class")
                raise ConfigurationError.unknown(what, name, known, fix=("set ", declared))
        return replace(self, class_thresholds=ids)


class ThresholdTables:
    """The threshold arrays of the options that were used last.

    Args:
        num_classes: classes of the network.
    """

    #: Options remembered at most.
    _MOST = 256

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._known: dict[int, tuple[PostprocessOptions, npt.NDArray[np.float32]]] = {}

    def __call__(self, options: PostprocessOptions) -> npt.NDArray[np.float32]:
        """Return what `threshold_array` does.

        Raises:
            ConfigurationError: class_thresholds names a class that the model does not have.
        """
        # Options are compared by identity: hashing their class thresholds would cost more.
        known = self._known.get(id(options))
        if known is None or known[0] is not options:
            if len(self._known) >= self._MOST:
                self._known.clear()
            known = (options, options.threshold_array(self._num_classes))
            self._known[id(options)] = known
        return known[1]


@dataclass(frozen=True, kw_only=True)
class ThresholdOptions(PostprocessOptions):
    """PostprocessOptions, with thresholds of single classes as the user gives them."""

    class_score: Mapping[str, float] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=parse_class_thresholds,
        metavar="CLASS=SCORE",
        help="Threshold of one class, by its name or number.",
    )

    def of(self, spec: ModelSpec) -> PostprocessOptions:
        """Return the options for the classes of a model."""
        declared = options_of(type(self))["class_score"]
        return self.with_classes(self.class_score, spec, declared)
