# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Staging: how frames and their tables get from host memory to where the kernels read them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from yolox_trt.core.frame import Frame
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.optional import require
from yolox_trt.kernels.cuda import descriptors

#: Images start at multiples of this, so that every 16-byte read of the kernels is aligned.
_ALIGNMENT = 256
#: A buffer grows in steps of this many bytes.
_STEP = 1 << 20
#: Bytes of one part of a frame: the first is on its way while the next is being copied.
_PART = 1 << 20
#: Bytes of a call from which on threads copy. For less, waking them costs more than they bring
#: (one 1920x1280 frame, 16 cores: 0.52 ms with one thread, 0.67 with four; eight frames: 24 GB/s
#: with four threads against 15 with one).
_WORTH_THREADS = 16 << 20
#: cudaMemoryTypeHost: page-locked memory.
_PINNED = 1


def _align(size: int, step: int = _ALIGNMENT) -> int:
    return -(-size // step) * step


def _pinned(cupy: Any, size: int) -> npt.NDArray[np.uint8]:
    """Return a page-locked uint8 array."""
    return np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.uint8, size)


class Slot:
    """Buffers and graphs of one call under way.

    The staging buffer holds, from its start: structs Image, structs Post, the thresholds, then
    the images. One upload can carry all of it.

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
        self._num_classes = num_classes
        self._max_batch = max_batch
        self.image_offset = 0
        self.post_offset = _align(max_batch * descriptors.IMAGE.size)
        self._threshold_offset = self.post_offset + _align(max_batch * descriptors.POST.size)
        self.table_bytes = self._threshold_offset + _align(max_batch * num_classes * 4)
        self.graphs: dict[int, Any] = {}
        self.uploaded = self._cupy.cuda.Event(disable_timing=True)
        self.done = self._cupy.cuda.Event(disable_timing=True)
        self._host: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._on_device: Any = None
        self.address = 0
        self.reserve(self.table_bytes)
        self.make_results(result_shape)

    @property
    def host(self) -> npt.NDArray[np.uint8]:
        """The pinned staging buffer."""
        return self._host

    @property
    def images(self) -> int:
        """Device address of the structs Image."""
        return self.address + self.image_offset

    @property
    def posts(self) -> int:
        """Device address of the structs Post."""
        return self.address + self.post_offset

    @property
    def thresholds_address(self) -> int:
        """Device address of the thresholds."""
        return self.address + self._threshold_offset

    def reserve(self, size: int) -> None:
        """Make the staging buffer at least `size` bytes long; a new one invalidates the graphs.

        The slot must be at rest.
        """
        if size <= self._host.size:
            return
        size = _align(size, _STEP)
        self.graphs.clear()
        # Unified addressing: the host's address of pinned memory is the device's, too.
        self._host = _pinned(self._cupy, size)
        if self._mapped:
            self.address = self._host.ctypes.data
        else:
            self._on_device = None  # let the old one go before its successor comes
            self._on_device = self._cupy.empty(size, np.uint8)
            self.address = int(self._on_device.data.ptr)
        self.tables = self._host.data
        first = self._threshold_offset
        thresholds = self._host[first : first + self._max_batch * self._num_classes * 4]
        #: float32 (max_batch, C) in the staging buffer.
        self.thresholds = thresholds.view(np.float32).reshape(self._max_batch, self._num_classes)

    def make_results(self, shape: tuple[int, int]) -> None:
        """Make the pinned buffer for the results, uint8 of `shape`; invalidates the graphs."""
        self.graphs.clear()
        self._result_bytes = shape[1]
        self.results = _pinned(self._cupy, shape[0] * shape[1]).reshape(shape)

    def fetch(self, results: Any, batch: int, stream: Any) -> None:
        """Enqueue the copy of `batch` rows of results (cupy) to the host."""
        self._cupy.cuda.runtime.memcpyAsync(
            self.results.ctypes.data,
            results.data.ptr,
            batch * self._result_bytes,
            self._cupy.cuda.runtime.memcpyDeviceToHost,
            stream.ptr,
        )


@dataclass(frozen=True)
class Parts:
    """The plan of one upload.

    Attributes:
        addresses: for each frame, the device addresses of its first byte and (nv12) its chroma
            plane, as descriptors.pack_image takes them.
        pieces: source bytes, their offset in the staging buffer, and whether they are pinned.
        size: bytes of the staging buffer that are used.
    """

    addresses: list[tuple[int, int]]
    pieces: list[tuple[npt.NDArray[np.uint8], int, bool]]
    size: int


class _Job(NamedTuple):
    """One part to copy: `target` is None where the source is pinned and goes straight up."""

    source: npt.NDArray[np.uint8]
    offset: int
    target: npt.NDArray[np.uint8] | None


class Stager:
    """Copies frames into a Slot and to the device, in parts, so that both copies overlap.

    Args:
        mapped: whether kernels read the pinned buffer itself (integrated GPUs): no upload then.
        threads: threads that copy large calls, the caller's included; None for up to 4, by the
            cores.
    """

    def __init__(self, *, mapped: bool, threads: int | None = None) -> None:
        self._cupy: Any = require("cupy")
        self.mapped = mapped
        if threads is None:
            threads = min(4, max(1, (os.cpu_count() or 1) // 2))
        self._threads = threads
        self._pool = (
            ThreadPoolExecutor(threads - 1, thread_name_prefix="yolox_trt_copy")
            if threads > 1
            else None
        )
        self._copy_stream = None if mapped else self._cupy.cuda.Stream(non_blocking=True)

    def plan(self, slot: Slot, frames: Sequence[Frame], letterboxes: Sequence[Letterbox]) -> Parts:
        """Find a place for each frame's rows; grows the slot if need be.

        Only the rows of the Roi are copied.
        """
        places: list[tuple[int, int]] = []
        pieces: list[tuple[npt.NDArray[np.uint8], int, bool]] = []
        size = slot.table_bytes
        for frame, letterbox in zip(frames, letterboxes, strict=True):
            pinned = not self.mapped and self._is_pinned(frame)
            roi = letterbox.roi
            ranges = [(roi.y, roi.y + roi.height)]
            if frame.encoding == "nv12":  # chroma rows lie behind the luma rows
                ranges.append(
                    (frame.height + roi.y // 2, frame.height + (roi.y + roi.height + 1) // 2)
                )
            origins = []
            for plane, (first, last) in enumerate(ranges):
                begin = first * frame.step
                end = min(last * frame.step, frame.data.size)
                # Where the plane's row 0 would lie, had all rows been copied.
                start = frame.height * frame.step if plane else 0
                origins.append(size - (begin - start))
                pieces.append((frame.data[begin:end], size, pinned))
                size = _align(size + end - begin + descriptors.SOURCE_MARGIN)
            places.append((origins[0], origins[1] if len(origins) > 1 else 0))
        slot.reserve(size)
        addresses = [
            (slot.address + data, slot.address + chroma if chroma else 0) for data, chroma in places
        ]
        return Parts(addresses, pieces, size)

    def upload(self, slot: Slot, parts: Parts, stream: Any) -> None:
        """Copy the pieces, and let `stream` wait for their arrival. The tables must be written."""
        jobs = self._jobs(slot, parts)
        pool = self._pool if parts.size > _WORTH_THREADS else None
        copies: list[Future[None] | None] = [
            pool.submit(np.copyto, job.target, job.source)
            # Every n-th is left to this thread, which would otherwise only wait.
            if pool is not None and job.target is not None and index % self._threads
            else None
            for index, job in enumerate(jobs)
        ]
        memcpy = self._cupy.cuda.runtime.memcpyAsync
        direction = self._cupy.cuda.runtime.memcpyHostToDevice
        host = slot.host.ctypes.data
        sent = 0  # the tables go with what lies behind them
        for job, copy in zip(jobs, copies, strict=True):
            if copy is not None:
                copy.result()
            elif job.target is not None:
                np.copyto(job.target, job.source)
            if self._copy_stream is None:
                continue
            queue = self._copy_stream.ptr
            if job.target is None:  # pinned by its owner
                if not sent:
                    memcpy(slot.address, host, slot.table_bytes, direction, queue)
                memcpy(
                    slot.address + job.offset,
                    job.source.ctypes.data,
                    job.source.size,
                    direction,
                    queue,
                )
            else:
                first = job.offset if sent else 0
                size = job.offset + job.source.size - first
                memcpy(slot.address + first, host + first, size, direction, queue)
            sent = job.offset + job.source.size
        if self._copy_stream is not None:
            slot.uploaded.record(self._copy_stream)
            stream.wait_event(slot.uploaded)

    def _jobs(self, slot: Slot, parts: Parts) -> list[_Job]:
        jobs = []
        for source, offset, pinned in parts.pieces:
            if pinned:
                jobs.append(_Job(source, offset, None))
                continue
            for first in range(0, source.size, _PART):
                part = source[first : first + _PART]
                begin = offset + first
                jobs.append(_Job(part, begin, slot.host[begin : begin + part.size]))
        return jobs

    def _is_pinned(self, frame: Frame) -> bool:
        attributes = self._cupy.cuda.runtime.pointerGetAttributes(frame.data.ctypes.data)
        return bool(attributes.type == _PINNED)

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
