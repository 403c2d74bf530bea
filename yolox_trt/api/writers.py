# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Writers: what `yolox_trt detect` makes of each Result."""

from __future__ import annotations

import contextlib
import csv
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from yolox_trt.api.result import Result, write_image
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.files import whole_or_none, write_atomically
from yolox_trt.core.images import IMAGE_SUFFIXES, ImageFiles, ImageSource, Video, opencv_name
from yolox_trt.core.optional import require
from yolox_trt.core.output_paths import file_key, prepare_outputs

#: Bytes of a file's name that Linux's file systems take.
_NAME_BYTES = 255


class Writer(contextlib.ExitStack, ABC):
    """Takes one Result after the other.

    When its context ends in order what it has written is finished; after an error, a video,
    a bag or a table is removed.

    Attributes:
        paths: what it has written, or begun to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[Path] = []

    @abstractmethod
    def write(self, result: Result) -> None:
        """Write what was found in an image."""


class FileNames:
    """Gives results file names of their own: the image's, or where it is in a video.

    Files of one name in several folders keep their folders below the one that they share. No name
    is that of a source, or too long.

    Args:
        sources: all images that are read.
    """

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self._names: dict[ImageSource, dict[str, Path]] = {
            source: _names_of(source) for source in sources if isinstance(source, ImageFiles)
        }
        files = [path for names in self._names.values() for path in names]
        files += [source.path for source in sources if isinstance(source, Video)]
        self._originals = {file_key(Path(path)) for path in files if "://" not in path}
        self._taken: set[Path] = set()

    def of_image(self, result: Result) -> Path:
        """Return a relative path; it ends as an image file does."""
        if isinstance(result.source, ImageFiles):
            return self._names[result.source][result.path]
        return Path(_cut(stem_of(result.path), f"_{result.number:06d}.jpg"))

    def check(self, folder: Path, sources: Sequence[ImageSource], suffix: str = "") -> None:
        """Refuse a folder in which results would have the names of sources.

        Args:
            folder: the folder.
            sources: whose images get a result in it, or whose video one.
            suffix: of the results of images, "" for their own.

        Raises:
            ConfigurationError: a result would overwrite a source.
        """
        for source in sources:
            names = list(self._names.get(source, {}).values())
            names = [name.with_suffix(suffix) for name in names] if suffix else names
            if isinstance(source, Video) and not suffix:
                names = [Path(f"{stem_of(source.path)}.mp4")]
            for name in names:
                if file_key(folder / name) in self._originals:
                    raise ConfigurationError(
                        f"'{folder / name}' as a source and as a result",
                        expected="another folder: the results would overwrite the originals",
                        fix="name another folder for the results",
                    )

    def free(self, path: Path) -> Path:
        """Return a path that nothing was given yet; another image's gets a number."""
        folder = Path(*(_cut(part) for part in path.parent.parts))
        path, number = folder / _cut(path.stem, path.suffix), 1
        stem, suffix = path.stem, path.suffix
        while path in self._taken or file_key(path) in self._originals:
            number += 1
            path = folder / _cut(stem, f"_{number}{suffix}")
        self._taken.add(path)
        return path


def _cut(stem: str, ending: str = "") -> str:
    """Return a name, of which the stem loses its end where file systems take no longer name."""
    room = _NAME_BYTES - len(ending.encode(errors="surrogateescape"))
    encoded = stem.encode(errors="surrogateescape")
    return (stem if len(encoded) <= room else encoded[:room].decode(errors="ignore")) + ending


def stem_of(source: str) -> str:
    """Return a file name without suffix for a video, a camera, a topic or an address."""
    parts = urlsplit(source)
    text = (parts.hostname or "") + parts.path if "://" in source else Path(source).stem
    return f"camera{text}" if text.isdecimal() else text.strip("/").replace("/", "_")


def _names_of(source: ImageFiles) -> dict[str, Path]:
    web = [path for path in source.paths if "://" in path]
    local = {path: Path(os.path.abspath(path)) for path in source.paths if path not in web}
    names = {path: Path(file.name) for path, file in local.items()}
    names |= {path: Path(Path(urlsplit(path).path).name or "image") for path in web}
    if len(set(names.values())) < len(names):
        shared = os.path.commonpath([file.parent for file in local.values()] or [Path("/")])
        names = {path: file.relative_to(shared) for path, file in local.items()}
        for path in web:
            parts = urlsplit(path)
            names[path] = Path(parts.hostname or "", os.path.normpath(parts.path).lstrip("/"))
    return {
        path: name if name.suffix.lower() in IMAGE_SUFFIXES else Path(f"{name}.jpg")
        for path, name in names.items()
    }


