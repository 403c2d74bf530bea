# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Detections as COCO results, and COCO's metrics of them, computed by pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.labels import COCO_CATEGORY_IDS, COCO_CLASSES
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.optional import require

#: Area of a small object at most, and of any object, in pixels, as COCO has them.
_SMALL, _ANY_AREA = 32**2, 1e5**2


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
        map_not_small: of objects over 32 x 32 pixels.
        recall: average recall with at most 100 detections of a category in an image.
        per_class: category name -> average precision over IoU 0.50:0.05:0.95.
        per_class50: category name -> average precision at IoU 0.50.
        per_class50_not_small: the same, of objects over 32 x 32 pixels.
    """

    mean_ap: float
    map50: float
    map75: float
    map_small: float
    map_medium: float
    map_large: float
    map_not_small: float
    recall: float
    per_class: dict[str, float]
    per_class50: dict[str, float]
    per_class50_not_small: dict[str, float]


def coco_categories(spec: ModelSpec) -> dict[int, int]:
    """Return the category id of each class id: COCO's for COCO's 80 classes, else the class id."""
    return category_ids(spec.class_names, range(spec.num_classes))


def category_ids(class_names: Sequence[str], class_ids: Collection[int]) -> dict[int, int]:
    """Return what coco_categories does, for classes by their names and ids."""
    if tuple(class_names) == COCO_CLASSES:
        return dict(enumerate(COCO_CATEGORY_IDS))
    return {class_id: class_id for class_id in class_ids}


def coco_results(
    image_id: int, detections: Detections, categories: dict[int, int]
) -> list[dict[str, Any]]:
    """Return Detections as COCO results; classes without a category are left out."""
    return [
        {
            "image_id": image_id,
            "category_id": categories[class_id],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for (x1, y1, x2, y2), score, class_id in zip(
            detections.boxes.tolist(),
            detections.scores.tolist(),
            detections.class_ids.tolist(),
            strict=True,
        )
        if class_id in categories
    ]


def coco_metrics(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    *,
    category_ids: Collection[int] | None = None,
) -> CocoMetrics:
    """Compare detections with the ground truth; see matched()."""
    return metrics_of(matched(ground_truth, results, category_ids=category_ids))


def matched(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    *,
    category_ids: Collection[int] | None = None,
) -> Any:
    """Match detections with the ground truth.

    Args:
        ground_truth: COCO instances (images, annotations, categories).
        results: COCO results: {image_id, category_id, bbox (x y width height), score}.
        category_ids: categories to count; None for all of the ground truth.

    Returns:
        pycocotools' COCOeval, accumulated, for metrics_of() and reliability.matches_of().

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
        # One more range: all but the small ones.
        evaluation.params.areaRng = [*evaluation.params.areaRng, [_SMALL, _ANY_AREA]]
        evaluation.params.areaRngLbl = [*evaluation.params.areaRngLbl, "not small"]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def metrics_of(evaluation: Any) -> CocoMetrics:
    """Return the metrics of a COCOeval that matched() made."""
    # Axes: IoU thresholds, recalls, categories, areas (all first), detections (100 last).
    precision = evaluation.eval["precision"][..., -1]
    whole, not_small = precision[:, :, :, 0], precision[:, :, :, -1]
    per_class, per_class50, per_class50_not_small = {}, {}, {}
    for k, category in enumerate(evaluation.params.catIds):
        name = evaluation.cocoGt.cats[category]["name"]
        if (whole[:, :, k] > -1).any():
            per_class[name] = _mean(whole[:, :, k])
            per_class50[name] = _mean(whole[0, :, k])
        if (not_small[:, :, k] > -1).any():
            per_class50_not_small[name] = _mean(not_small[0, :, k])
    ap, ap50, ap75, small, medium, large, _, _, recall, *_ = map(float, evaluation.stats)
    return CocoMetrics(
        *(ap, ap50, ap75, small, medium, large, _mean(not_small), recall),
        *(per_class, per_class50, per_class50_not_small),
    )


def _mean(values: Any) -> float:
    valid = values[values > -1]
    return float(np.mean(valid)) if valid.size else -1.0
