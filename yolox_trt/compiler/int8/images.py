# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration images: from a folder, a list file, a COCO folder or a bag to network inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.int8.options import ImageOptions
from yolox_trt.core.coco import find_images, read_instances
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.images import ImageFiles, ImageSource, images_in, is_bag
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.option import options_of
from yolox_trt.kernels.cpu_preprocess import CpuPreprocessor

OpenBag = Callable[[Path, Sequence[str]], ImageSource]

_FIX = (
    "give ",
    options_of(ImageOptions)["images"],
    ", a folder, a text file with one image path a line, a COCO folder, or a bag",
)


def image_paths(source: str | Path) -> list[Path]:
    """List the images of a folder, list file or COCO json, in a fixed order.

    Args:
        source: a folder (its images, or those of its `images` folder), a text file with one path
            a line (relative ones are taken from the file's folder), or an instances_*.json beside
            its `images` folder.

    Raises:
        ConfigurationError: nothing there, no images in it, or a listed image is missing.
    """
    path = Path(source)
    if path.is_dir():
        folder = path / "images" if (path / "images").is_dir() else path
        return images_in(folder, "**/*")
    if path.suffix == ".json" and path.is_file():
        entries = read_instances(path, ("images",), fix=_FIX)["images"]
        names, folders = [e["file_name"] for e in entries], [path.parent / "images", path.parent]
    elif path.is_file():
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        names, folders = [n for n in lines if n and not n.startswith("#")], [path.parent]
    else:
        raise ConfigurationError(
            f"no file or folder '{path}'",
            expected="calibration images: a folder, a list file, a COCO json, or a bag",
            fix=_FIX,
        )
    return find_images(names, folders, fix=f"correct '{path}', or bring the images there")


class CalibrationInputs:
    """Calibration images as inputs of a network; they may be iterated over again.

    Iterating gives float32 (1, 3, H, W) arrays, a new one each time, preprocessed as for inference.
    An image that cannot be read raises FrameError when it is reached: a calibration set with broken
    images is to be mended, not skipped over.

    Args:
        source: see image_paths; or a bag, which needs `open_bag`.
        spec: of the network.
        limit: at most so many, spread evenly over the source where its length is known; 0: all.
        open_bag: opens the images of a bag's topics, () for all of them (ros.tools.bag does).

    Raises:
        ConfigurationError: there are no images.
    """

    def __init__(
        self,
        source: str | Path,
        spec: ModelSpec,
        *,
        limit: int = 0,
        open_bag: OpenBag | None = None,
    ) -> None:
        self._spec, self._limit = spec, limit
        self._images: ImageSource
        if is_bag(source):
            if open_bag is None:
                raise ConfigurationError(
                    f"bag '{source}' without a bag reader",
                    expected="the package rosbags",
                    fix="pip install rosbags",
                )
            self._images = open_bag(Path(source), ())
        else:
            paths = image_paths(source)
            if 0 < limit < len(paths):
                paths = [paths[i * len(paths) // limit] for i in range(limit)]
            self._images = ImageFiles(paths, strict=True)

    def __length_hint__(self) -> int:
        """Return their number, 0 where it is not known."""
        found = len(self._images)
        return min(found or self._limit, self._limit) if self._limit else found

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        """Read and preprocess one image after the other."""
        preprocess = CpuPreprocessor(self._spec.preprocessing)
        buffer = np.empty((3, self._spec.input_height, self._spec.input_width), np.float32)
        for frame in itertools.islice(self._images, self._limit or None):
            preprocess(frame, buffer)
            yield buffer[None].copy()