class AnnotatedWriter(Writer):
    """Writes images with boxes drawn in: a video or camera as MP4, files under their names.

    Args:
        folder: folder of the results, made if need be.
        sources: whose images are written.
        names: gives the names.

    Raises:
        ConfigurationError: the results would overwrite a source.
    """

    def __init__(self, folder: Path, sources: Sequence[ImageSource], names: FileNames) -> None:
        super().__init__()
        self._folder = folder
        self._sources = set(sources)
        self._names = names
        self._videos: dict[ImageSource, Any] = {}
        names.check(folder, sources)

    def write(self, result: Result) -> None:
        """Draw the detections of an image, and write it."""
        if result.source not in self._sources:
            return
        if not isinstance(result.source, Video):
            name = self._names.of_image(result)
            write_image(self._names.free(self._folder / name), result.plot())
            self.paths = self.paths or [self._folder]
            return
        if result.source not in self._videos:
            path = self._names.free(self._folder / f"{stem_of(result.path)}.mp4")
            prepare_outputs(path)
            size = result.shape[::-1]
            code = cv2.VideoWriter.fourcc(*"mp4v")
            part = self.enter_context(whole_or_none(path))
            video = cv2.VideoWriter(opencv_name(part), code, result.source.rate, size)
            self.callback(video.release)
            if not video.isOpened():
                raise ConfigurationError(
                    f"'{path}' that cannot be written",
                    expected="a folder with write permission, and an OpenCV that writes MP4",
                    fix="name another folder for the results, or write no images",
                )
            self._videos[result.source] = video
            self.paths.append(path)
        self._videos[result.source].write(result.plot())


class BagWriter(Writer):
    """Writes bags: every message of those that are read, and the detections beside the images.

    Args:
        target: gives the new bag's path for that of a source.
        class_names: names of the classes.
        sources: what comes; those that are bags are written.
    """

    def __init__(
        self,
        target: Callable[[Path], Path],
        class_names: Sequence[str],
        sources: Sequence[ImageSource],
    ) -> None:
        from yolox_trt.ros.tools.bag import ImageBag

        super().__init__()
        self._bags = {
            source: self.enter_context(source.detection_writer(target(source.path), class_names))
            for source in sources
            if isinstance(source, ImageBag)
        }
        self.paths = [bag.path for bag in self._bags.values()]

    def write(self, result: Result) -> None:
        """Write the detections of an image of a bag."""
        if result.source in self._bags and result.frame is not None:
            self._bags[result.source].write(result.frame, result.detections)


class CropWriter(Writer):
    """Writes each detection's part of the image: FOLDER/CLASS/IMAGE_NUMBER.jpg."""

    def __init__(self, folder: Path, names: FileNames) -> None:
        super().__init__()
        self.paths = [folder]
        self._names = names

    def write(self, result: Result) -> None:
        """Write the crops of an image."""
        name = self._names.of_image(result)
        for index, (box, crop) in enumerate(zip(result, result.crop(), strict=True), start=1):
            folder = re.sub(r"[^\w .-]", "_", box.name).strip(". ") or "_"
            file = name.with_name(_cut(name.stem, f"_{index}.jpg"))
            write_image(self._names.free(self.paths[0] / folder / file), crop)


class LabelWriter(Writer):
    """Writes YOLO's labels, FOLDER/IMAGE.txt: class, centre x y, width and height from 0 to 1."""

    def __init__(self, folder: Path, names: FileNames) -> None:
        super().__init__()
        self.paths = [folder]
        self._names = names

    def write(self, result: Result) -> None:
        """Write the labels of an image; an image without detections gets an empty file."""
        path = self._names.free((self.paths[0] / self._names.of_image(result)).with_suffix(".txt"))
        prepare_outputs(path)
        height, width = result.shape
        lines = []
        for box in result:
            x1, y1, x2, y2 = box.xyxy
            values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height]
            values += [(x2 - x1) / width, (y2 - y1) / height]
            lines.append(" ".join([str(box.class_id), *(f"{value:.6f}" for value in values)]))
        write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


