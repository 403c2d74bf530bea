# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy of masks: pixel accuracy and mean IoU, on PNG labels or COCO panoptic ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.coco import find_images, read_instances
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError, FrameError
from yolox_trt.core.images import ImageFiles, images_in, read_image
from yolox_trt.core.mask import NO_CLASS
from yolox_trt.core.mask_files import read_mask_file
from yolox_trt.core.model_spec import SegmentationHead
from yolox_trt.core.option import options_of
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.detectors.detector import Detector
from yolox_trt.evaluation.dataset import normal_name
from yolox_trt.evaluation.options import DatasetOptions

Classes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SegmentationMetrics:
    """How well masks fit their labels; pixels without a label do not count.

    Attributes:
        pixel_accuracy: share of the pixels whose class is right.
        mean_iou: mean over the classes of their IoU. Classes that are neither in the labels nor in
            the masks do not count.
        per_class: name -> IoU: pixels of the class in both, over those in either.
        images: number of images.
        left_out: annotated categories that no class of the model answers to.
    """

    pixel_accuracy: float
    mean_iou: float
    per_class: dict[str, float]
    images: int
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class MaskLabels:
    """Images and the functions that read the class of each of their pixels, uint8 (H, W)."""

    images: list[Path]
    read: list[Callable[[], Classes]]
    left_out: tuple[str, ...] = ()


def load_mask_labels(path: Path, head: SegmentationHead, options: DatasetOptions) -> MaskLabels:
    """Find the labels of masks.

    Args:
        path: a folder of PNG files of the images' names, which hold the class of each pixel (255:
            none); or COCO's panoptic_*.json, whose PNG files lie in a folder of its name.
        head: the model's segmentation head. Categories are its classes of the same name, or all in
            ascending order of ids where the model names none.
        options: the folder of the images, and how many of them.

    Raises:
        ConfigurationError: no labels, missing files, or categories that are not the model's.
    """
    fix = ("name the folder of the images with ", options_of(DatasetOptions)["images"], " DIR")
    if path.suffix == ".json":
        labels = _panoptic(path, head, options, fix)
    else:
        files = images_in(path)
        folder = path.parent / "images" if options.images is None else options.images
        by_stem = {image.stem: image for image in images_in(folder)}
        missing = [file.name for file in files if file.stem not in by_stem]
        if missing:
            raise ConfigurationError(
                f"{len(missing)} of {len(files)} labels without an image in '{folder}', such as "
                f"{missing[0]}",
                expected="an image of the same name for each",
                fix=fix,
            )
        read = [_reader(read_mask_file, file, head.num_classes) for file in files]
        labels = MaskLabels([by_stem[file.stem] for file in files], read)
    count = options.limit
    return MaskLabels(labels.images[:count], labels.read[:count], labels.left_out)


def evaluate_segmentation(
    detector: Detector, labels: MaskLabels, *, on_progress: Progress = no_progress
) -> SegmentationMetrics:
    """Measure the masks of a Detector.

    Args:
        detector: one whose model has a segmentation head.
        labels: what is right.
        on_progress: told of each batch.

    Raises:
        ConfigurationError: a label is wrong, or not of its image's size.
        FrameError: an image cannot be read.
    """
    head = segmentation_head(detector)
    count, size = head.num_classes, detector.max_batch
    confusion = np.zeros((count, count), np.int64)
    options = PostprocessOptions(masks=True)
    frames = iter(ImageFiles(labels.images, strict=True, ahead=2 * size))
    done = 0
    while batch := list(islice(frames, size)):
        for found in detector.detect(batch, [options] * len(batch)):
            assert found.mask is not None
            wanted = labels.read[done]()
            if wanted.shape != (found.mask.height, found.mask.width):
                raise ConfigurationError(
                    f"a label of {wanted.shape} for {labels.images[done]}",
                    expected=f"{(found.mask.height, found.mask.width)} (H, W), as the image",
                    fix="write the label again in the image's size",
                )
            confusion += confusion_of(wanted, found.mask.decode(), count)
            done += 1
        on_progress("evaluating", done, len(labels.images))
    return metrics_of(confusion, head, done, labels.left_out)


def segmentation_head(detector: Detector) -> SegmentationHead:
    """Return a Detector's segmentation head.

    Raises:
        ConfigurationError: its model has none.
    """
    if detector.spec.segmentation is None:
        raise ConfigurationError(
            "a model without a segmentation head",
            expected="a segmentation output beside those of the detections",
            fix="give another model, or measure detections",
        )
    return detector.spec.segmentation


