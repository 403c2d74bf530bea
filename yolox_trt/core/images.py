# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ImageSource: images out of files, a video or a camera device, one Frame after the other."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ConfigurationError, FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.optional import require

_LOGGER = logging.getLogger(__name__)

#: Suffixes of image files, lower case.
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
BAG_SUFFIXES = (".mcap", ".db3")

#: Rate of image files, which have none of their own, in Hz.
FILE_RATE = 10.0


class ImageSource:
    """The images of one source, in order; they may be iterated over again.

    Attributes:
        refused: images that could not be read so far; they are logged and left out.
        rate: images a second that they were recorded with.
        live: whether it is a camera, which sets its own pace.
    """

    refused: int = 0
    rate: float = FILE_RATE
    live: bool = False

    def __len__(self) -> int:
        """Images of one iteration, 0 where that is not known."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Frame]:
        """Read one image after the other."""
        raise NotImplementedError

    def origin(self, frame: Frame) -> dict[str, Any]:
        """Tell where a frame comes from, in plain values; `image_id` if it has a number."""
        return {"file_name": Path(frame.stream_id).name}

    def close(self) -> None:
        """Close what is open."""


class ImageFiles(ImageSource):
    """Image files, read in another thread while earlier ones are worked on.

    Args:
        paths: the files. A frame's stream_id is its file's path.
        strict: whether a file that cannot be read raises FrameError.
        ahead: files that are read in advance.
    """

    def __init__(self, paths: Sequence[str | Path], *, strict: bool = False, ahead: int = 2):
        self.paths = [Path(path) for path in paths]
        self._strict = strict
        self._ahead = ahead
        numbers = [int(path.stem) for path in self.paths if path.stem.isdecimal()]
        # Numbers from names only if every file has its own: ids must not meet.
        if len(set(numbers)) < len(self.paths):
            numbers = list(range(1, len(self.paths) + 1))
        self._ids = dict(zip(map(str, self.paths), numbers, strict=True))

    def __len__(self) -> int:
        """Files."""
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        """Read one file after the other."""
        with ThreadPoolExecutor(1, thread_name_prefix="read-images") as pool:
            pending = [pool.submit(read_image, path) for path in self.paths[: self._ahead]]
            for index, path in enumerate(self.paths):
                last = index + self._ahead
                pending += [pool.submit(read_image, p) for p in self.paths[last : last + 1]]
                try:
                    pixels = pending.pop(0).result()
                except FrameError as error:
                    if self._strict:
                        raise
                    self.refused += 1
                    _LOGGER.warning("%s", error)
                    continue
                yield Frame.from_array(pixels, stream_id=str(path))

    def origin(self, frame: Frame) -> dict[str, Any]:
        """Name the file; its number is that in its name, or its place from 1 on."""
        return {"image_id": self._ids[frame.stream_id], **super().origin(frame)}


class Video(ImageSource):
    """A video file, or a camera device such as /dev/video0 (or its number).

    Args:
        path: the file or device.

    Raises:
        ConfigurationError: OpenCV cannot open it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.live = self.path.startswith("/dev/video") or self.path.isdecimal()
        self._length = 0
        cv2 = require("cv2", purpose="reading videos")
        with self._opened() as video:
            if not self.live:
                rate = video.get(cv2.CAP_PROP_FPS)
                self.rate = rate if 0.0 < rate < 1000.0 else 30.0
                self._length = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __len__(self) -> int:
        """Images, as the file's header says; 0 where it does not."""
        return self._length

    def __iter__(self) -> Iterator[Frame]:
        """Decode one image after the other."""
        with self._opened() as video:
            while True:
                read, pixels = video.read()
                if not read:
                    return
                yield Frame.from_array(pixels, stream_id=self.path)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        device = self.path.removeprefix("/dev/video")
        target = int(device) if self.live and device.isdecimal() else self.path
        video = require("cv2", purpose="reading videos").VideoCapture(target)
        try:
            if not video.isOpened():
                state = "cannot be opened" if Path(self.path).exists() else "does not exist"
                raise ConfigurationError(
                    f"source '{self.path}', which {state}",
                    expected="an image, a folder of images, a video that OpenCV's FFmpeg decodes, "
                    "or a device such as /dev/video0",
                    fix="check the path, and the permissions of a device (group video); convert a "
                    "video, as with `ffmpeg -i IN -c:v libx264 OUT.mp4`",
                )
            yield video
        finally:
            video.release()


def open_images(path: str | Path) -> ImageFiles | Video:
    """Open an image, a folder of images (sorted by name), a video or a camera device.

    Raises:
        ConfigurationError: nothing there, no image in the folder, or nothing that OpenCV opens.
    """
    file = Path(path)
    if file.is_dir():
        return ImageFiles(images_in(file))
    if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
        return ImageFiles([file], strict=True)
    return Video(path)


def images_in(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the image files of a folder, sorted.

    Args:
        folder: the folder.
        pattern: of the paths in it; "**/*" for those of its folders, too.

    Raises:
        ConfigurationError: there is none.
    """
    files = sorted(f for f in folder.glob(pattern) if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ConfigurationError(
            f"folder '{folder}' without images",
            expected=f"files that end in {', '.join(IMAGE_SUFFIXES)}",
            fix="name another folder",
        )
    return files


def read_image(path: str | Path) -> npt.NDArray[np.uint8]:
    """Read an image file as uint8 (H, W, 3), blue green red.

    Raises:
        FrameError: OpenCV cannot read it.
    """
    cv2 = require("cv2", purpose="reading images")
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise FrameError(
            f"image '{path}' that cannot be read",
            expected="a JPEG, PNG, BMP, TIFF or WebP file",
            fix="take it out of the folder, or write it anew",
        )
    return np.asarray(pixels, np.uint8)


def is_bag(path: str | Path) -> bool:
    """Tell whether a path is a rosbag2 bag: a folder with metadata.yaml, an .mcap or .db3 file."""
    return Path(path).suffix in BAG_SUFFIXES or (Path(path) / "metadata.yaml").is_file()