class MaskWriter(Writer):
    """Writes the class of each pixel: FOLDER/IMAGE.png, 8 bits, 255 where nothing is known.

    Raises:
        ConfigurationError: the masks would overwrite a source.
    """

    def __init__(self, folder: Path, sources: Sequence[ImageSource], names: FileNames) -> None:
        super().__init__()
        self.paths = [folder]
        self._names = names
        names.check(folder, sources, ".png")

    def write(self, result: Result) -> None:
        """Write the mask of an image."""
        name = (self.paths[0] / self._names.of_image(result)).with_suffix(".png")
        if (mask := result.mask) is not None:
            write_image(self._names.free(name), mask)


class CsvWriter(Writer):
    """Writes a table with a row a detection."""

    COLUMNS = ("image", "number", "class", "score", "x1", "y1", "x2", "y2", "id")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.paths = [path]
        prepare_outputs(path)
        part = self.enter_context(whole_or_none(path))
        file = self.enter_context(part.open("w", newline="", encoding="utf-8"))
        self._rows = csv.writer(file)
        self._rows.writerow(self.COLUMNS)

    def write(self, result: Result) -> None:
        """Write the rows of an image."""
        for box in result:
            numbers = [f"{box.score:.4f}", *(f"{edge:.2f}" for edge in box.xyxy)]
            id_ = "" if box.id is None else box.id
            self._rows.writerow([result.path, result.number, box.name, *numbers, id_])


class RerunWriter(Writer):
    """Writes a recording for the viewer Rerun: images, boxes, masks, by source.

    Raises:
        MissingDependencyError: rerun-sdk is missing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._rerun: Any = require("rerun", purpose="--rerun")
        self.paths = [path]
        prepare_outputs(path)
        self._recording = self._rerun.RecordingStream("yolox_trt")
        self._recording.save(self.enter_context(whole_or_none(path)))
        self.callback(self._recording.disconnect)

    def write(self, result: Result) -> None:
        """Write an image and what is in it."""
        rerun, recording = self._rerun, self._recording
        files = isinstance(result.source, ImageFiles)
        place = "images" if files else stem_of(result.path) or "camera"
        recording.set_time("image", sequence=result.number)
        if stamp := result.origin.get("stamp_ns"):
            recording.set_time("stamp", timestamp=np.datetime64(stamp, "ns"))
        recording.log(place, rerun.Image(result.image, color_model="BGR").compress())
        texts = [
            box.name + f" {box.score:.2f}" + ("" if box.id is None else f" #{box.id}")
            for box in result
        ]
        recording.log(
            f"{place}/detections",
            rerun.Boxes2D(
                array=result.boxes,
                array_format=rerun.Box2DFormat.XYXY,
                labels=texts,
                class_ids=result.class_ids,
            ),
        )
        if (mask := result.mask) is not None:
            recording.log(f"{place}/mask", rerun.SegmentationImage(mask, opacity=0.5))


class Window(Writer):
    """Shows each image with boxes drawn in; q or Esc ends the command as Ctrl-C does.

    Raises:
        ConfigurationError: no display, or an OpenCV without windows.
    """

    _TITLE = "yolox_trt"

    def __init__(self) -> None:
        super().__init__()
        with ConfigurationError.instead_of(
            cv2.error,
            "an OpenCV without windows",
            expected="one that opens windows",
            fix="pip uninstall opencv-python-headless && pip install opencv-python",
        ):
            if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
                raise ConfigurationError(
                    "no display (DISPLAY and WAYLAND_DISPLAY are not set)",
                    expected="a desktop for the window",
                    fix="leave the window out, and look at the images that are written",
                )
            cv2.namedWindow(self._TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            self.callback(cv2.destroyWindow, self._TITLE)

    def write(self, result: Result) -> None:
        """Show an image.

        Raises:
            KeyboardInterrupt: the user has pressed q or Esc.
        """
        cv2.imshow(self._TITLE, result.plot())
        if cv2.waitKey(1) & 0xFF in (ord("q"), 27):
            raise KeyboardInterrupt
