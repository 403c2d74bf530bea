# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The definition of decoding: from network outputs to candidate boxes in input pixels.

For each anchor (grid cell, levels in ModelSpec's order, cells row by row; or row of the output):

- objectness o and class values c, through a sigmoid 1 / (1 + exp(-v)) where `spec.sigmoid` is
  false; the class is the one with the highest value (the lowest id among equals), and
  score = o * c in float32, or c where the form has no objectness;
- it is a candidate when score >= the class's threshold and its box is finite;
- box: centre x = (x + column) * stride, y = (y + row) * stride, width = exp(w) * stride, height
  = exp(h) * stride (YOLOX, yolo_head.py); by anchors centre y = dy * h + y, x = dx * w + x, height
  = exp(dh) * h, width = exp(dw) * w with the anchor's x y w h (EfficientDet, anchors.py,
  decode_box_outputs); else as the graph has decoded it (`spec.box_format`), relative values times
  the input's width and height first;
  corners are centre - size / 2 and centre + size / 2, in float32, not clipped.

One candidate an anchor: an anchor's second class never becomes a detection, as in YOLOX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.anchors import efficientdet_anchors
from yolox_trt.core.errors import EngineError
from yolox_trt.core.model_spec import FINISHED, BoxFormat, HeadLayout, HeadTensor, ModelSpec

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
    """Decodes one network's outputs (any HeadLayout but FINISHED and CUSTOM) on the CPU.

    Grid and strides are computed once; an anchor below its threshold costs one comparison.

    Args:
        spec: the network.
    """

    def __init__(self, spec: ModelSpec) -> None:
        if spec.head in FINISHED or spec.head is HeadLayout.CUSTOM:
            raise ValueError(f"{spec.head} outputs need no decoding")
        self._spec = spec
        self._has_objectness = spec.head not in _WITHOUT_OBJECTNESS
        if not spec.levels:
            return
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
        self._check_numbers(outputs, index)
        lowest = float(thresholds.min())
        if not self._has_objectness:
            anchors, raw = self._select_by_classes(outputs, index, lowest)
        elif self._spec.head is HeadLayout.RAW_LEVELS:
            anchors, raw = self._select_raw(outputs, index, lowest)
        else:
            anchors, raw = self._select(outputs, index, lowest)
        raw = np.asarray(raw, np.float32)
        first = 5 if self._has_objectness else 4
        classes = raw[:, first : first + self._spec.num_classes]
        class_ids = classes.argmax(axis=1).astype(np.int32)
        best = classes[np.arange(len(classes)), class_ids]
        if not self._spec.sigmoid:
            best = _sigmoid(best)
        scores = best
        if self._has_objectness:
            objectness = raw[:, 4] if self._spec.sigmoid else _sigmoid(raw[:, 4])
            with np.errstate(invalid="ignore"):  # infinity times 0 is no candidate
                scores = objectness * best
        keep = np.flatnonzero(scores >= thresholds[class_ids])
        boxes = self._corners(raw[:, :4][keep], anchors[keep])
        if not np.isfinite(boxes).all():
            finite = np.isfinite(boxes).all(axis=1)
            boxes, keep = boxes[finite], keep[finite]
        return Candidates(boxes, scores[keep], class_ids[keep], anchors[keep])

    def _check_numbers(self, outputs: Mapping[str, npt.NDArray[Any]], index: int) -> None:
        """Refuse NaN anywhere in what is read, as the CUDA decode does.

        It compares false with everything, and would end as "no detection".
        """
        spec = self._spec
        own = [np.asarray(outputs[name][index]) for name in spec.output_names]
        if len(own) == 1 and not spec.levels:  # masks and key points behind them are not read
            end = 4 + self._has_objectness + spec.num_classes
            own = [own[0][:end] if spec.channels_first else own[0][:, :end]]
        for values in own:
            # The sum is one pass without an array; it is NaN for infinities of both signs too.
            with np.errstate(invalid="ignore", over="ignore"):
                total = values.sum(dtype=np.float32)
            if np.isnan(total) and np.isnan(values).any():
                raise nan_error()

    def _corners(self, raw: Float32, anchors: npt.NDArray[np.int64]) -> Float32:
        if not self._spec.levels or self._spec.head is HeadLayout.DECODED:
            return decoded_corners(self._spec, raw, anchors)
        stride = self.strides[anchors]
        centre = (raw[:, :2] + self.grid[anchors]) * stride
        with np.errstate(over="ignore"):
            size = np.exp(raw[:, 2:]) * stride
        return _around(centre, size)

    def _possible(self, objectness: npt.NDArray[Any], threshold: float) -> npt.NDArray[np.int64]:
        """Return the anchors whose objectness, or best class, alone does not rule them out."""
        if self._spec.sigmoid:
            floor = threshold
        elif threshold <= 0.0:
            floor = -np.inf
        else:
            bounded = min(threshold, 1.0 - 1e-6)
            floor = float(np.log(bounded / (1.0 - bounded))) - _LOGIT_MARGIN
        # One pass over memory that is far apart; the next ones find it together.
        objectness = np.ascontiguousarray(objectness)
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

    def _select_by_classes(
        self, outputs: Mapping[str, npt.NDArray[Any]], index: int, threshold: float
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """Return anchors and their values (N, 4 + C) where there is no objectness."""
        spec = self._spec
        if spec.head is HeadLayout.BOXES_AND_SCORES:
            boxes, classes = (np.asarray(outputs[name][index]) for name in spec.output_names)
            anchors = self._possible(classes.max(axis=1), threshold)
            return anchors, np.concatenate([boxes[anchors], classes[anchors]], axis=1)
        tensor = np.asarray(outputs[spec.output_names[0]][index])
        end = 4 + spec.num_classes
        if spec.channels_first:
            anchors = self._possible(tensor[4:end].max(axis=0), threshold)
            return anchors, tensor[:end, anchors].T
        anchors = self._possible(tensor[:, 4:end].max(axis=1), threshold)
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


_WITHOUT_OBJECTNESS = (HeadLayout.CLASS_SCORES, HeadLayout.BOXES_AND_SCORES)


def decoded_corners(
    spec: ModelSpec, raw: npt.NDArray[Any], anchors: npt.NDArray[np.int64]
) -> Float32:
    """Return corners of boxes that the graph has decoded, or that its anchors decode.

    Args:
        spec: the network.
        raw: (N, 4), as `spec.box_format` says.
        anchors: int64 (N,), which of the anchors they are.

    Returns:
        float32 (N, 4), x1 y1 x2 y2 in input pixels.
    """
    form = spec.box_format
    raw = np.asarray(raw, np.float32)
    if form is BoxFormat.ANCHORS:
        own = efficientdet_anchors(spec.input_height, spec.input_width)[anchors]
        centre = raw[:, 1::-1] * own[:, 2:] + own[:, :2]
        with np.errstate(over="ignore"):
            size = np.exp(raw[:, :1:-1]) * own[:, 2:]
        return _around(centre, size)
    if form.is_relative:
        raw = raw * np.array([spec.input_width, spec.input_height] * 2, np.float32)
    if form in (BoxFormat.XYXY, BoxFormat.XYXY_RELATIVE):
        return raw
    return _around(raw[:, :2], raw[:, 2:])


def _around(centre: Float32, size: Float32) -> Float32:
    half = size * np.float32(0.5)
    corners = np.empty((len(centre), 4), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # such a box is no candidate
        np.subtract(centre, half, out=corners[:, :2])
        np.add(centre, half, out=corners[:, 2:])
    return corners


def _sigmoid(values: Float32) -> Float32:
    one = np.float32(1)
    with np.errstate(over="ignore"):
        return np.asarray(one / (one + np.exp(-values)), np.float32)


def nan_error() -> EngineError:
    """Make the error of outputs with NaN."""
    return EngineError(
        "NaN in the network's outputs",
        expected="numbers",
        fix="check the precision (a float16 overflow?) and the preprocessing of the model",
    )
