# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Intervals against COCO's own figures of redrawn images, and what scores are worth."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from yolox_trt.evaluation.coco_metrics import coco_metrics, matched, metrics_of
from yolox_trt.evaluation.reliability import (
    average_precisions,
    bootstrap,
    matches_of,
    reliability,
)

IMAGES = 12


def scene() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ground truth and detections of images with two categories, at random."""
    rng = np.random.default_rng(1)
    truth: dict[str, Any] = {
        "images": [{"id": i} for i in range(IMAGES)],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}],
        "annotations": [],
    }
    results = []
    for image in range(IMAGES):
        for _ in range(rng.integers(1, 5)):
            x, y, side = *rng.uniform(0, 400, 2), rng.uniform(20, 120)
            category, crowd = int(rng.integers(1, 3)), int(rng.random() < 0.1)
            truth["annotations"].append(
                {
                    "image_id": image,
                    "category_id": category,
                    "bbox": [x, y, side, side],
                    "area": side**2,
                    "iscrowd": crowd,
                }
            )
            for _ in range(rng.integers(0, 3)):
                dx, dy = rng.normal(0, 0.12 * side, 2)
                results.append(
                    {
                        "image_id": image,
                        "category_id": category,
                        "bbox": [x + dx, y + dy, side, side],
                        "score": float(rng.random()),
                    }
                )
    return truth, results


TRUTH, RESULTS = scene()


def redrawn(weights: list[int]) -> dict[str, float]:
    """Return COCO's AP of each category where images are there as often as their weights say."""
    truth, results = copy.deepcopy(TRUTH), []
    truth["images"], truth["annotations"] = [], []
    for image, weight in enumerate(weights):
        for copy_ in range(weight):
            number = 100 * image + copy_
            truth["images"].append({"id": number})
            for kind, into in ((TRUTH["annotations"], truth["annotations"]), (RESULTS, results)):
                into += [{**each, "image_id": number} for each in kind if each["image_id"] == image]
    return coco_metrics(truth, results).per_class


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_as_good_as_copies_of_images(seed: int) -> None:
    evaluation = matched(TRUTH, RESULTS)
    weights = np.random.default_rng(seed).multinomial(IMAGES, [1 / IMAGES] * IMAGES)
    found = {
        name: float(average_precisions(each, weights, evaluation.params.recThrs).mean())
        for name, each in matches_of(evaluation).items()
    }
    assert found == pytest.approx(redrawn(weights.tolist()))
    assert 0.0 < min(found.values()) < max(found.values()) < 1.0


def test_intervals_hold_the_metrics() -> None:
    evaluation = matched(TRUTH, RESULTS)
    metrics = metrics_of(evaluation)
    found = bootstrap(matches_of(evaluation), evaluation.params.recThrs, 100)
    low, high = found.mean_ap
    assert low < metrics.mean_ap < high and high - low > 0.02
    assert found.map50[0] < metrics.map50 < found.map50[1]
    for name, value in metrics.per_class50.items():
        assert found.per_class50[name][0] <= value <= found.per_class50[name][1]
    assert found == bootstrap(matches_of(evaluation), evaluation.params.recThrs, 100)


def test_equal_images_leave_no_doubt() -> None:
    """Eight images with the same object and detections: drawn again they give the same."""
    box = {"category_id": 1, "bbox": [10, 10, 50, 50]}
    truth = {**TRUTH, "images": [{"id": i} for i in range(8)]}
    truth["annotations"] = [{**box, "image_id": i, "area": 2500, "iscrowd": 0} for i in range(8)]
    results = [{**box, "image_id": i, "score": 0.8} for i in range(8)]
    evaluation = matched(truth, results)
    found = bootstrap(matches_of(evaluation), evaluation.params.recThrs, 20)
    assert found.mean_ap == found.per_class["car"] == pytest.approx((1.0, 1.0))
    assert list(found.per_class) == ["car"]
    # All were right, with a score of 0.8.
    (one,) = reliability(matches_of(evaluation)).bins
    assert (one.detections, one.right, one.low) == (8, 1.0, 0.8)
    assert reliability(matches_of(evaluation)).ece == pytest.approx(0.2)


def test_reliability_counts_from_its_lowest_score() -> None:
    found = reliability(matches_of(matched(TRUTH, RESULTS)))
    assert found.bins[0].low == 0.1 and found.bins[-1].high == 1.0
    crowds = sum(1 for each in TRUTH["annotations"] if each["iscrowd"])
    assert crowds
    counted = sum(each.detections for each in found.bins)
    assert 0 < counted < sum(each["score"] >= 0.1 for each in RESULTS), "crowds do not count"
    assert found.ece == pytest.approx(
        sum(b.detections * abs(b.score - b.right) for b in found.bins) / counted
    )


def test_nothing_found_and_nothing_there() -> None:
    empty = matched({**TRUTH, "annotations": []}, [])
    found = bootstrap(matches_of(empty), empty.params.recThrs, 5)
    assert found.mean_ap == (-1.0, -1.0) and not found.per_class
    assert reliability(matches_of(empty)).bins == ()
    blind = matched(TRUTH, [])
    assert bootstrap(matches_of(blind), blind.params.recThrs, 5).mean_ap == (0.0, 0.0)
