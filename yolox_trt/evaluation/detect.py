# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Detections in all images of a source, as COCO results and as annotated images or a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.frame import Frame
from yolox_trt.core.images import ImageFiles, ImageSource, Video
from yolox_trt.core.labels import COCO_CATEGORY_IDS, COCO_CLASSES
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.detectors.detector import Detector
from yolox_trt.kernels.draw import draw_detections


class ResultWriter(Protocol):
    """Takes the detections of one image after the other, and writes them to `path`."""

    path: Path

    def write(self, frame: Frame, detections: Detections) -> None:
        """Write the detections of an image."""

    def close(self) -> None:
        """Finish what is written."""


def detect_all(
    detector: Detector,
    source: ImageSource,
    options: PostprocessOptions,
    *,
    writer: ResultWriter | None = None,
    on_progress: Progress = no_progress,
) -> tuple[int, list[dict[str, Any]]]:
    """Detect in every image of a source.

    Args:
        detector: the detector.
        source: the images.
        options: thresholds.
        writer: takes each image's detections, too.
        on_progress: told of each image.

    Returns:
        The number of images, and the detections as COCO results. `category_id` is COCO's for
        COCO's 80 classes, else the class id; `category_name` is the class's name; `image_id` is
        the source's number of the image, or its place (from 1) in the source.
    """
    spec = detector.spec
    categories = dict(enumerate(range(spec.num_classes)))
    if spec.class_names == COCO_CLASSES:
        categories = dict(enumerate(COCO_CATEGORY_IDS))
    names = {category: spec.class_name(class_id) for class_id, category in categories.items()}
    results: list[dict[str, Any]] = []
    images = 0
    for images, frame in enumerate(source, start=1):
        found = detector.detect([frame], [options])[0]
        if writer is not None:
            writer.write(frame, found)
        origin = {"image_id": images, **source.origin(frame)}
        results += [
            result | origin | {"category_name": names[result["category_id"]]}
            for result in coco_results(origin["image_id"], found, categories)
        ]
        on_progress("detecting", images, len(source) or None)
    return images, results


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


class AnnotationWriter:
    """Writes a source's images with boxes drawn in: a video as MP4, files under their names.

    Args:
        source: the images.
        folder: folder of the results, made if need be.
        class_names: names of the classes.

    Attributes:
        path: the folder, or the video in it.

    Raises:
        ConfigurationError: the results would overwrite the source.
    """

    def __init__(
        self, source: ImageFiles | Video, folder: Path, class_names: Sequence[str]
    ) -> None:
        video = isinstance(source, Video)
        file = Path(source.path) if isinstance(source, Video) else source.paths[0]
        target = folder / (f"{file.stem}.mp4" if video else file.name)
        if target.resolve() == file.resolve():
            raise ConfigurationError(
                f"results in '{folder}', the folder of the source",
                expected="another folder: the results would overwrite the originals",
                fix="name another folder for the results",
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.path = target if video else folder
        self._rate = source.rate if video else None
        self._class_names = class_names
        self._video: Any = None

    def write(self, frame: Frame, detections: Detections) -> None:
        """Draw the detections of an image, and write it.

        Raises:
            ConfigurationError: the folder or the format cannot be written.
        """
        picture = draw_detections(np.array(frame.rows), detections, self._class_names)
        target = self.path
        if self._rate is None:
            target /= Path(frame.stream_id).name
            written = cv2.imwrite(str(target), picture)
        else:
            if self._video is None:
                code, size = cv2.VideoWriter.fourcc(*"mp4v"), (frame.width, frame.height)
                self._video = cv2.VideoWriter(str(target), code, self._rate, size)
            self._video.write(picture)
            written = self._video.isOpened()
        if not written:
            raise ConfigurationError(
                f"'{target}' that cannot be written",
                expected="a folder with write permission, and an OpenCV that writes this format",
                fix="name another folder for the results, or write none",
            )

    def close(self) -> None:
        """Finish the video."""
        if self._video is not None:
            self._video.release()
