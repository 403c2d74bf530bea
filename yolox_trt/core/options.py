# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PostprocessOptions: what counts as a detection, per stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ConfigurationError


@dataclass(frozen=True)
class PostprocessOptions:
    """Thresholds of decode and NMS; may change between two frames.

    Attributes:
        score_threshold: least objectness x class probability, 0 to 1; a candidate is kept when
            its score is greater than or equal to it.
        nms_threshold: IoU above which the box with the lower score is dropped, 0 to 1.
        class_thresholds: class id -> score threshold that replaces `score_threshold`.
        max_detections: the best N are kept.
        class_agnostic: whether boxes of different classes suppress each other.
    """

    score_threshold: float = 0.3
    nms_threshold: float = 0.45
    class_thresholds: Mapping[int, float] = field(default_factory=dict)
    max_detections: int = 300
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        thresholds = {
            "score_threshold": self.score_threshold,
            "nms_threshold": self.nms_threshold,
            **{f"class_thresholds[{k}]": v for k, v in self.class_thresholds.items()},
        }
        for name, value in thresholds.items():
            if not 0.0 <= value <= 1.0:
                raise ConfigurationError(
                    f"{name} = {value}", expected="a number from 0 to 1", fix=f"set `{name}`"
                )
        if self.max_detections < 1:
            raise ConfigurationError(
                f"max_detections = {self.max_detections}",
                expected="at least 1",
                fix="set `max_detections`",
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
