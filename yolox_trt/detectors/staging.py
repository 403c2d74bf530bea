# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Staging: how frames and their tables get from host memory to where the kernels read them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.core.frame import Frame
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.optional import require
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.copy_crew import CopyCrew
from yolox_trt.engines.cuda_driver import allocation_end
from yolox_trt.kernels.cuda import descriptors
from yolox_trt.kernels.cuda.masks import CudaMasks

#: Images start at multiples of this, so that every 16-byte read of the kernels is aligned.
_ALIGNMENT = 256
#: A buffer grows in steps of this many bytes.
_STEP = 1 << 20
#: Bytes of one part of a frame: the first is on its way while the next is being copied.
_PART = 2 << 20
#: Bytes of a call from which on several threads copy: waking them takes some 40 us, in which one
#: thread copies half a megabyte.
_WORTH_THREADS = 3 << 20
#: Rows are picked if at most this part of an image's is sampled (a downscale by 2.5 or more).
_WORTH_PICKING = 0.8
#: Geometries whose sampled rows are remembered.
_REMEMBERED = 256
#: cudaMemoryTypeHost: page-locked memory.
_PINNED = 1


def _align(size: int, step: int = _ALIGNMENT) -> int:
    return -(-size // step) * step


def _pinned(cupy: Any, size: int) -> npt.NDArray[np.uint8]:
    """Return a page-locked uint8 array."""
    return np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.uint8, size)


