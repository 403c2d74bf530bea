# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The definition of reading outputs that hold detections already (model_spec.FINISHED).

- A row counts where its place is below num_detections (EFFICIENT_NMS), or its score is above 0
  (the other forms, which fill up with zeros).
- It is a candidate when its score >= the class's threshold and its box is finite.
- Its class is a whole number, whatever type it comes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import EngineError
from yolox_trt.core.model_spec import HeadLayout, ModelSpec
from yolox_trt.kernels.reference.decode import Candidates, decoded_corners


def read_finished(
    spec: ModelSpec,
    outputs: Mapping[str, npt.NDArray[Any]],
    index: int,
    thresholds: npt.NDArray[np.float32],
) -> Candidates:
    """Read one image's detections.

    Args:
        spec: the network, of a form in FINISHED.
        outputs: the network's outputs by name, first axis the batch.
        index: the image in the batch.
        thresholds: float32 (C,), least score of each class.

    Raises:
        EngineError: the outputs hold NaN, or classes that the network does not have.
    """
    own = [np.asarray(outputs[name][index]) for name in spec.output_names]
    if spec.head is HeadLayout.END_TO_END:
        (table,) = own
        raw, scores, classes = table[:, :4], table[:, 4], table[:, 5]
    elif spec.head is HeadLayout.LABELS_BOXES_SCORES:
        classes, raw, scores = own
    else:
        count = max(0, int(own[0].reshape(-1)[0]))
        raw, scores, classes = (each[:count] for each in own[1:])
    scores = np.asarray(scores, np.float32)
    if np.isnan(scores).any() or np.isnan(raw).any():
        raise finished_fault(spec)
    rows = np.arange(len(scores))
    if spec.head is not HeadLayout.EFFICIENT_NMS:
        rows = np.flatnonzero(scores > 0)
        raw, scores, classes = raw[rows], scores[rows], classes[rows]
    class_ids = classes.astype(np.int32)
    if not ((class_ids >= 0) & (class_ids < spec.num_classes) & (class_ids == classes)).all():
        raise finished_fault(spec)
    if spec.head is HeadLayout.EFFICIENT_NMS:
        boxes = np.asarray(raw, np.float32)
    else:
        boxes = decoded_corners(spec, raw, rows)
    keep = (scores >= thresholds[class_ids]) & np.isfinite(boxes).all(axis=1)
    return Candidates(boxes[keep], scores[keep], class_ids[keep], rows[keep])


def finished_fault(spec: ModelSpec) -> EngineError:
    """Make the error of outputs that hold what no detection follows from."""
    return EngineError(
        f"NaN or unknown classes in outputs {', '.join(spec.output_names)}",
        expected=f"scores, boxes, and classes from 0 to {spec.num_classes - 1}",
        fix="check the precision of the engine (a float16 overflow?) and the number of class names",
    )
