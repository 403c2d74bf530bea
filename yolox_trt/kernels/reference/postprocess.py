# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The definition of postprocessing: from network outputs to Detections in source pixels.

1. Candidates (`decode.Decoder`, `finished.read_finished`, or a CustomDetector's own).
2. Boxes that do not overlap the image (they lie in the padding) or have no area are left out:
   after the division by the scale, x2 > 0, y2 > 0, x1 < roi.width, y1 < roi.height, x2 > x1,
   y2 > y1 must hold.
3. NMS on the unclipped boxes in input pixels (`nms.nms`), best first, at most max_detections.
4. Boxes to source pixels, clipped to the image or its Roi (`Letterbox.to_source`).
5. The mask, where it is asked for (`masks.read_mask`).

Where the network has suppressed what overlaps (`not spec.needs_nms`), steps 2 and 4 and the score
thresholds apply, `nms_threshold` and `class_agnostic` do not: the best max_detections are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import EngineError
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.model_spec import FINISHED, HeadLayout, ModelSpec
from yolox_trt.core.model_types import custom_detector
from yolox_trt.core.postprocess_options import PostprocessOptions, ThresholdTables
from yolox_trt.kernels.reference.decode import Candidates, Decoder
from yolox_trt.kernels.reference.finished import read_finished
from yolox_trt.kernels.reference.masks import read_mask
from yolox_trt.kernels.reference.nms import nms

#: Bits: a score above 1 (with room for the rounding of float16), and a box that ends further from
#: the input than ten times its longer side. postprocess.cu has the same.
IMPLAUSIBLE_SCORES, IMPLAUSIBLE_BOXES = 2, 4
LARGEST_SCORE, LARGEST_BOX = 1.001, 10.0

#: (outputs, index, thresholds) -> Candidates, as Decoder.decode.
_Find = Callable[[Mapping[str, npt.NDArray[Any]], int, npt.NDArray[np.float32]], Candidates]


class Postprocessor:
    """Decode, NMS and the way back to source pixels, on the CPU.

    Args:
        spec: the network.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._candidates = _candidates_of(spec)
        #: The score threshold of each class.
        self.thresholds = ThresholdTables(spec.num_classes)
        #: What was implausible in the frames so far, bits of IMPLAUSIBLE_SCORES and ..._BOXES.
        self.implausible = 0

    def __call__(
        self,
        outputs: Mapping[str, npt.NDArray[Any]],
        index: int,
        letterbox: Letterbox,
        options: PostprocessOptions,
    ) -> Detections:
        """Return the Detections of one image of a batch.

        Args:
            outputs: the network's outputs by name, first axis the batch.
            index: the image in the batch.
            letterbox: the image's geometry.
            options: thresholds.

        Raises:
            EngineError: the outputs hold NaN.
            ConfigurationError: class_thresholds names a class that the model does not have.
        """
        found = self._candidates(outputs, index, self.thresholds(options))
        self.implausible |= _implausible(self._spec, found)
        boxes, scores, class_ids = found.boxes, found.scores, found.class_ids
        # What is too far away for float32 `implausible` tells.
        with np.errstate(over="ignore", invalid="ignore"):
            inside = _overlaps(boxes, letterbox)
            if not inside.all():
                boxes, scores, class_ids = boxes[inside], scores[inside], class_ids[inside]
            if not self._spec.needs_nms:
                kept = np.argsort(-scores, kind="stable")[: options.max_detections]
            else:
                kept = nms(
                    boxes,
                    scores,
                    class_ids,
                    options.nms_threshold,
                    class_agnostic=options.class_agnostic,
                    max_detections=options.max_detections,
                )
            in_source = letterbox.to_source(boxes[kept])
        head = self._spec.segmentation if options.masks else None
        mask = None if head is None else read_mask(head, outputs, index, letterbox)
        return Detections(in_source, scores[kept], class_ids[kept], mask=mask)


def _overlaps(boxes: npt.NDArray[np.float32], letterbox: Letterbox) -> npt.NDArray[np.bool_]:
    """Tell which boxes (N, 4) in input pixels share area with the image."""
    x1, y1, x2, y2 = letterbox.to_roi(boxes).T
    roi = letterbox.roi
    return np.asarray(
        (x2 > 0) & (y2 > 0) & (x1 < roi.width) & (y1 < roi.height) & (x2 > x1) & (y2 > y1)
    )


def _candidates_of(spec: ModelSpec) -> _Find:
    """Return what finds the candidates of a network's head."""
    if spec.head is HeadLayout.CUSTOM:
        return partial(_custom_candidates, spec)
    if spec.head in FINISHED:
        return partial(read_finished, spec)
    return Decoder(spec).decode


def _custom_candidates(
    spec: ModelSpec,
    outputs: Mapping[str, npt.NDArray[Any]],
    index: int,
    thresholds: npt.NDArray[np.float32],
) -> Candidates:
    """Let a CustomDetector decode, and apply the thresholds.

    Raises:
        EngineError: what it returns is no detection.
    """
    image = {name: np.asarray(outputs[name][index]) for name in spec.output_names}
    size = spec.input_height, spec.input_width
    found = custom_detector(spec.model_type).decode(image, size)
    boxes = np.asarray(found.boxes, np.float32)
    scores = np.asarray(found.scores, np.float32)
    class_ids = np.asarray(found.class_ids, np.int32)
    if (
        boxes.shape != (len(scores), 4)
        or class_ids.shape != scores.shape
        or np.isnan(scores).any()
        or np.isnan(boxes).any()
        or not ((class_ids >= 0) & (class_ids < spec.num_classes)).all()
    ):
        raise EngineError(
            f"boxes {boxes.shape}, scores {scores.shape}, classes {class_ids.shape} from the "
            f"decode() of '{spec.model_type}', or NaN or unknown classes in them",
            expected=f"(N, 4), (N,), (N,), and classes from 0 to {spec.num_classes - 1}",
        )
    keep = (scores >= thresholds[class_ids]) & np.isfinite(boxes).all(axis=1)
    return Candidates(boxes[keep], scores[keep], class_ids[keep], np.flatnonzero(keep))


def _implausible(spec: ModelSpec, found: Candidates) -> int:
    """Return the bits of what no detector of images gives."""
    if not len(found):
        return 0
    farthest = np.float32(LARGEST_BOX * max(spec.input_height, spec.input_width))
    scores = found.scores.max() > np.float32(LARGEST_SCORE)
    boxes = np.abs(found.boxes).max() > farthest
    return IMPLAUSIBLE_SCORES * bool(scores) | IMPLAUSIBLE_BOXES * bool(boxes)
