# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The definition of postprocessing: from network outputs to Detections in source pixels.

1. Candidates (`decode.Decoder`).
2. Boxes that do not overlap the image (they lie in the padding) or have no area are left out:
   after the division by the scale, x2 > 0, y2 > 0, x1 < roi.width, y1 < roi.height, x2 > x1,
   y2 > y1 must hold.
3. NMS on the unclipped boxes in input pixels (`nms.nms`), best first, at most max_detections.
4. Boxes to source pixels, clipped to the image or its Roi (`Letterbox.to_source`).

EFFICIENT_NMS outputs have been through NMS in the graph: steps 2 and 4 and the score thresholds
apply, `nms_threshold` and `class_agnostic` do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import EngineError
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.model_spec import HeadLayout, ModelSpec
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.kernels.reference.decode import Candidates, Decoder
from yolox_trt.kernels.reference.nms import nms


class Postprocessor:
    """Decode, NMS and the way back to source pixels, on the CPU.

    Args:
        spec: the network.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._decoder = None if spec.head is HeadLayout.EFFICIENT_NMS else Decoder(spec)

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
        thresholds = options.threshold_array(self._spec.num_classes)
        if self._decoder is None:
            found = _read_efficient_nms(self._spec, outputs, index, thresholds)
        else:
            found = self._decoder.decode(outputs, index, thresholds)
        boxes, scores, class_ids = found.boxes, found.scores, found.class_ids
        inside = _overlaps(boxes, letterbox)
        if not inside.all():
            boxes, scores, class_ids = boxes[inside], scores[inside], class_ids[inside]
        if self._decoder is None:
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
        return Detections(letterbox.to_source(boxes[kept]), scores[kept], class_ids[kept])


def _overlaps(boxes: npt.NDArray[np.float32], letterbox: Letterbox) -> npt.NDArray[np.bool_]:
    """Tell which boxes (N, 4) in input pixels share area with the image."""
    x1, y1, x2, y2 = (boxes * np.float32(1.0 / letterbox.scale)).T
    roi = letterbox.roi
    return np.asarray(
        (x2 > 0) & (y2 > 0) & (x1 < roi.width) & (y1 < roi.height) & (x2 > x1) & (y2 > y1)
    )


def _read_efficient_nms(
    spec: ModelSpec,
    outputs: Mapping[str, npt.NDArray[Any]],
    index: int,
    thresholds: npt.NDArray[np.float32],
) -> Candidates:
    count_name, boxes_name, scores_name, classes_name = spec.output_names
    count = int(outputs[count_name][index].reshape(-1)[0])
    scores = np.asarray(outputs[scores_name][index][:count], np.float32)
    class_ids = np.asarray(outputs[classes_name][index][:count], np.int32)
    boxes = np.asarray(outputs[boxes_name][index][:count], np.float32)
    unknown = (class_ids >= spec.num_classes) | (class_ids < 0)
    if np.isnan(scores).any() or np.isnan(boxes).any() or unknown.any():
        raise EngineError(
            "NaN or unknown classes in the outputs of EfficientNMS_TRT",
            expected=f"scores, boxes, and classes from 0 to {spec.num_classes - 1}",
            fix="check the precision of the engine, and rebuild it",
        )
    keep = (scores >= thresholds[class_ids]) & np.isfinite(boxes).all(axis=1)
    anchors = np.flatnonzero(keep)
    return Candidates(boxes[keep], scores[keep], class_ids[keep], anchors)
