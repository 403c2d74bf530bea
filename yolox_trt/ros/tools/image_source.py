# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of a folder, a video file or a camera device, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ConfigurationError

#: Suffixes of image files, lower case.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

#: Rate of a folder, which has none of its own, in Hz.
FOLDER_RATE = 10.0


class ImageSource:
    """Pictures from wherever `yolox_trt publish` is pointed at.

    Args:
        path: an image, a folder of images (sorted by name), a video, or a device such as
            /dev/video0 (or its number).

    Attributes:
        live: whether it is a camera, which sets its own pace.
        rate: pictures a second that it was recorded with, or FOLDER_RATE.
        count: its pictures, None where that is not known.
        skipped: image files that OpenCV could not decode.

    Raises:
        ConfigurationError: nothing there, or nothing that OpenCV opens.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.skipped = 0
        self.live = path.startswith("/dev/video") or path.isdecimal()
        self.rate = FOLDER_RATE
        self.count: int | None = None
        self._files: list[Path] = []
        if self.live:
            self._open().release()
        elif Path(path).is_dir():
            self._files = sorted(
                file for file in Path(path).iterdir() if file.suffix.lower() in IMAGE_SUFFIXES
            )
            self.count = len(self._files)
        elif Path(path).suffix.lower() in IMAGE_SUFFIXES and Path(path).is_file():
            self._files = [Path(path)]
            self.count = 1
        else:
            video = self._open()
            rate = video.get(cv2.CAP_PROP_FPS)
            self.rate = rate if 0.0 < rate < 1000.0 else 30.0
            count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
            self.count = count if count > 0 else None
            video.release()
        if self.count == 0:
            raise ConfigurationError(
                f"no image in folder '{path}'",
                expected=f"files with {', '.join(IMAGE_SUFFIXES)}",
                fix="name another folder, a video or a device",
            )

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Give the pictures as bgr8, uint8 (H, W, 3); may be done again."""
        if self._files:
            yield from self._read_files()
            return
        video = self._open()
        try:
            while True:
                read, image = video.read()
                if not read:
                    return
                yield image
        finally:
            video.release()

    def _read_files(self) -> Iterator[npt.NDArray[np.uint8]]:
        for file in self._files:
            image = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if image is None:
                self.skipped += 1
                continue
            yield np.asarray(image, np.uint8)

    def _open(self) -> Any:
        device = self.path.removeprefix("/dev/video")
        video = cv2.VideoCapture(int(device) if self.live and device.isdecimal() else self.path)
        if not video.isOpened():
            raise ConfigurationError(
                f"'{self.path}', which cannot be opened",
                expected="an image, a folder of images, a video, or a device such as /dev/video0",
                fix="check the path, and the permissions of a device (group video)",
            )
        return video
