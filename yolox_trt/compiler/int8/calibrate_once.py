# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Calibrate at most once: the calibration cache of a model and images, kept for the next time."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from yolox_trt.compiler.int8.calibration_cache import CacheOptions, version_number, write_cache
from yolox_trt.compiler.int8.images import CalibrationInputs, image_paths
from yolox_trt.compiler.int8.options import CalibrateOptions
from yolox_trt.compiler.int8.quantizer import calibrate
from yolox_trt.core.files import sha256_of
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import read_image_input

_log = logging.getLogger(__name__)

#: Images that are used at most, as by `yolox_trt calibrate`.
MOST_IMAGES = 1000


def calibrated_once(
    model: Path,
    images: Path,
    options: CalibrateOptions,
    *,
    tensorrt: str,
    folder: Path,
    on_progress: Progress = no_progress,
) -> Path:
    """Return the calibration cache of a model, made now or by an earlier call.

    It is made again where the model, the images (their names, sizes and times) or the options are
    others.

    Args:
        model: float ONNX file.
        images: a folder, a list file or a COCO folder or json; see image_paths.
        options: how ranges are found.
        tensorrt: version of TensorRT that reads the cache.
        folder: where it is kept.
        on_progress: told of every image.

    Raises:
        ConfigurationError: there are no images, or this TensorRT has no calibration caches.
        ModelError: see calibrate.
        OSError: the model or an image is gone.
    """
    states = [(str(path), path.stat()) for path in image_paths(images)]
    what = {
        "model": sha256_of(model),
        "images": [(path, state.st_size, state.st_mtime_ns) for path, state in states],
        "options": [options.algorithm, sorted(options.overrides.items()), options.dla],
        "tensorrt": version_number(tensorrt),
    }
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    path = folder / f"{model.stem}.{key}.cache"
    if path.is_file():
        return path
    _log.info("%s is calibrated with the images of %s", model, images)
    graph = Graph.load(model)
    inputs = CalibrationInputs(images, read_image_input(graph), limit=MOST_IMAGES)
    found = calibrate(graph, inputs, options, on_progress=on_progress)
    write_cache(path, found.ranges, CacheOptions(tensorrt=tensorrt))
    _log.info("%s: %d ranges in %s", model, len(found.ranges), path)
    return path
