# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The definition of decoding: from network outputs to candidate boxes in input pixels.

For each anchor (grid cell, levels in ModelSpec's order, cells row by row):

- objectness o and class values c, through a sigmoid 1 / (1 + exp(-v)) where `spec.sigmoid` is
  false; the class is the one with the highest value (the lowest id among equals), and
  score = o * c in float32;
- it is a candidate when score >= the class's threshold and its box is finite;
- box: centre x = (x + column) * stride, y = (y + row) * stride, width = exp(w) * stride, height
  = exp(h) * stride (YOLOX, yolo_head.py), as they are where the graph has decoded them;
  corners are centre - size / 2 and centre + size / 2, in float32, not clipped.

One candidate an anchor: an anchor's second class never becomes a detection, as in YOLOX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import EngineError
from yolox_trt.core.model_spec import HeadLayout, HeadTensor, ModelSpec

Float32 = npt.NDArray[np.float32]
#: Margin of the objectness test before the sigmoid, against the rounding of log and exp.
_LOGIT_MARGIN = 1e-3


@dataclass(frozen=True, eq=False)
class Candidates:
    """Boxes above their thresholds, before NMS, in ascending order of anchors.

    Attributes:
        boxes: float32 (N, 4), x1 y1 x2 y2 in input pixels.
        scores: float32 (N,).
        class_ids: int32 (N,).
        anchors: int64 (N,), index of the grid cell over all levels.
    """

    boxes: Float32
    scores: Float32
    class_ids: npt.NDArray[np.int32]
    anchors: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)


