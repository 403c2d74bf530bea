# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""From whatever holds images to ImageSources: paths, addresses, cameras, bags, arrays."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolox_trt.core.errors import ConfigurationError, FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.images import (
    BAG_SUFFIXES,
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    ImageFiles,
    ImageSource,
    is_bag,
    open_images,
)
from yolox_trt.core.option import parse_path

_ENCODINGS = {1: ("mono8",) * 2, 3: ("bgr8", "rgb8"), 4: ("bgra8", "rgba8")}


class Arrays(ImageSource):
    """Images that are in memory already.

    Args:
        frame: the first of them.
    """

    def __init__(self, frame: Frame) -> None:
        self._frames = [frame]

    def extend(self, others: Arrays) -> None:
        """Append other images."""
        self._frames += others._frames

    def __len__(self) -> int:
        """Images."""
        return len(self._frames)

    def __iter__(self) -> Iterator[Frame]:
        """Give the frames, which are views on the arrays."""
        return iter(self._frames)

    def origin(self, frame: Frame) -> dict[str, Any]:
        """Tell nothing: they have neither name nor number."""
        return {}


def open_sources(
    source: Any,
    *,
    rgb: bool = False,
    topics: Sequence[str] = (),
    recursive: bool = False,
    without: Path | None = None,
) -> list[ImageSource]:
    """Open everything that a source, or a list of them, holds.

    Args:
        source: a path, a pattern (`*.jpg`, `**/*.png`), an address, a camera's number, an array, a
            PIL image, an ImageSource, or a list of them.
        rgb: whether an array's channels are red, green, blue.
        topics: image topics of bags; empty for all.
        recursive: whether a folder's own folders belong to it.
        without: one of these that does not.

    Raises:
        ConfigurationError: nothing there, or nothing that can be opened.
        FrameError: an array of another shape or type.
    """
    opened: list[ImageSource] = []
    try:
        for each in source if isinstance(source, list | tuple) else [source]:
            shown = f"source {each!r:.200}" if isinstance(each, str | Path) else "a source"
            with ConfigurationError.instead_of(
                (OSError, ValueError),  # a name that is too long, an address that is none
                f"{shown} that cannot be opened",
                expected="a path or an address",
            ):
                for one in _open(each, rgb, topics, recursive, without):
                    last = opened[-1] if opened else None
                    # Files of one list are read ahead, and numbered, together.
                    if isinstance(one, ImageFiles) and isinstance(last, ImageFiles):
                        opened[-1] = ImageFiles([*last.paths, *one.paths])
                    elif isinstance(one, Arrays) and isinstance(last, Arrays):
                        last.extend(one)
                    else:
                        opened.append(one)
    except BaseException:
        for one in opened:
            one.close()
        raise
    if not opened:
        raise ConfigurationError("an empty list of sources", expected="at least one image")
    return opened


def is_one_image(source: Any, opened: Sequence[ImageSource]) -> bool:
    """Tell whether a source is one image by its kind, and not a list that happens to be short."""
    if isinstance(source, list | tuple) or len(opened) != 1:
        return False
    (only,) = opened
    return isinstance(only, Arrays) or (isinstance(only, ImageFiles) and only.strict)


def frame_of(image: Any, *, rgb: bool = False) -> Frame:
    """View an array or a PIL image as a Frame; only a PIL image and a mirrored array are copied.

    Args:
        image: uint8 (H, W), (H, W, 3) or (H, W, 4): NumPy, CuPy, a torch tensor, or a PIL image.
        rgb: whether an array's channels are red, green, blue.

    Raises:
        FrameError: another shape or type.
    """
    if hasattr(image, "convert") and hasattr(image, "mode"):  # a PIL image
        image, rgb = np.asarray(image.convert("RGB")), True
    array: Any = image if hasattr(image, "__cuda_array_interface__") else np.asarray(image)
    shape = tuple(array.shape)
    channels = 1 if len(shape) == 2 else shape[-1] if len(shape) == 3 else 0
    dtype = str(array.dtype).removeprefix("torch.")
    if dtype != "uint8" or channels not in _ENCODINGS or 0 in shape:
        raise FrameError(
            f"{type(image).__name__} of shape {shape}, {dtype}",
            expected="shape (H, W, 3), (H, W, 4) or (H, W), uint8",
            fix=_mend(shape, dtype),
        )
    encoding = _ENCODINGS[channels][rgb]
    if array is image and not isinstance(image, np.ndarray):
        return Frame.on_device(array, encoding)
    packed = array.strides[-1] == 1 and array.strides[0] > 0
    if not (packed and (array.ndim == 2 or array.strides[1] == channels)):
        array = np.ascontiguousarray(array)
    return Frame.from_array(array, encoding)


def _mend(shape: tuple[int, ...], dtype: str) -> str:
    if dtype.startswith("float"):
        return (
            "give 8-bit values, such as (image * 255).astype(numpy.uint8) of an image from 0 to 1"
        )
    if len(shape) == 4:
        return "give the images of a batch as a list, list(images)"
    if len(shape) == 3 and shape[0] in (3, 4):
        return "put the channels last, as with image.transpose(1, 2, 0)"
    return "convert the image"


def _open(
    source: Any, rgb: bool, topics: Sequence[str], recursive: bool, without: Path | None
) -> Iterator[ImageSource]:
    """Yield what one source holds."""
    if isinstance(source, ImageSource):
        yield source
        return
    if not isinstance(source, str | Path | int):
        yield Arrays(frame_of(source, rgb=rgb))
        return
    text = str(source)
    text = str(parse_path(text)) if text.startswith("~") else text
    if is_bag(text):
        from yolox_trt.ros.tools.bag import ImageBag

        yield ImageBag(text, topics)
    elif glob.has_magic(text) and "://" not in text and not Path(text).exists():
        suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, *BAG_SUFFIXES)
        matches = sorted(m for m in glob.glob(text, recursive=True) if m.lower().endswith(suffixes))
        if not matches:
            raise ConfigurationError(
                f"pattern '{text}', which matches nothing",
                expected=f"files that end in {', '.join(suffixes)}",
                fix="check the path",
            )
        files = [match for match in matches if match.lower().endswith(IMAGE_SUFFIXES)]
        if files:
            yield ImageFiles(files)
        for match in matches:
            if match not in files:
                yield from _open(match, rgb, topics, recursive, without)
    else:
        yield open_images(text, recursive=recursive, without=without)
