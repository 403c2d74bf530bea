# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration images: from a folder, a list file, a COCO folder or a bag to network inputs."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.int8.options import ImageOptions
from yolox_trt.core.coco import find_images, read_instances
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.files import read_at_most
from yolox_trt.core.frame import Frame
from yolox_trt.core.images import ImageFiles, ImageSource, images_in, is_bag, read_image_size
from yolox_trt.core.input_size import Size
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.model_spec import METADATA_PREPROCESSING, Preprocessing
from yolox_trt.core.option import options_of
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import ImageInput, take_image_alone
from yolox_trt.kernels.cpu_preprocess import CpuPreprocessor

_log = logging.getLogger("yolox_trt.int8")

OpenBag = Callable[[Path, Sequence[str]], ImageSource]

_FIX = (
    "give ",
    options_of(ImageOptions)["images"],
    ", a folder, a text file with one image path a line, a COCO folder, or a bag",
)


def float_model(path: Path, preprocessing: Preprocessing | None = None) -> Graph:
    """Read a model that will be quantised, and note in it what its input expects.

    Raises:
        ModelError: see Graph.load and take_image_alone.
    """
    graph = Graph.load(path)
    take_image_alone(graph)
    if preprocessing is not None:
        graph.metadata[METADATA_PREPROCESSING] = preprocessing.to_json()
    if graph.find("QuantizeLinear", "DequantizeLinear"):
        _log.warning(
            "%s is quantised already, and what is lost stays lost: give the float model from which "
            "it was made, or take its scales off by `yolox_trt translate`",
            path,
        )
    return graph


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
        with ConfigurationError.instead_of(
            (OSError, ValueError),
            f"'{path}', which cannot be read as a list",
            expected="a text file with one image path a line",
            fix=_FIX,
        ):
            text = read_at_most(path, LIMITS.json_bytes).decode()
        lines = [line.strip() for line in text.splitlines()]
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

    Iterating gives float32 (1, 3, H, W) arrays, a new one each time, preprocessed as for inference;
    (1, H, W, 3) where the network takes them so. An image that cannot be read raises FrameError
    when it is reached: a calibration set with broken images is to be mended, not skipped over.

    Args:
        source: see image_paths; or a bag, which needs `open_bag`.
        image: input of the network.
        limit: at most so many, spread evenly over the source where its length is known; 0: all.
        open_bag: opens the images of a bag's topics, () for all of them (ros.tools.bag does).

    Raises:
        ConfigurationError: there are no images.
    """

    def __init__(
        self,
        source: str | Path,
        image: ImageInput,
        *,
        limit: int = 0,
        open_bag: OpenBag | None = None,
    ) -> None:
        self._image, self._limit = image, limit
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

    def shapes(self) -> Iterator[Size]:
        """Read (height, width) of one image after the other: of files all, of a bag the first."""
        for path in getattr(self._images, "paths", ()):
            yield read_image_size(path)
        if not isinstance(self._images, ImageFiles):
            yield from (frame.source_size for frame in itertools.islice(self._images, 1))

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        """Read and preprocess one image after the other."""
        yield from inputs_of(itertools.islice(self._images, self._limit or None), self._image)


def inputs_of(frames: Iterable[Frame], image: ImageInput) -> Iterator[npt.NDArray[np.float32]]:
    """Preprocess images; yield float32 (1, 3, H, W), a new array for each, or (1, H, W, 3)."""
    preprocess = CpuPreprocessor(image.preprocessing)
    buffer = np.empty((3, image.input_height, image.input_width), np.float32)
    for frame in frames:
        preprocess(frame, buffer)
        yield image.arrange(buffer[None]).copy()
