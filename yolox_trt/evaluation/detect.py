# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt detect`: detections in images, a video or a bag, without ROS."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from yolox_trt.cli.arguments import detector_from, options_from
from yolox_trt.cli.progress import track
from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import ConfigurationError, FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.labels import COCO_CATEGORY_IDS, COCO_CLASSES
from yolox_trt.core.output_paths import prepare_outputs
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.detector import Detector
from yolox_trt.evaluation.evaluate import coco_results, read_image
from yolox_trt.kernels.draw import draw_detections

_LOGGER = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")

Pixels = npt.NDArray[np.uint8]


class ImageSource(Protocol):
    """The images of one source, in order."""

    @property
    def refused(self) -> int:
        """Images that could not be read so far."""
        ...

    def __len__(self) -> int:
        """Images, as far as the source knows."""
        ...

    def __iter__(self) -> Iterator[tuple[Frame, dict[str, Any]]]:
        """Give each image and what its results carry in the JSON file (image_id and its origin)."""
        ...

    def write(self, frame: Frame, detections: Detections) -> None:
        """Write the result of the image that was given last."""
        ...

    def close(self) -> None:
        """Finish what is written."""
        ...


def run_detect(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        0, or 1 where some of the images could not be read.
    """
    # A wrong source is told before the model is loaded.
    _check_source(args.source)
    prepare_outputs(args.json)
    detector = detector_from(args)
    try:
        options = options_from(args, detector.spec.class_names)
        source = open_source(args, detector.spec.class_names)
        with contextlib.closing(source):
            images, results = detect_all(
                detector, source, options, show_progress=sys.stderr.isatty()
            )
    finally:
        detector.close()
    if args.json:
        args.json.write_text(json.dumps(results) + "\n")
    where = getattr(source, "output", None)
    print(
        f"{images} images, {len(results)} detections"
        + (f", {source.refused} images could not be read" if source.refused else "")
        + (f"; written to {where}" if where else "")
    )
    return 1 if source.refused else 0


def detect_all(
    detector: Detector,
    source: ImageSource,
    options: PostprocessOptions,
    *,
    show_progress: bool = False,
) -> tuple[int, list[dict[str, Any]]]:
    """Detect in every image of a source and write its result.

    Returns:
        The number of images, and the detections as COCO results. `category_id` is COCO's for
        COCO's 80 classes, else the class id; `category_name` is the class's name; `image_id` is
        the number in the file's name if it has one, else the image's place (from 1) in the
        folder, the video or the bag.
    """
    spec = detector.spec
    categories = dict(enumerate(range(spec.num_classes)))
    if spec.class_names == COCO_CLASSES:
        categories = dict(enumerate(COCO_CATEGORY_IDS))
    names = {category: spec.class_name(class_id) for class_id, category in categories.items()}
    results: list[dict[str, Any]] = []
    images = 0
    for frame, origin in track(
        source, total=len(source) or None, description="Detecting", show=show_progress
    ):
        found = detector.detect([frame], [options])[0]
        source.write(frame, found)
        images += 1
        for result in coco_results(origin["image_id"], found, categories):
            results.append(result | origin | {"category_name": names[result["category_id"]]})
    return images, results


def open_source(args: argparse.Namespace, class_names: tuple[str, ...]) -> ImageSource:
    """Make the source that the arguments name."""
    path: Path = args.source
    output: Path | None = args.output
    if _is_bag(path):
        if args.open_bag is None:
            raise ConfigurationError(
                f"bag '{path}' without a reader",
                expected="yolox_trt.ros.tools.bag.open_bag as `open_bag`",
                fix="use the command `yolox_trt detect`",
            )
        output = None if args.no_images else output or path.with_name(f"{path.stem}_detections")
        return BagSource(args.open_bag, path, args.topic, output, class_names)
    folder = None if args.no_images else output or Path("detections")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoSource(path, folder, class_names)
    return FileSource(path, folder, class_names)


class FileSource:
    """An image file, or the images of a folder in the order of their names.

    Args:
        path: the file or folder.
        output: folder of the annotated images; None writes none.
        class_names: names of the classes.

    Raises:
        ConfigurationError: no image in the folder, or an output that would overwrite the source.
    """

    def __init__(self, path: Path, output: Path | None, class_names: tuple[str, ...]) -> None:
        self.refused = 0
        self.output = output
        self._class_names = class_names
        self._single = path.is_file()
        self._files = [path] if self._single else _images_in(path)
        self._name = ""
        if output is not None:
            if output.resolve() == self._files[0].parent.resolve():
                raise ConfigurationError(
                    f"output '{output}', the folder of the source",
                    expected="another one: annotated images would overwrite the originals",
                    fix="give --output FOLDER",
                )
            output.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        """Files."""
        return len(self._files)

    def __iter__(self) -> Iterator[tuple[Frame, dict[str, Any]]]:
        """Read one file after the other."""
        numbers = [int(f.stem) if f.stem.isdecimal() else None for f in self._files]
        # Numbers from names only if every file has its own: ids must not meet.
        named = None not in numbers and len(set(numbers)) == len(numbers)
        for place, (file, number) in enumerate(zip(self._files, numbers, strict=True), start=1):
            try:
                pixels = read_image(str(file))
            except FrameError as error:
                if self._single:
                    raise
                self.refused += 1
                _LOGGER.warning("%s", error)
                continue
            self._name = file.name
            origin = {"image_id": number if named else place, "file_name": file.name}
            yield Frame.from_array(pixels), origin

    def write(self, frame: Frame, detections: Detections) -> None:
        """Write the annotated image under the file's own name."""
        if self.output is None:
            return
        picture = draw_detections(np.array(frame.rows), detections, self._class_names)
        target = self.output / self._name
        if not cv2.imwrite(str(target), picture):
            raise ConfigurationError(
                f"'{target}' that cannot be written",
                expected="a writable folder",
                fix="give another --output",
            )

    def close(self) -> None:
        """Nothing to finish."""


class VideoSource:
    """A video file; the result is an MP4 of the same name, size and rate.

    Args:
        path: the file.
        output: folder of the annotated video; None writes none.
        class_names: names of the classes.

    Raises:
        ConfigurationError: a file that OpenCV cannot decode.
    """

    def __init__(self, path: Path, output: Path | None, class_names: tuple[str, ...]) -> None:
        self.refused = 0
        self._class_names = class_names
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise ConfigurationError(
                f"video '{path}' that cannot be opened",
                expected="a file that OpenCV's FFmpeg decodes",
                fix="convert it, as with `ffmpeg -i IN -c:v libx264 OUT.mp4`",
            )
        self._name = path.name
        self._rate = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.output = None if output is None else output / f"{path.stem}.mp4"
        if output is not None and self.output is not None:
            if self.output.resolve() == path.resolve():
                raise ConfigurationError(
                    f"output '{self.output}', the source itself",
                    expected="another folder",
                    fix="give --output FOLDER",
                )
            output.mkdir(parents=True, exist_ok=True)
        self._writer: Any = None

    def __len__(self) -> int:
        """Frames, as the file's header says (0 where it does not)."""
        return max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[tuple[Frame, dict[str, Any]]]:
        """Decode one frame after the other."""
        place = 0
        while True:
            ok, pixels = self._capture.read()
            if not ok:
                return
            place += 1
            yield Frame.from_array(pixels), {"image_id": place, "file_name": self._name}

    def write(self, frame: Frame, detections: Detections) -> None:
        """Append the annotated frame."""
        if self.output is None:
            return
        if self._writer is None:
            size = (frame.width, frame.height)
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.output), code, self._rate, size)
            if not self._writer.isOpened():
                raise ConfigurationError(
                    f"video '{self.output}' that cannot be written",
                    expected="a writable folder, and OpenCV with FFmpeg",
                    fix="give another --output, or --no-images --json FILE",
                )
        picture: Pixels = draw_detections(np.array(frame.rows), detections, self._class_names)
        self._writer.write(picture)

    def close(self) -> None:
        """Finish the video."""
        self._capture.release()
        if self._writer is not None:
            self._writer.release()


