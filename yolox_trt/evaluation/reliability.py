# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""How far COCO's averages would vary with other images, and what a score is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

#: Lower and upper end.
Interval: TypeAlias = tuple[float, float]

#: Ends of a 95 % interval, in per cent of the resamples.
_ENDS = (2.5, 97.5)
#: As COCO's metrics have it where the ground truth has nothing of that kind.
_NONE: Interval = (-1.0, -1.0)
#: Scores from which on reliability is counted, and the width of its bins. Below are the many
#: guesses that an evaluation keeps for the tail of the precision-recall curve.
_LOWEST_SCORE, _BIN = 0.1, 0.1


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections of one category, highest score first, and what they matched.

    Attributes:
        image: int (D,), number of the image that each is in.
        scores: float (D,).
        hits: bool (T, D), whether each found an object, at each of COCO's T IoU thresholds.
        counted: bool (T, D), whether it counts (it does not where it found a crowd).
        objects: int (I,), objects of each image that count.
    """

    image: npt.NDArray[np.intp]
    scores: npt.NDArray[np.float64]
    hits: npt.NDArray[np.bool_]
    counted: npt.NDArray[np.bool_]
    objects: npt.NDArray[np.intp]


@dataclass(frozen=True)
class Intervals:
    """95 % intervals by bootstrap over images; see CocoMetrics for the names.

    Attributes:
        resamples: how often the images were drawn.
        mean_ap, map50: of the averages over categories.
        per_class, per_class50: category name -> interval.
    """

    resamples: int
    mean_ap: Interval
    map50: Interval
    per_class: Mapping[str, Interval]
    per_class50: Mapping[str, Interval]


@dataclass(frozen=True)
class ScoreBin:
    """Detections with scores of a range.

    Attributes:
        low, high: the range.
        detections: how many.
        score: mean of their scores.
        right: share of them that found an object, at IoU 0.50.
    """

    low: float
    high: float
    detections: int
    score: float
    right: float


@dataclass(frozen=True)
class Reliability:
    """What scores are worth, from 0.1 on.

    Attributes:
        ece: expected calibration error: mean over detections of the difference between the mean
            score and the share of right ones in their bin (Guo et al. 2017, equation 3, for
            detections as in Kueppers et al. 2020, with the score alone).
        bins: those with detections.
    """

    ece: float
    bins: tuple[ScoreBin, ...]


def matches_of(evaluation: Any) -> dict[str, Matches]:
    """Return the matches by category name, of a pycocotools COCOeval after evaluate()."""
    parameters = evaluation.params
    images, areas = len(parameters.imgIds), len(parameters.areaRng)
    found = {}
    for k, category in enumerate(parameters.catIds):
        first = k * areas * images  # the first area range is that of all objects
        entries = [(i, e) for i, e in enumerate(evaluation.evalImgs[first : first + images]) if e]
        objects = np.zeros(images, np.intp)
        for i, entry in entries:
            objects[i] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
        if not objects.any():
            continue
        scores = np.concatenate([entry["dtScores"] for _, entry in entries])
        order = np.argsort(-scores, kind="stable")
        image = np.concatenate([[i] * len(e["dtScores"]) for i, e in entries])[order].astype(int)
        hits, ignored = (
            np.concatenate([entry[key] for _, entry in entries], axis=1)[:, order].astype(bool)
            for key in ("dtMatches", "dtIgnore")
        )
        name = evaluation.cocoGt.cats[category]["name"]
        found[name] = Matches(image, scores[order], hits & ~ignored, ~ignored, objects)
    return found


def average_precisions(
    matches: Matches, weights: npt.NDArray[np.intp], recalls: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return COCO's interpolated average precision at each IoU threshold, (T,).

    Args:
        matches: of one category.
        weights: int (I,), how often each image counts.
        recalls: COCO's recall points.

    Returns:
        NaN where no object counts.
    """
    total = int(weights @ matches.objects)
    count = len(matches.hits)
    if not total:
        return np.full(count, np.nan)
    if not len(matches.scores):
        return np.zeros(count)
    weight = weights[matches.image]
    right = np.cumsum(matches.hits * weight, axis=1)
    all_ = np.cumsum(matches.counted * weight, axis=1)
    precision = right / np.maximum(all_, 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # A point takes the precision of the first detection that reaches its recall.
    reached = np.searchsorted(recalls, (right / total).ravel(), "right").reshape(right.shape)
    points = np.diff(reached, axis=1, prepend=0)
    averages: npt.NDArray[np.float64] = (points * precision).sum(axis=1) / len(recalls)
    return averages


def bootstrap(
    matches: Mapping[str, Matches],
    recalls: npt.NDArray[np.float64],
    resamples: int,
    seed: int = 0,
) -> Intervals:
    """Draw as many images as there are, with replacement, again and again.

    Args:
        matches: by category name.
        recalls: COCO's recall points.
        resamples: how often.
        seed: of the drawing.
    """
    if not matches:
        return Intervals(resamples, _NONE, _NONE, {}, {})
    images = len(next(iter(matches.values())).objects)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(images, np.full(images, 1.0 / images), size=resamples)
    values = np.array(
        [[average_precisions(m, weights, recalls) for weights in drawn] for m in matches.values()]
    )
    # (categories, resamples): over all IoU thresholds, and at the first.
    whole, at50 = values.mean(axis=2), values[:, :, 0]
    return Intervals(
        resamples,
        _interval(_mean_of_categories(whole)),
        _interval(_mean_of_categories(at50)),
        {name: _interval(row) for name, row in zip(matches, whole, strict=True)},
        {name: _interval(row) for name, row in zip(matches, at50, strict=True)},
    )


def _mean_of_categories(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the mean over the categories that a resample has, of those that have any."""
    there = ~np.isnan(values)
    count = there.sum(axis=0)
    total: npt.NDArray[np.float64] = np.where(there, values, 0.0).sum(axis=0)
    return total[count > 0] / count[count > 0]


def _interval(samples: npt.NDArray[np.float64]) -> Interval:
    valid = samples[~np.isnan(samples)]
    if not valid.size:
        return _NONE
    low, high = np.percentile(valid, _ENDS)
    return float(low), float(high)


def reliability(matches: Mapping[str, Matches]) -> Reliability:
    """Compare scores with the share of right detections, over all categories."""
    counted = [each.counted[0] for each in matches.values()]
    parts = list(zip(matches.values(), counted, strict=True))
    scores = np.concatenate([m.scores[c] for m, c in parts]) if parts else np.zeros(0)
    right = np.concatenate([m.hits[0][c] for m, c in parts]) if parts else np.zeros(0, bool)
    bins = []
    for low in np.arange(_LOWEST_SCORE, 1.0, _BIN).round(6).tolist():
        high = round(low + _BIN, 6)
        inside = (scores >= low) & ((scores < high) | (high >= 1.0))
        if inside.any():
            mean, share = float(scores[inside].mean()), float(right[inside].mean())
            bins.append(ScoreBin(low, high, int(inside.sum()), mean, share))
    total = sum(each.detections for each in bins)
    error = sum(each.detections * abs(each.score - each.right) for each in bins)
    return Reliability(error / total if total else 0.0, tuple(bins))
