# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PostprocessOptions: what counts as a detection, per stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import Applies, check_options, option


@dataclass(frozen=True)
class PostprocessOptions:
    """Thresholds of decode and NMS; may change between two frames.

    Attributes:
        class_thresholds: class id -> score threshold that replaces `score_threshold`.
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

    def __post_init__(self) -> None:
        check_options(self)
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