class Slot:
    """Buffers and graphs of one call under way.

    The tables (structs Image, Post and Job, the thresholds) never move, and they name the images:
    so a graph stays valid when the staging buffer grows for larger ones.

    Args:
        max_batch: images of one call.
        num_classes: thresholds of one image.
        result_shape: shape of the uint8 results.
        mapped: whether kernels read and write the pinned buffers themselves.
    """

    def __init__(
        self, *, max_batch: int, num_classes: int, result_shape: tuple[int, int], mapped: bool
    ) -> None:
        self._cupy: Any = require("cupy")
        self._mapped = mapped
        self.post_offset = _align(max_batch * descriptors.IMAGE.size)
        self.mask_offset = self.post_offset + _align(max_batch * descriptors.POST.size)
        first = self.mask_offset + _align(max_batch * descriptors.MASK.size)
        self.table_bytes = first + _align(max_batch * num_classes * 4)
        self.graphs: dict[int, Any] = {}
        self.uploaded = self._cupy.cuda.Event(disable_timing=True)
        # Whoever waits for it sleeps: a thread that spins takes a core from those that receive.
        self.done = self._cupy.cuda.Event(block=True, disable_timing=True)
        tables = _pinned(self._cupy, self.table_bytes)
        #: The pinned tables: structs Image, Post from `post_offset` on, Job of masks.cu from
        #: `mask_offset` on, thresholds.
        self.tables = tables.data
        self.table_source = int(tables.ctypes.data)
        # Device addresses of the tables and of each one's part.
        self._device_tables, self.images = self._on_device(tables)
        self.posts = self.images + self.post_offset
        self.mask_jobs = self.images + self.mask_offset
        self.thresholds_address = self.images + first
        thresholds = tables[first : first + max_batch * num_classes * 4]
        #: float32 (max_batch, C) in the tables.
        self.thresholds = thresholds.view(np.float32).reshape(max_batch, num_classes)
        #: The pinned staging buffer of the images.
        self.host: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._device: Any = None
        self.address = 0
        #: Frames on the device that the call reads in place.
        self.held: list[Frame] = []
        #: What the call was asked for, for what is left to do on the host.
        self.letterboxes: list[Letterbox] = []
        self.options: Sequence[PostprocessOptions] = ()
        #: Makes the masks of the slot's calls; None where the network has no segmentation head.
        self.masks: CudaMasks | None = None
        #: uint8 of `result_shape`, pinned.
        self.results = self.make_results(result_shape)

    def _on_device(self, host: npt.NDArray[np.uint8]) -> tuple[Any, int]:
        """Return what kernels read instead of a pinned buffer, and its device address."""
        if self._mapped:  # unified addressing: the host's address is the device's, too
            return None, int(host.ctypes.data)
        array = self._cupy.empty(host.size, np.uint8)
        return array, int(array.data.ptr)

    def reserve(self, size: int) -> None:
        """Make the staging buffer at least `size` bytes long. The slot must be at rest."""
        if size <= self.host.size:
            return
        # Let the old ones go before their successors come; should one not come, there is none.
        self._device, self.address, self.host = None, 0, np.empty(0, np.uint8)
        host = _pinned(self._cupy, _align(size, _STEP))
        self._device, self.address = self._on_device(host)
        self.host = host

    def make_results(self, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Return a new pinned buffer for results, uint8 of `shape`, for take_results()."""
        return _pinned(self._cupy, shape[0] * shape[1]).reshape(shape)

    def take_results(self, buffer: npt.NDArray[np.uint8]) -> None:
        """Let results come into another buffer; invalidates the graphs."""
        self.graphs.clear()
        self.results = buffer

    def fetch(self, results: Any, batch: int, stream: Any) -> None:
        """Enqueue the copy of `batch` rows of results (cupy) to the host."""
        self._cupy.cuda.runtime.memcpyAsync(
            self.results.ctypes.data,
            results.data.ptr,
            batch * self.results.shape[1],
            self._cupy.cuda.runtime.memcpyDeviceToHost,
            stream.ptr,
        )


class Address(NamedTuple):
    """Where a frame lies on the device, as descriptors.pack_image takes it."""

    data: int
    chroma: int | None
    compact: bool


class _Piece(NamedTuple):
    """Bytes that go to one place of the staging buffer.

    `rows`: those of `source` (2-D) that are picked; None for all of `source` (1-D). `pinned`:
    `source` goes straight up.
    """

    source: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.intp] | None
    offset: int
    pinned: bool


@dataclass(frozen=True)
class Parts:
    """The plan of one upload.

    Attributes:
        addresses: of each frame.
        pieces: what goes where.
        size: bytes of the staging buffer that are used.
        on_device: copies on the device: address, offset in the staging buffer, bytes.
    """

    addresses: list[Address]
    pieces: list[_Piece]
    size: int
    on_device: list[tuple[int, int, int]]


class Stager:
    """Copies frames into a Slot and to the device, in parts, so that both copies overlap.

    Of an image that is scaled down by 2.5 or more only the rows that are sampled are copied.

    Args:
        mapped: whether kernels read the pinned buffer itself (integrated GPUs): no upload then.
        threads: threads that copy large calls, the caller's included; None for up to 8, by the
            cores.
    """

    def __init__(self, *, mapped: bool, threads: int | None = None) -> None:
        self._cupy: Any = require("cupy")
        self.mapped = mapped
        if threads is None:
            threads = min(8, max(1, (os.cpu_count() or 1) // 2))
        device = self._cupy.cuda.Device()
        self._crew = CopyCrew(threads, on_start=device.use) if threads > 1 else None
        self._copy_stream = None if mapped else self._cupy.cuda.Stream(non_blocking=True)
        self._sampled_rows = lru_cache(_REMEMBERED)(descriptors.sampled_rows)

    def plan(self, slot: Slot, frames: Sequence[Frame], letterboxes: Sequence[Letterbox]) -> Parts:
        """Find a place for each frame's rows; grows the slot if need be.

        Only rows of the Roi are copied, and of a strong downscale only those that are sampled. A
        frame on the device is read where it lies, or copied if its memory ends right behind it.
        """
        places: list[Address] = []
        pieces: list[_Piece] = []
        on_device: list[tuple[int, int, int]] = []
        in_place: dict[int, Address] = {}
        size = 0
        for index, (frame, letterbox) in enumerate(zip(frames, letterboxes, strict=True)):
            if frame.device_array is not None:
                address = frame.device_array.data.ptr
                extent = _extent(frame)
                places.append(_whole(frame, size))
                if allocation_end(address) >= address + extent + descriptors.SOURCE_MARGIN:
                    in_place[index] = _whole(frame, address)
                else:
                    on_device.append((address, size, extent))
                    size = _align(size + extent + descriptors.SOURCE_MARGIN)
                continue
            pinned = not self.mapped and self._is_pinned(frame)
            picked = None if pinned else self._picked_rows(frame, letterbox)
            if picked is None:
                place = _place_ranges(frame, letterbox, pinned, size, pieces)
            else:
                place = _place_rows(frame, picked, size, pieces)
            places.append(place)
            size = _end_of(pieces[-1])
        slot.reserve(size)
        base = slot.address
        addresses = [
            # An origin may be 0 or below: where a plane's row 0 would lie, which is not copied.
            Address(
                base + place.data,
                None if place.chroma is None else base + place.chroma,
                place.compact,
            )
            for place in places
        ]
        for index, place in in_place.items():
            addresses[index] = place
        return Parts(addresses, pieces, size, on_device)

    def upload(self, slot: Slot, parts: Parts, stream: Any) -> None:
        """Copy the pieces, and let `stream` wait for their arrival. The tables must be written."""
        if self._copy_stream is not None:
            self._send(slot.images, slot.table_source, slot.table_bytes)
        jobs = [job for piece in parts.pieces for job in self._jobs(slot, piece)]
        if self._crew is not None and parts.size > _WORTH_THREADS:
            self._crew.run(jobs)
        else:
            for job in jobs:
                job()
        if self._copy_stream is not None:
            slot.uploaded.record(self._copy_stream)
            stream.wait_event(slot.uploaded)
        runtime = self._cupy.cuda.runtime
        for source, offset, size in parts.on_device:
            target = slot.address + offset
            runtime.memcpyAsync(target, source, size, runtime.memcpyDefault, stream.ptr)

    def _jobs(self, slot: Slot, piece: _Piece) -> Iterator[Callable[[], None]]:
        """Split a piece into jobs of about _PART bytes."""
        source, rows, offset, pinned = piece
        if pinned:
            yield partial(self._send, slot.address + offset, source.ctypes.data, source.size)
        elif rows is None:
            for first in range(0, source.size, _PART):
                yield partial(self._copy, slot, source[first : first + _PART], offset + first)
        else:
            step = source.shape[1]
            count = max(1, _PART // step)
            for first in range(0, len(rows), count):
                chosen = rows[first : first + count]
                yield partial(self._pick, slot, source, chosen, offset + first * step)

    def _copy(self, slot: Slot, source: npt.NDArray[np.uint8], offset: int) -> None:
        target = slot.host[offset : offset + source.size]
        np.copyto(target, source)
        self._send(slot.address + offset, target.ctypes.data, target.size)

    def _pick(
        self, slot: Slot, source: npt.NDArray[np.uint8], rows: npt.NDArray[np.intp], offset: int
    ) -> None:
        target = slot.host[offset : offset + len(rows) * source.shape[1]]
        # With mode="raise" NumPy would write to a buffer of its own first.
        np.take(source, rows, axis=0, out=target.reshape(len(rows), -1), mode="clip")
        self._send(slot.address + offset, target.ctypes.data, target.size)

    def _send(self, target: int, source: int, size: int) -> None:
        """Enqueue the upload of `size` pinned bytes, from a host to a device address."""
        if self._copy_stream is None:
            return
        runtime = self._cupy.cuda.runtime
        runtime.memcpyAsync(target, source, size, runtime.memcpyHostToDevice, self._copy_stream.ptr)

    def _picked_rows(self, frame: Frame, letterbox: Letterbox) -> npt.NDArray[np.intp] | None:
        """Return the rows of the frame's first plane to copy; None for all of the Roi's."""
        if 2 * letterbox.resized_height > _WORTH_PICKING * letterbox.roi.height:
            return None
        rows = int(frame.height * ENCODINGS[frame.encoding].rows_per_height)
        if frame.data.size < rows * frame.step:  # the last row ends with its last pixel
            return None
        return self._sampled_rows(letterbox)

    def _is_pinned(self, frame: Frame) -> bool:
        attributes = self._cupy.cuda.runtime.pointerGetAttributes(frame.data.ctypes.data)
        return bool(attributes.type == _PINNED)

    def synchronize(self) -> None:
        """Wait for the copies that are under way."""
        if self._copy_stream is not None:
            self._copy_stream.synchronize()

    def close(self) -> None:
        """End the threads."""
        if self._crew is not None:
            self._crew.close()


def _extent(frame: Frame) -> int:
    """Return the bytes of a frame on the device: the last row ends with its last pixel."""
    layout = ENCODINGS[frame.encoding]
    rows = int(frame.height * layout.rows_per_height)
    return (rows - 1) * frame.step + frame.width * layout.bytes_per_pixel


def _whole(frame: Frame, start: int) -> Address:
    """Return the address of a frame all of whose rows lie from `start` on."""
    chroma = start + frame.height * frame.step if frame.encoding == "nv12" else None
    return Address(start, chroma, False)


def _place_ranges(
    frame: Frame, letterbox: Letterbox, pinned: bool, offset: int, pieces: list[_Piece]
) -> Address:
    """Place the Roi's rows from `offset` on. The address is relative to the staging buffer's."""
    roi = letterbox.roi
    ranges = [(roi.y, roi.y + roi.height)]
    if frame.encoding == "nv12":  # chroma rows lie behind the luma rows
        ranges.append((frame.height + roi.y // 2, frame.height + (roi.y + roi.height + 1) // 2))
    origins = []
    for plane, (first, last) in enumerate(ranges):
        begin = first * frame.step
        end = min(last * frame.step, frame.data.size)
        # Where the plane's row 0 would lie, had all rows been copied.
        start = frame.height * frame.step if plane else 0
        origins.append(offset - (begin - start))
        pieces.append(_Piece(frame.data[begin:end], None, offset, pinned))
        offset = _end_of(pieces[-1])
    return Address(origins[0], origins[1] if len(origins) > 1 else None, False)


def _place_rows(
    frame: Frame, rows: npt.NDArray[np.intp], offset: int, pieces: list[_Piece]
) -> Address:
    """Place single rows from `offset` on, and the chroma rows that belong to them."""
    planes = [rows]
    if frame.encoding == "nv12":
        planes.append(frame.height + rows // 2)
    source = frame.data[: frame.data.size // frame.step * frame.step].reshape(-1, frame.step)
    origins = []
    for chosen in planes:
        origins.append(offset)
        pieces.append(_Piece(source, chosen, offset, False))
        offset = _end_of(pieces[-1])
    return Address(origins[0], origins[1] if len(origins) > 1 else None, True)


def _end_of(piece: _Piece) -> int:
    """Return where the next piece may begin."""
    size = piece.source.size if piece.rows is None else len(piece.rows) * piece.source.shape[1]
    return _align(piece.offset + size + descriptors.SOURCE_MARGIN)
