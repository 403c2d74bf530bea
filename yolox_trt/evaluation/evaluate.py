# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a Detector over a Dataset and measures its accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from yolox_trt.cli.progress import track
from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.detector import Detector, StageTimes
from yolox_trt.evaluation.coco_metrics import CocoMetrics, coco_metrics
from yolox_trt.evaluation.dataset import Dataset, DatasetImage

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
    """

    metrics: CocoMetrics
    results: list[dict[str, Any]]
    images: int
    stage_times: StageTimes
    left_out: tuple[str, ...] = ()


def evaluate(
    detector: Detector,
    dataset: Dataset,
    options: PostprocessOptions = EVALUATION_OPTIONS,
    *,
    show_progress: bool = True,
) -> Evaluation:
    """Measure a Detector's accuracy.

    Args:
        detector: the detector; its class names are matched with the categories.
        dataset: images and ground truth.
        options: thresholds.
        show_progress: whether to show a progress bar on stderr.

    Raises:
        ConfigurationError: the model's classes cannot be matched with the data set's categories.
        FrameError: an image cannot be read.
    """
    categories = dataset.categories_of(detector.spec.class_names, detector.spec.num_classes)
    counted = set(categories.values())
    results: list[dict[str, Any]] = []
    times: list[StageTimes] = []
    detector.warmup()
    images = read_images(dataset.images, ahead=2 * detector.max_batch)
    for batch in track(
        _batches(images, detector.max_batch),
        total=-(-len(dataset.images) // detector.max_batch),
        description="Detecting",
        show=show_progress,
    ):
        frames = [Frame.from_array(pixels) for _, pixels in batch]
        for (image, _), found in zip(
            batch, detector.detect(frames, [options] * len(frames)), strict=True
        ):
            results += coco_results(image.image_id, found, categories)
        times += [_divided(detector.stage_times, len(frames))] * len(frames)
    metrics = coco_metrics(dataset.ground_truth, results, category_ids=counted)
    median = StageTimes(
        *(
            float(np.median([getattr(t, stage) for t in times]))
            for stage in ("preprocess", "inference", "postprocess")
        )
    )
    annotated = {annotation["category_id"] for annotation in dataset.ground_truth["annotations"]}
    left_out = tuple(
        name for id_, name in dataset.category_names.items() if id_ in annotated - counted
    )
    return Evaluation(metrics, results, len(dataset.images), median, left_out)


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


def read_images(
    images: Sequence[DatasetImage], *, ahead: int = 2
) -> Iterator[tuple[DatasetImage, npt.NDArray[np.uint8]]]:
    """Read images in another thread while earlier ones are worked on.

    Args:
        images: the files.
        ahead: images that are read in advance.

    Yields:
        The image and its pixels, uint8 (H, W, 3), blue green red.

    Raises:
        FrameError: a file that OpenCV cannot read.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-images") as pool:
        pending = [pool.submit(read_image, str(image.path)) for image in images[:ahead]]
        for index, image in enumerate(images):
            if index + ahead < len(images):
                pending.append(pool.submit(read_image, str(images[index + ahead].path)))
            yield image, pending.pop(0).result()


def read_image(path: str) -> npt.NDArray[np.uint8]:
    """Read an image file as uint8 (H, W, 3), blue green red.

    Raises:
        FrameError: OpenCV cannot read it.
    """
    pixels = cv2.imread(path, cv2.IMREAD_COLOR)
    if pixels is None:
        raise FrameError(
            f"image '{path}' that cannot be read",
            expected="a JPEG, PNG, BMP, TIFF or WebP file",
            fix="take it out of the folder, or write it anew",
        )
    return np.asarray(pixels, np.uint8)


def _batches(
    images: Iterator[tuple[DatasetImage, npt.NDArray[np.uint8]]], size: int
) -> Iterator[list[tuple[DatasetImage, npt.NDArray[np.uint8]]]]:
    batch = []
    for item in images:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _divided(times: StageTimes, count: int) -> StageTimes:
    return StageTimes(times.preprocess / count, times.inference / count, times.postprocess / count)
