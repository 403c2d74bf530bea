# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""COCO's detection metrics, computed by pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yolox_trt.core.optional import require


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's bounding-box metrics; -1 where the ground truth has nothing of that kind.

    Attributes:
        mean_ap: mean average precision over IoU 0.50:0.05:0.95 ("AP").
        map50: at IoU 0.50.
        map75: at IoU 0.75.
        map_small: of objects under 32 x 32 pixels.
        map_medium: of objects from 32 x 32 to 96 x 96 pixels.
        map_large: of objects over 96 x 96 pixels.
        recall: average recall with at most 100 detections of a category in an image.
        per_class: category name -> average precision over IoU 0.50:0.05:0.95.
        per_class50: category name -> average precision at IoU 0.50.
    """

    mean_ap: float
    map50: float
    map75: float
    map_small: float
    map_medium: float
    map_large: float
    recall: float
    per_class: dict[str, float]
    per_class50: dict[str, float]


def coco_metrics(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    *,
    category_ids: Collection[int] | None = None,
) -> CocoMetrics:
    """Compare detections with the ground truth.

    Args:
        ground_truth: COCO instances (images, annotations, categories).
        results: COCO results: {image_id, category_id, bbox (x y width height), score}.
        category_ids: categories to count; None for all of the ground truth.

    Raises:
        MissingDependencyError: pycocotools is missing.
    """
    coco_module = require("pycocotools.coco", purpose="COCO metrics")
    eval_module = require("pycocotools.cocoeval", purpose="COCO metrics")
    # pycocotools prints its progress; our own table says it all.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_module.COCO()
        truth.dataset = copy.deepcopy(ground_truth)
        truth.dataset.setdefault("info", {})
        # pycocotools writes the id of the matched annotation and reads 0 as "none"; two with one id
        # would be one to it.
        for number, annotation in enumerate(truth.dataset["annotations"], start=1):
            annotation["id"] = number
        truth.createIndex()
        found = coco_module.COCO()
        if results:
            found = truth.loadRes([dict(r) for r in results])
        else:
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = eval_module.COCOeval(truth, found, "bbox")
        if category_ids is not None:
            evaluation.params.catIds = sorted(category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = {c["id"]: c["name"] for c in ground_truth["categories"]}
    # Axes: IoU thresholds, recalls, categories, areas (all first), detections (100 last).
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    per_class, per_class50 = {}, {}
    for k, category in enumerate(evaluation.params.catIds):
        if (precision[:, :, k] > -1).any():
            per_class[names[category]] = _mean(precision[:, :, k])
            per_class50[names[category]] = _mean(precision[0, :, k])
    ap, ap50, ap75, small, medium, large, _, _, recall, *_ = map(float, evaluation.stats)
    return CocoMetrics(ap, ap50, ap75, small, medium, large, recall, per_class, per_class50)


def _mean(values: Any) -> float:
    valid = values[values > -1]
    return float(np.mean(valid)) if valid.size else -1.0
