# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration images: from a folder, a list file, a COCO folder or a bag to network inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.frame import Frame
from yolox_trt.core.images import IMAGE_SUFFIXES, is_bag, read_image
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.kernels.cpu_preprocess import CpuPreprocessor

_EXPECTED = "calibration images: a folder, a list file, a COCO json, or a bag"
_FIX = "give --images FOLDER, a text file with one image path a line, a COCO folder, or a bag"


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
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    elif path.suffix == ".json" and path.is_file():
        try:
            names = [image["file_name"] for image in json.loads(path.read_text())["images"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"'{path}' that is not a COCO annotation file ({error!r})",
                expected="JSON with `images`, each with a `file_name`",
                fix=_FIX,
            ) from error
        folders = (path.parent / "images", path.parent)
        paths = [
            next((f / n for f in folders if (f / n).is_file()), path.parent / n) for n in names
        ]
    elif path.is_file():
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        paths = [path.parent / line for line in lines if line and not line.startswith("#")]
    else:
        raise ConfigurationError(f"no file or folder '{path}'", expected=_EXPECTED, fix=_FIX)
    missing = [p for p in paths if not p.is_file()]
    if missing:
        raise ConfigurationError(
            f"'{path}' lists '{missing[0]}', which does not exist",
            expected=f"files beside '{path}'",
            fix="correct the list, or bring the images there",
        )
    if not paths:
        raise ConfigurationError(f"no image in '{path}'", expected=_EXPECTED, fix=_FIX)
    return paths


def calibration_frames(
    source: str | Path,
    *,
    limit: int = 0,
    open_bag: Callable[[Path, Sequence[str]], Iterable[Frame]] | None = None,
) -> tuple[Iterator[Frame], int | None]:
    """Open calibration images.

    Args:
        source: see image_paths; a bag needs `open_bag`.
        limit: at most so many, spread evenly over the source where its length is known; 0: all.
        open_bag: gives the frames of a bag's topics, () for all of them (ros.bag does).

    Returns:
        (frames, their number or None where it is not known before). Files that OpenCV cannot
        decode raise FrameError when they are reached: a calibration set with broken
        images is to be mended, not skipped over.
    """
    if is_bag(source):
        if open_bag is None:
            raise ConfigurationError(
                f"bag '{source}' without a bag reader",
                expected="the package rosbags",
                fix="pip install rosbags",
            )
        bag = open_bag(Path(source), ())
        total = len(bag) if isinstance(bag, Sized) else None
        if limit:
            total = limit if total is None else min(limit, total)
        return _first(bag, limit), total
    paths = image_paths(source)
    if 0 < limit < len(paths):
        paths = [paths[i * len(paths) // limit] for i in range(limit)]
    return (read_frame(path) for path in paths), len(paths)


def _first(frames: Iterable[Frame], limit: int) -> Iterator[Frame]:
    for number, frame in enumerate(frames, start=1):
        yield frame
        if number == limit:
            return


def read_frame(path: Path) -> Frame:
    """Read an image file as a bgr8 Frame.

    Raises:
        FrameError: OpenCV cannot read it.
    """
    return Frame.from_array(read_image(path), stream_id=str(path))


def network_inputs(frames: Iterable[Frame], spec: ModelSpec) -> Iterator[npt.NDArray[np.float32]]:
    """Preprocess frames as inference does.

    Yields:
        float32 (1, 3, H, W) each, a new array every time.
    """
    preprocess = CpuPreprocessor(spec.preprocessing)
    buffer = np.empty((3, spec.input_height, spec.input_width), np.float32)
    for frame in frames:
        preprocess(frame, buffer)
        yield buffer[None].copy()
