# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Frames of a part, one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from yolox_trt.batch.places import is_remote, local_copy, place_of
from yolox_trt.batch.plan import BAG, IMAGES, Part
from yolox_trt.core.frame import Frame
from yolox_trt.core.images import ImageFiles, ImageSource, Video
from yolox_trt.ros.tools.bag import ImageBag

#: A piece is what a decoder hands over to a detector at a time: so many images, or bytes, at most.
PIECE_IMAGES = 16
PIECE_BYTES = 32 << 20


@contextlib.contextmanager
def open_part(part: Part, readers: int = 1) -> Iterator[ImageSource]:
    """Yield the images of a part.

    Args:
        part: the part.
        readers: threads that read and decode image files; a bag or a video has one.

    Raises:
        ConfigurationError: the bag or video cannot be opened, or is gone.
    """
    with contextlib.ExitStack() as stack:
        source: ImageSource
        if part.kind == IMAGES:
            source = ImageFiles(part.files, threads=readers)
        else:
            place = place_of(part.source)
            # rosbags reads an mcap file wherever it is; SQLite and FFmpeg need it here.
            if is_remote(place) and (part.kind != BAG or place.suffix == ".db3"):
                place = stack.enter_context(local_copy(place))
            if part.kind == BAG:
                source = ImageBag(place, part.topics, span=part.span)
            else:
                source = Video(place)
            stack.callback(source.close)
        yield source


def pieces(source: ImageSource, multiple: int = 1) -> Iterator[list[Frame]]:
    """Yield a source's frames in pieces, which are the same in every run.

    Args:
        source: the images.
        multiple: of so many images, so that a detector's batches are the same too.
    """
    most = -(-PIECE_IMAGES // multiple) * multiple
    piece: list[Frame] = []
    size = 0
    for frame in source:
        piece.append(frame)
        size += frame.data.nbytes
        if len(piece) == most or (size >= PIECE_BYTES and len(piece) % multiple == 0):
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


class Frames(ImageSource):
    """Frames that are read already."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames

    def __len__(self) -> int:
        """Frames."""
        return len(self._frames)

    def __iter__(self) -> Iterator[Frame]:
        """Give them."""
        return iter(self._frames)

    def origin(self, frame: Frame) -> dict[str, Any]:
        """Tell nothing: the frame itself has it."""
        return {}
