# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ImageSource: images out of files, a video or a camera, one Frame after the other."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ConfigurationError, FrameError, FrameMemoryError, parts_of
from yolox_trt.core.files import open_plain, read_upto
from yolox_trt.core.frame import Frame
from yolox_trt.core.image_header import FORMATS, image_size
from yolox_trt.core.limits import LIMITS, ImageLimits
from yolox_trt.core.optional import require
from yolox_trt.core.web import asked, no_answer, received

_LOGGER = logging.getLogger(__name__)

#: Suffixes of image files, lower case.
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")
BAG_SUFFIXES = (".mcap", ".db3")

#: Digits of the largest number of 64 bits, such as a time in nanoseconds.
_DIGITS = 19

#: Share by which a video's header may be wrong in how many images there are.
_ESTIMATE = 0.01

#: Rate of image files, which have none of their own, in Hz.
FILE_RATE = 10.0

#: Seconds in which a camera or a web server must answer.
ANSWER_S = LIMITS.answer_seconds
#: Seconds in which an image from the web must be there.
TRANSFER_S = LIMITS.transfer_seconds
_WEB = ("http", "https")
#: Schemes of network cameras, which FFmpeg reads.
_STREAMS = ("rtsp", "rtsps", "rtmp", "rtp", "srt", "tcp", "udp")


class ImageSource:
    """The images of one source, in order; they may be iterated over again.

    Attributes:
        refused: images that could not be read so far; they are logged and left out.
        skipped: images of a camera that newer ones have replaced so far.
        rate: images a second that they were recorded with.
        live: whether it is a camera, which sets its own pace.
    """

    refused: int = 0
    skipped: int = 0
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

    def camera_of(self, frame: Frame) -> str:
        """Name the camera that a frame is from, among several in one source."""
        return ""

    def close(self) -> None:
        """Close what is open."""


class ImageFiles(ImageSource):
    """Image files, read in other threads while earlier ones are worked on.

    Args:
        paths: the files, or their addresses in the web. A frame's stream_id is its file's path.
        strict: whether a file that cannot be read raises FrameError.
        ahead: files that are read in advance, or two for each thread.
        threads: how many read and decode.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        strict: bool = False,
        ahead: int = 2,
        threads: int = 1,
    ) -> None:
        self.paths = [str(path) for path in paths]
        self.strict = strict
        self._ahead, self._threads = max(ahead, 2 * threads), threads
        stems = [Path(path).stem for path in self.paths]
        numbers = [int(stem) for stem in stems if _is_number(stem)]
        # Numbers from names only if every file has its own: ids must not meet.
        if len(set(numbers)) < len(self.paths):
            numbers = list(range(1, len(self.paths) + 1))
        self._ids = dict(zip(self.paths, numbers, strict=True))

    def __len__(self) -> int:
        """Files."""
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        """Read one file after the other."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="read-images")
        try:
            pending = [pool.submit(read_image, path) for path in self.paths[: self._ahead]]
            for index, path in enumerate(self.paths):
                last = index + self._ahead
                pending += [pool.submit(read_image, p) for p in self.paths[last : last + 1]]
                try:
                    pixels = pending.pop(0).result()
                except (FrameError, ConfigurationError) as error:
                    if self.strict or isinstance(error, MemoryError):
                        raise
                    self.refused += 1
                    _LOGGER.warning("%s", error)
                    continue
                yield Frame.from_array(pixels, stream_id=path)
        finally:  # a slow server is not waited for where nobody wants its image any more
            pool.shutdown(wait=False, cancel_futures=True)

    def origin(self, frame: Frame) -> dict[str, Any]:
        """Name the file; its number is that in its name, or its place from 1 on."""
        return {"image_id": self._ids[frame.stream_id], **super().origin(frame)}