def confusion_of(labels: Classes, found: Classes, num_classes: int) -> npt.NDArray[np.int64]:
    """Count pixels by (label, class found), int64 (C, C); those without one do not count."""
    known = (labels != NO_CLASS) & (found != NO_CLASS)
    pairs = labels[known].astype(np.int64) * num_classes + found[known]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def metrics_of(
    confusion: npt.NDArray[np.int64],
    head: SegmentationHead,
    images: int,
    left_out: tuple[str, ...] = (),
) -> SegmentationMetrics:
    """Return the metrics of a confusion matrix (label, class found)."""
    right = confusion.diagonal()
    either = confusion.sum(0) + confusion.sum(1) - right
    per_class = {
        head.class_names[i] if head.class_names else str(i): float(right[i] / either[i])
        for i in np.flatnonzero(either)
    }
    accuracy = float(right.sum() / max(confusion.sum(), 1))
    mean = float(np.mean(list(per_class.values()))) if per_class else 0.0
    return SegmentationMetrics(accuracy, mean, per_class, images, left_out)


def _reader(read: Callable[..., Classes], *arguments: Any) -> Callable[[], Classes]:
    return lambda: read(*arguments)


def _panoptic(path: Path, head: SegmentationHead, options: DatasetOptions, fix: Any) -> MaskLabels:
    named = read_instances(path, ("images", "categories"), fix="give COCO's panoptic_*.json")
    classes, left_out = _classes_of(named["categories"], head)
    files = {image["id"]: image["file_name"] for image in named["images"]}
    expected = "COCO panoptic labels: annotations with image_id, file_name and segments_info"
    segments: dict[int, tuple[str, dict[int, int]]] = {}
    with ConfigurationError.instead_of(
        FILE_ERRORS, f"'{path}'", expected=expected, fix="give COCO's panoptic_*.json"
    ):
        for annotation in named["annotations"]:
            of_segment = {
                int(s["id"]): classes[int(s["category_id"])] for s in annotation["segments_info"]
            }
            segments[int(annotation["image_id"])] = (str(annotation["file_name"]), of_segment)
    ids = [id_ for id_ in files if id_ in segments]
    subset = path.stem.removeprefix("panoptic_")
    beside = [path.parent / "images", path.parent / subset, path.parent.parent / subset]
    folders = [options.images] if options.images else beside
    images = find_images([files[id_] for id_ in ids], folders, fix=fix)
    pngs = find_images(
        [segments[id_][0] for id_ in ids],
        [path.with_suffix(""), path.parent],
        fix=f"unpack them into {path.with_suffix('')}",
    )
    read = [
        _reader(_read_panoptic, png, segments[id_][1]) for png, id_ in zip(pngs, ids, strict=True)
    ]
    return MaskLabels(images, read, left_out)


def _classes_of(
    categories: list[dict[str, Any]], head: SegmentationHead
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Return category id -> class, NO_CLASS where there is none, and the names of the latter."""
    ids = sorted(category["id"] for category in categories)
    if not head.class_names:
        if len(ids) != head.num_classes:
            raise ConfigurationError(
                f"{head.num_classes} classes without names in the model's segmentation head, and "
                f"{len(ids)} categories in the labels",
                expected="names, or as many classes as categories",
                fix="write ONNX metadata yolox_trt.mask_class_names, a JSON list of names",
            )
        return {id_: index for index, id_ in enumerate(ids)}, ()
    by_name = {normal_name(name): index for index, name in enumerate(head.class_names)}
    found = {c["id"]: by_name.get(normal_name(c["name"]), NO_CLASS) for c in categories}
    if set(found.values()) == {NO_CLASS}:
        raise ConfigurationError(
            f"classes {', '.join(head.class_names[:8])} of the model's segmentation head",
            expected="categories of the labels: "
            + ", ".join(str(c["name"]) for c in categories[:8]),
            fix="give the labels of the model's classes",
        )
    return found, tuple(c["name"] for c in categories if found[c["id"]] == NO_CLASS)


def _read_panoptic(png: Path, classes: dict[int, int]) -> Classes:
    """Read a panoptic PNG, whose pixels hold a segment's id as R + 256 G + 256^2 B (0: none)."""
    try:
        blue, green, red = np.moveaxis(read_image(png).astype(np.int32), 2, 0)
    except FrameError as error:
        raise ConfigurationError(
            f"panoptic label '{png}' that cannot be read ({error.parts[0]})",
            expected="a PNG of three 8-bit channels",
        ) from error
    ids, places = np.unique(red + (green << 8) + (blue << 16), return_inverse=True)
    known = np.array([classes.get(int(id_), NO_CLASS) for id_ in ids], np.uint8)
    return known[places].reshape(red.shape)
