# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a Detector over a Dataset and measures its accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from yolox_trt.core.images import ImageFiles
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.detectors.detector import Detector, StageTimes
from yolox_trt.evaluation.coco_metrics import CocoMetrics, coco_results, matched, metrics_of
from yolox_trt.evaluation.dataset import Dataset
from yolox_trt.evaluation.reliability import (
    Intervals,
    Reliability,
    bootstrap,
    matches_of,
    reliability,
)

#: Thresholds of the published YOLOX figures (yolox/exp/yolox_base.py: test_conf, nmsthre).
EVALUATION_OPTIONS = PostprocessOptions(
    score_threshold=0.01, nms_threshold=0.65, max_detections=1000
)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        metrics: COCO's metrics.
        results: all detections in COCO's results form.
        images: number of images.
        stage_times: median seconds for each image, by stage.
        left_out: names of annotated categories that no class of the model answers to; the metrics
            do not count them.
        intervals: 95 % intervals of the metrics; None where nobody asked for them.
        reliability: what scores are worth.
    """

    metrics: CocoMetrics
    results: list[dict[str, Any]]
    images: int
    stage_times: StageTimes
    left_out: tuple[str, ...]
    intervals: Intervals | None
    reliability: Reliability


def evaluate(
    detector: Detector,
    dataset: Dataset,
    options: PostprocessOptions = EVALUATION_OPTIONS,
    *,
    resamples: int = 0,
    on_progress: Progress = no_progress,
) -> Evaluation:
    """Measure a Detector's accuracy.

    Args:
        detector: the detector; its class names are matched with the categories.
        dataset: images and ground truth.
        options: thresholds.
        resamples: how often images are drawn for the intervals; 0 for none.
        on_progress: told of each batch.

    Raises:
        ConfigurationError: the model's classes cannot be matched with the data set's categories.
        FrameError: an image cannot be read.
    """
    categories = dataset.categories_of(detector.spec.class_names, detector.spec.num_classes)
    counted = set(categories.values())
    results: list[dict[str, Any]] = []
    times: list[tuple[float, float, float]] = []
    detector.warmup()
    size = detector.max_batch
    ids, paths = iter(dataset.images), list(dataset.images.values())
    frames = iter(ImageFiles(paths, strict=True, ahead=2 * size))
    while batch := list(islice(frames, size)):
        found = detector.detect(batch, [options] * len(batch))
        for image_id, detections in zip(islice(ids, len(batch)), found, strict=True):
            results += coco_results(image_id, detections, categories)
        stages = detector.stage_times
        one = (stages.preprocess, stages.inference, stages.postprocess)
        times += [tuple(np.divide(one, len(batch)))] * len(batch)
        on_progress("evaluating", len(times), len(paths))
    evaluation = matched(dataset.ground_truth, results, category_ids=counted)
    matches = matches_of(evaluation)
    median = StageTimes(*map(float, np.median(times, axis=0)))
    annotated = {annotation["category_id"] for annotation in dataset.ground_truth["annotations"]}
    left_out = tuple(
        name for id_, name in dataset.category_names.items() if id_ in annotated - counted
    )
    intervals = bootstrap(matches, evaluation.params.recThrs, resamples) if resamples else None
    return Evaluation(
        metrics_of(evaluation),
        results,
        len(paths),
        median,
        left_out,
        intervals,
        reliability(matches),
    )