class Video(ImageSource):
    """A video, or a camera: its number, a device such as /dev/video0, or a network stream.

    A camera is read in a thread of its own, of which the newest image alone is kept, so that a slow
    reader falls behind in none.

    Args:
        path: the file, device or address.

    Raises:
        ConfigurationError: OpenCV cannot open it, or it does not answer within ANSWER_S.
        FrameError: its images are larger than ImageLimits.of_environment().
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        device = self.path.removeprefix("/dev/video")
        self._target: str | int = int(device) if _is_number(device) else self.path
        self.live = self._target != self.path or _scheme(self.path) in _STREAMS
        self._length = 0
        self._camera: _CameraThread | None = None
        cv2 = require("cv2", purpose="reading videos")
        if isinstance(self._target, int) and not Path(f"/dev/video{self._target}").exists():
            raise self._not_opened("does not exist")
        if not self.live:
            with self._opened() as video:
                rate = video.get(cv2.CAP_PROP_FPS)
                self.rate = rate if 0.0 < rate < 1000.0 else 30.0
                self._length = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
            # What a web server sends without an end is a camera's.
            self.live = _scheme(self.path) in _WEB and not self._length
        if self.live:
            self._camera = _CameraThread(self)

    def __len__(self) -> int:
        """Images, as the file's header says; 0 where it does not."""
        return self._length

    def __iter__(self) -> Iterator[Frame]:
        """Decode one image after the other; their stamps are the file's time, or a camera's now."""
        if self._camera is not None:
            yield from self._camera
            return
        number = 0
        with self._opened() as video:
            while (pixels := video.read()[1]) is not None:
                stamp = int(number / self.rate * 1e9)
                yield Frame.from_array(pixels, stream_id=self.path, stamp_ns=stamp)
                number += 1
        # Some containers tell their length in seconds alone, and the count is an estimate.
        if number + 2 < self._length * (1.0 - _ESTIMATE):
            self.refused += self._length - number
            _LOGGER.warning(
                "video '%s' ends after %d of %d images: it was cut off, or is damaged",
                *(self.path, number, self._length),
            )

    def close(self) -> None:
        """Let the camera go."""
        if self._camera is not None:
            self._camera.close()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        cv2 = require("cv2", purpose="reading videos")
        target = self._target
        try:
            arguments = [target if isinstance(target, int) else opencv_name(target)]
        except UnicodeEncodeError:
            raise self._not_opened("is no name of a file") from None
        if _scheme(self.path) in (*_STREAMS, *_WEB):
            limits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
            milliseconds = int(ANSWER_S * 1000)
            arguments += [
                cv2.CAP_FFMPEG,
                [part for limit in limits for part in (limit, milliseconds)],
            ]
        if not _scheme(self.path) and Path(self.path).is_fifo():  # it would wait for a writer
            raise self._not_opened("is a pipe")
        begin = time.monotonic()
        # What OpenCV would print of a failure is in the error.
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        try:
            video = cv2.VideoCapture(*arguments)
        except (cv2.error, TypeError):  # of a version that takes no bytes
            raise self._not_opened("cannot be opened") from None
        finally:
            cv2.utils.logging.setLogLevel(level)
        try:
            if not video.isOpened():
                there = self.live or bool(_scheme(self.path)) or Path(self.path).exists()
                if there and time.monotonic() - begin >= ANSWER_S:
                    raise no_answer(self.path, ANSWER_S)
                raise self._not_opened("cannot be opened" if there else "does not exist")
            sides = (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
            height, width = (int(video.get(side)) for side in sides)
            ImageLimits.of_environment().check(size=0, height=height, width=width)
            yield video
        finally:
            video.release()

    def _not_opened(self, state: str) -> ConfigurationError:
        if _scheme(self.path):
            return ConfigurationError(
                f"source '{self.path}', which {state}",
                expected="an address of a camera or a video that OpenCV's FFmpeg decodes",
                fix="check the address, its user and password, and that this machine "
                "reaches it: ffprobe tells more",
            )
        return ConfigurationError(
            f"source '{self.path}', which {state}",
            expected="an image, a folder of images, a video that OpenCV's FFmpeg decodes, "
            "or a camera: its number, /dev/video0, rtsp://...",
            fix="check the path, and the permissions of a device (group video); convert a "
            "video, as with `ffmpeg -i IN -c:v libx264 OUT.mp4`",
        )


class _CameraThread:
    """Reads a camera, and keeps its newest image for whoever iterates over it."""

    def __init__(self, source: Video) -> None:
        self._source = source
        self._newest: queue.Queue[Frame | Exception | None] = queue.Queue(1)
        self._closed = threading.Event()
        # No daemon: OpenCV aborts a process that ends while it is at work.
        threading.Thread(target=self._read, name=f"camera {source.path}").start()
        self._first: Frame | Exception | None = self._next()
        if isinstance(self._first, Exception):
            raise self._first

    def __iter__(self) -> Iterator[Frame]:
        frame, self._first = self._first, None
        frame = frame or self._next()
        while frame is not None:
            if isinstance(frame, Exception):
                raise frame
            yield frame
            frame = self._next()

    def close(self) -> None:
        self._closed.set()

    def _wanted(self) -> bool:
        return not self._closed.is_set() and threading.main_thread().is_alive()

    def _next(self) -> Frame | Exception | None:
        try:
            return self._newest.get(timeout=ANSWER_S)
        except queue.Empty:
            self.close()
            return no_answer(self._source.path, ANSWER_S)

    def _read(self) -> None:
        last: Exception | None = None
        try:
            with self._source._opened() as video:
                while self._wanted():
                    pixels = video.read()[1]
                    if pixels is None:
                        _LOGGER.warning("%s sends no more images", self._source.path)
                        break
                    now = time.time_ns()
                    self._put(Frame.from_array(pixels, stream_id=self._source.path, stamp_ns=now))
        except Exception as error:  # raised where the images are asked for
            last = error
        self._put(last)

    def _put(self, item: Frame | Exception | None) -> None:
        """Put an image in the place of one that nobody has fetched; an end waits for its turn."""
        if isinstance(item, Frame):
            with contextlib.suppress(queue.Empty):
                self._newest.get_nowait()
                self._source.skipped += 1
            self._newest.put_nowait(item)
            return
        while self._wanted():
            with contextlib.suppress(queue.Full):
                self._newest.put(item, timeout=0.1)
                return


def open_images(
    path: str | Path, *, recursive: bool = False, without: Path | None = None
) -> ImageFiles | Video:
    """Open an image, a folder of images (sorted by name), a video or a camera.

    Args:
        path: a path, an http(s) address of an image or a video, or a camera: its number,
            /dev/video0, rtsp://...
        recursive: whether a folder's own folders belong to it.
        without: one of these that does not.

    Raises:
        ConfigurationError: nothing there, no image in the folder, nothing that OpenCV opens, or no
            answer within ANSWER_S.
    """
    file = Path(path)
    if _scheme(path) in _WEB:
        return ImageFiles([path], strict=True) if _is_web_image(str(path)) else Video(path)
    if file.is_dir():
        return ImageFiles(images_in(file, "**/*" if recursive else "*", without))
    if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
        return ImageFiles([file], strict=True)
    return Video(path)


def opencv_name(path: str | Path) -> Any:
    """Return a file's name as OpenCV takes it: it ends the process where a text is no UTF-8.

    Raises:
        UnicodeEncodeError: no file can have that name.
    """
    name = os.fsencode(path)
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name


def _is_number(text: str) -> bool:
    """Tell whether a text is a whole number of 64 bits: names of files may have any digits."""
    return text.isdecimal() and len(text) <= _DIGITS and int(text) < 1 << 63


def _scheme(path: str | Path) -> str:
    """Return the scheme of an address, "" for a path."""
    scheme, separator, _ = str(path).partition("://")
    return scheme.lower() if separator else ""


def _is_web_image(url: str) -> bool:
    if Path(urllib.parse.urlsplit(url).path).suffix.lower() in IMAGE_SUFFIXES:
        return True
    with asked(url, ANSWER_S) as (response, _):
        return str(response.headers.get_content_type()).startswith("image/")


def images_in(folder: Path, pattern: str = "*", without: Path | None = None) -> list[Path]:
    """Return the image files of a folder, sorted.

    Args:
        folder: the folder.
        pattern: of the paths in it; "**/*" for those of its folders, too.
        without: a folder in it whose images are left out.

    Raises:
        ConfigurationError: there is none.
    """
    named = (f for f in folder.glob(pattern) if f.suffix.lower() in IMAGE_SUFFIXES)
    others = ""
    if without is not None and folder.resolve() in without.resolve().parents:
        left_out = folder / without.resolve().relative_to(folder.resolve())
        named = (f for f in named if left_out not in f.parents)
        others = f" but for '{left_out}', where the results go"
    files = sorted(f for f in named if not f.is_fifo())  # which an archive may hold
    if not files:
        raise ConfigurationError(
            f"folder '{folder}' without images{others}",
            expected=f"files that end in {', '.join(IMAGE_SUFFIXES)}",
            fix="name another folder",
        )
    return files


def read_image(path: str | Path, *, as_stored: bool = False) -> npt.NDArray[Any]:
    """Read an image file, also from the web or by fsspec, as uint8 (H, W, 3), blue green red.

    Args:
        path: the file.
        as_stored: whether channels and type stay those of the file, as in decode_image.

    Raises:
        FrameError: OpenCV cannot read it, or it is larger than ImageLimits.of_environment().
        ConfigurationError: a web server does not answer, or does not give it.
    """
    limits = ImageLimits.of_environment()
    data = _encoded(path, limits)
    with _naming(path):
        return decode_image(data, limits, as_stored=as_stored)


def read_image_size(path: str | Path) -> tuple[int, int]:
    """Read (height, width) in pixels from an image file's header; nothing is decoded.

    Args:
        path: as for read_image.

    Raises:
        FrameError: it cannot be read, is no image, or has more bytes than
            ImageLimits.of_environment() allows.
        ConfigurationError: as for read_image.
    """
    limits = ImageLimits.of_environment()
    data = _encoded(path, limits)
    with _naming(path):
        limits.check(size=len(data))
        return image_size(memoryview(data))


_MEND_IMAGE = "take it out of the folder, or write it anew"


def _encoded(path: str | Path, limits: ImageLimits) -> bytes:
    """Return the bytes of an image file, and one more than the limit at most.

    Raises:
        FrameError: it cannot be read.
        ConfigurationError: a web server does not answer, or does not give it.
    """
    found, most = f"image '{path}' that cannot be read", limits.max_bytes + 1
    if _scheme(path) in _WEB:
        return received(str(path), most, ANSWER_S, TRANSFER_S)
    if _scheme(path):  # fsspec's: s3://, gs://, ...
        fsspec = require("fsspec", purpose=f"reading {_scheme(path)}://")
        errors = (OSError, ValueError, ImportError)
        with (
            FrameError.instead_of(errors, found, fix=_MEND_IMAGE),
            fsspec.open(str(path), "rb") as file,
        ):
            return read_upto(file, most)
    with FrameError.instead_of(OSError, found, fix=_MEND_IMAGE), open_plain(path) as file:
        return read_upto(file, most)


@contextlib.contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Name the file in an error of its content."""
    try:
        yield
    except FrameError as error:
        reason, expected, fix = error.parts
        raise type(error)(
            (f"image '{path}' that cannot be read: ", *parts_of(reason)),
            expected=expected,
            fix=fix or _MEND_IMAGE,
        ) from error


def decode_image(
    data: Any,
    limits: ImageLimits | None = None,
    *,
    mono: bool = False,
    ignore_orientation: bool = False,
    as_stored: bool = False,
    reduction: int = 1,
) -> npt.NDArray[Any]:
    """Decode an image whose header says that it is within the limits. Nothing else decodes images.

    Args:
        data: bytes of one of image_header.FORMATS.
        limits: how large it may be; ImageLimits.of_environment() by default.
        mono: whether it comes out with one channel.
        ignore_orientation: whether the pixels stay as they are stored, whatever EXIF says.
        as_stored: whether channels and type stay those of the file, too.
        reduction: 2, 4 or 8 to decode a JPEG at 1/2, 1/4 or 1/8 of its size, rounded up, which
            takes less time; not with the other flags.

    Returns:
        uint8 (H, W, 3), blue green red; mono (H, W).

    Raises:
        FrameError: it is too large, or no image that OpenCV decodes.
        FrameMemoryError: there is no memory for it.
    """
    cv2 = require("cv2", purpose="decoding images")
    limits = limits or ImageLimits.of_environment()
    view = memoryview(data).cast("B")
    limits.check(size=view.nbytes)  # first: nothing is looked for in what is too long
    height, width = image_size(view)
    limits.check(size=view.nbytes, height=height, width=width)
    flags = cv2.IMREAD_GRAYSCALE if mono else cv2.IMREAD_COLOR
    if reduction != 1:
        flags = getattr(cv2, f"IMREAD_REDUCED_COLOR_{reduction}")
    flags |= cv2.IMREAD_IGNORE_ORIENTATION if ignore_orientation else 0
    flags = cv2.IMREAD_UNCHANGED if as_stored else flags
    try:
        pixels = cv2.imdecode(np.frombuffer(view, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise FrameMemoryError(
                f"no memory for an image of {height}x{width} pixels",
                expected="free memory",
                fix="run fewer processes on this machine, or send or store smaller images",
            ) from error
        pixels = None
    if pixels is None:
        raise FrameError(
            f"an image of {view.nbytes} bytes that cannot be decoded",
            expected=f"a whole {FORMATS} image",
        )
    return pixels if as_stored else np.asarray(pixels, np.uint8)


def is_bag(path: str | Path) -> bool:
    """Tell whether a path is a rosbag2 bag: a folder with metadata.yaml, an .mcap or .db3 file."""
    return Path(path).suffix in BAG_SUFFIXES or (Path(path) / "metadata.yaml").is_file()