class Decoder:
    """Decodes one network's outputs (any HeadLayout but EFFICIENT_NMS) on the CPU.

    Grid and strides are computed once; an anchor below its threshold costs one comparison.

    Args:
        spec: the network.
    """

    def __init__(self, spec: ModelSpec) -> None:
        if spec.head is HeadLayout.EFFICIENT_NMS:
            raise ValueError("EFFICIENT_NMS outputs need no decoding")
        self._spec = spec
        rows, columns, strides = [], [], []
        for level in spec.levels:
            row, column = np.divmod(np.arange(level.height * level.width), level.width)
            rows.append(row)
            columns.append(column)
            strides.append(np.full(len(row), level.stride))
        # First anchor of each level, and the number of all of them.
        self._firsts = np.cumsum([0, *(len(row) for row in rows)])
        #: float32 (A, 2): column and row of each anchor's cell.
        self.grid: Float32 = np.stack(
            (np.concatenate(columns), np.concatenate(rows)), axis=1
        ).astype(np.float32)
        #: float32 (A, 1): stride of each anchor's level, in input pixels.
        self.strides: Float32 = np.concatenate(strides).astype(np.float32)[:, None]

    def decode(
        self, outputs: Mapping[str, npt.NDArray[Any]], index: int, thresholds: Float32
    ) -> Candidates:
        """Decode one image of a batch.

        Args:
            outputs: the network's outputs by name, first axis the batch.
            index: the image in the batch.
            thresholds: float32 (C,), least score of each class.

        Raises:
            EngineError: the outputs hold NaN.
        """
        if self._spec.head is HeadLayout.RAW_LEVELS:
            anchors, raw = self._select_raw(outputs, index, float(thresholds.min()))
        else:
            anchors, raw = self._select(outputs, index, float(thresholds.min()))
        raw = np.asarray(raw, np.float32)
        objectness, classes = raw[:, 4], raw[:, 5:]
        class_ids = classes.argmax(axis=1).astype(np.int32)
        best = classes[np.arange(len(classes)), class_ids]
        if not self._spec.sigmoid:
            objectness, best = _sigmoid(objectness), _sigmoid(best)
        scores = objectness * best
        # A NaN box would end as one that overflows, which is left out.
        if len(scores) and (np.isnan(scores.min()) or np.isnan(raw[:, :4]).any()):
            raise _nan_error()
        keep = np.flatnonzero(scores >= thresholds[class_ids])
        boxes = self._corners(raw[:, :4][keep], anchors[keep])
        if not np.isfinite(boxes).all():
            finite = np.isfinite(boxes).all(axis=1)
            boxes, keep = boxes[finite], keep[finite]
        return Candidates(boxes, scores[keep], class_ids[keep], anchors[keep])

    def _corners(self, raw: Float32, anchors: npt.NDArray[np.int64]) -> Float32:
        if self._spec.head is HeadLayout.DECODED:
            centre, size = raw[:, :2], raw[:, 2:]
        else:
            stride = self.strides[anchors]
            centre = (raw[:, :2] + self.grid[anchors]) * stride
            with np.errstate(over="ignore"):
                size = np.exp(raw[:, 2:]) * stride
        half = size * np.float32(0.5)
        corners = np.empty((len(raw), 4), np.float32)
        np.subtract(centre, half, out=corners[:, :2])
        np.add(centre, half, out=corners[:, 2:])
        return corners

    def _possible(self, objectness: npt.NDArray[Any], threshold: float) -> npt.NDArray[np.int64]:
        """Return the anchors whose objectness alone does not rule them out (a class is <= 1)."""
        if self._spec.sigmoid:
            floor = threshold
        elif threshold <= 0.0:
            floor = -np.inf
        else:
            bounded = min(threshold, 1.0 - 1e-6)
            floor = float(np.log(bounded / (1.0 - bounded))) - _LOGIT_MARGIN
        # One pass over memory that is far apart; the next ones find it together.
        objectness = np.ascontiguousarray(objectness)
        # A NaN compares false with everything: it would end as "no detection". The sum is one pass
        # without an array, and NaN for infinities of both signs too.
        with np.errstate(invalid="ignore", over="ignore"):
            total = objectness.sum(dtype=np.float32)
        if np.isnan(total) and np.isnan(objectness).any():
            raise _nan_error()
        if objectness.dtype == np.float16:
            floor -= abs(floor) * 1e-3  # the comparison must not round the threshold up
        return np.flatnonzero(objectness >= floor)

    def _select(
        self, outputs: Mapping[str, npt.NDArray[Any]], index: int, threshold: float
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """Return anchors and their values (N, 5 + C) from the single tensor."""
        tensor = np.asarray(outputs[self._spec.output_names[0]][index])
        anchors = self._possible(tensor[:, 4], threshold)
        return anchors, tensor[anchors]

    def _select_raw(
        self, outputs: Mapping[str, npt.NDArray[Any]], index: int, threshold: float
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """Return anchors and their values (N, 5 + C) from the tensors of each level."""

        def cells(tensor: HeadTensor | None, count: int) -> npt.NDArray[Any]:
            assert tensor is not None
            image = outputs[tensor.name][index]
            return np.asarray(image[tensor.channel : tensor.channel + count].reshape(count, -1))

        levels = self._spec.levels
        objectness = np.concatenate([cells(level.objectness, 1)[0] for level in levels])
        anchors = self._possible(objectness, threshold)
        values = np.empty((len(anchors), 5 + self._spec.num_classes), np.float32)
        values[:, 4] = objectness[anchors]
        bounds = np.searchsorted(anchors, self._firsts)
        for level, first, low, high in zip(
            levels, self._firsts, bounds[:-1], bounds[1:], strict=False
        ):
            if low < high:
                found = anchors[low:high] - first
                values[low:high, :4] = cells(level.box, 4)[:, found].T
                values[low:high, 5:] = cells(level.classes, self._spec.num_classes)[:, found].T
        return anchors, values


def _sigmoid(values: Float32) -> Float32:
    one = np.float32(1)
    with np.errstate(over="ignore"):
        return np.asarray(one / (one + np.exp(-values)), np.float32)


def _nan_error() -> EngineError:
    return EngineError(
        "NaN in the network's outputs",
        expected="numbers",
        fix="check the precision (a float16 overflow?) and the preprocessing of the model",
    )
