# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Many models over many COCO sets: detections as in DetectJob, then COCO's metrics of each pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolox_trt.batch.detection import detections_of, read_table
from yolox_trt.batch.manifest import Manifest
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.evaluation.coco_metrics import CocoMetrics, coco_metrics, coco_results
from yolox_trt.evaluation.dataset import Dataset, load_dataset
from yolox_trt.evaluation.options import DatasetOptions


@dataclass(frozen=True)
class Score:
    """A model on a set.

    Attributes:
        model: its file.
        coco: folder of the set.
        images: that were counted.
        metrics: of them.
    """

    model: Path
    coco: Path
    images: int
    metrics: CocoMetrics


def load_sets(folders: Sequence[Path]) -> dict[Path, Dataset]:
    """Read the labels of COCO sets, before any work; see load_dataset for what it raises."""
    return {folder.absolute(): load_dataset(DatasetOptions(coco=folder)) for folder in folders}


def scores_of(model: Path, manifest: Manifest, sets: dict[Path, Dataset]) -> list[Score]:
    """Measure what a model has found in each of the sets that are done, as `evaluate` does.

    Raises:
        ConfigurationError: the classes cannot be matched with a set's categories.
    """
    scores = []
    for folder, dataset in sets.items():
        results, images = [], 0
        for record, place in manifest.done():
            if record["source"] != str(folder):
                continue
            table, names = read_table(place)
            categories = dataset.categories_of(names)
            for row in table.to_pylist():
                images += 1
                results += coco_results(row["image_id"], detections_of(row), categories)
        if not images:
            continue
        if images < len(dataset.images):
            raise ConfigurationError(
                f"{images} of {len(dataset.images)} images of '{folder}' that were worked on",
                expected="all of them: a metric of some would mislead",
                fix="run the same command again; the manifest names what failed",
            )
        metrics = coco_metrics(dataset.ground_truth, results, category_ids=set(categories.values()))
        scores.append(Score(model, folder, images, metrics))
    return scores