class BagSource:
    """A rosbag2 bag; the result is a new mcap bag with the detections beside the images.

    Args:
        open_bag: opens a bag's images: (path, topics) -> ros.tools.bag.ImageBag. The room of
            ROS is above this one, so the command line hands it in.
        path: the bag.
        topics: image topics; empty for all.
        output: the new bag; None writes none.
        class_names: names of the classes.
    """

    def __init__(
        self,
        open_bag: Callable[..., Any],
        path: Path,
        topics: list[str],
        output: Path | None,
        class_names: tuple[str, ...],
    ) -> None:
        self._bag = open_bag(path, topics)
        self.output = output
        self._writer: Any = None
        if output is not None:
            try:
                self._writer = self._bag.detection_writer(output, class_names)
            except BaseException:
                self._bag.close()
                raise

    @property
    def refused(self) -> int:
        """Images that could not be read so far."""
        return int(self._bag.refused)

    def __len__(self) -> int:
        """Images on the topics."""
        return len(self._bag)

    def __iter__(self) -> Iterator[tuple[Frame, dict[str, Any]]]:
        """Give the images in the order of their recording."""
        for place, frame in enumerate(self._bag, start=1):
            yield (
                frame,
                {"image_id": place, "topic": frame.stream_id, "stamp_ns": frame.stamp_ns},
            )

    def write(self, frame: Frame, detections: Detections) -> None:
        """Write the Detection2DArray of an image."""
        if self._writer is not None:
            self._writer.write(frame, detections)

    def close(self) -> None:
        """Finish the new bag."""
        if self._writer is not None:
            self._writer.close()
        self._bag.close()


def _is_bag(path: Path) -> bool:
    return (path / "metadata.yaml").is_file() or path.suffix in (".mcap", ".db3")


def _check_source(path: Path) -> None:
    known = path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    if path.is_dir() or (path.is_file() and (known or _is_bag(path))):
        return
    raise ConfigurationError(
        f"source '{path}'" + ("" if path.exists() else ", which does not exist"),
        expected="an image, a folder of images, a video or a rosbag2 bag",
        fix=f"images end in {', '.join(IMAGE_SUFFIXES)}; videos in {', '.join(VIDEO_SUFFIXES)}; "
        "bags are folders with metadata.yaml, or .mcap and .db3 files",
    )


def _images_in(folder: Path) -> list[Path]:
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ConfigurationError(
            f"folder '{folder}' without images",
            expected=f"files that end in {', '.join(IMAGE_SUFFIXES)}",
            fix="name another folder",
        )
    return files
