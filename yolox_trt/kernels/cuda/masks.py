# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CudaMasks: from the output of a segmentation head to the runs of masks, all on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ModelError
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.mask import Mask
from yolox_trt.core.model_spec import SegmentationHead
from yolox_trt.core.optional import require
from yolox_trt.kernels.cuda import descriptors, module
from yolox_trt.kernels.reference.masks import mask_fault

#: THREADS of masks.cu.
_THREADS = 256
#: Runs of an image that have room from the start: a scene of 1920x1280 pixels has some 10,000.
_RUNS = 1 << 16
#: Strips of source rows that blocks count and write: enough for any GPU, one row of a camera each.
_MOST_STRIPS = 1280
#: FORM of masks.cu.
_FORMS = {"float32": 0, "float16": 1, "int8": 2, "uint8": 3, "int32": 4, "int64": 5}


class CudaMasks:
    """Argmax, resize to the source and run-length encoding of a call's images, in three launches.

    Only runs cross to the host: the last kernel writes them into page-locked memory, 8 bytes each.

    Args:
        head: the segmentation head.
        output: its output buffer, a cupy array with the batch as first axis, whose address must
            not change: logits (N, C, h, w), with padded rows (strided) or packed as
            (N, groups, h, w, 16 or 32), as the DLA writes them; or classes (N, h, w), (N, 1, h, w).
        max_batch: images of one call.

    Raises:
        ModelError: the output's type or layout is none that an engine writes.
        MissingDependencyError: CuPy is not installed.
    """

    def __init__(self, head: SegmentationHead, output: Any, *, max_batch: int) -> None:
        cupy = require("cupy", purpose="the CUDA kernels")
        self._head, self._output = head, output
        form = _FORMS.get(str(output.dtype))
        if form is None or (form > 2 and not head.has_argmax):
            raise ModelError(
                f"output '{head.name}' of the segmentation head of type {output.dtype}",
                expected="float32, float16 or int8; of classes uint8, int32 or int64 too",
                fix="export the model with one of these types",
            )
        if head.has_argmax and output.ndim == 3:
            output = output[:, None]
        plane = descriptors.pack_plane(output, head.name, (head.height, head.width))
        self._plane = cupy.asarray(np.frombuffer(plane, np.uint8))
        self._cells = cupy.empty((max_batch, head.height, head.width), np.uint8)
        multiprocessors = int(cupy.cuda.Device().attributes["MultiProcessorCount"])
        self._strips = min(_MOST_STRIPS, 16 * multiprocessors)
        self._counts = cupy.empty((max_batch, self._strips), np.int32)
        self._faults = cupy.zeros(max_batch, np.int32)
        self._runs = [descriptors.make_runs(cupy, _RUNS) for _ in range(max_batch)]
        #: Size of each image whose mask the present call was asked for, else None.
        self._sizes: list[tuple[int, int] | None] = [None] * max_batch

        vector = 16 // output.itemsize
        steps = [step // output.itemsize for step in output.strides]
        aligned = not head.has_argmax and output.ndim == 4 and steps[3] == 1
        aligned &= head.width % vector == 0 and not any(step % vector for step in steps[:3])
        self._vector = vector if aligned and output.data.ptr % 16 == 0 else 1
        code = module.load("masks", FORM=form, ARGMAX=int(head.has_argmax), VECTOR=self._vector)
        self._classify = code.get_function("classify")
        self._count_runs = code.get_function("count_runs")
        self._write_runs = code.get_function("write_runs")

    def ask(self, tables: Any, offset: int, index: int, letterbox: Letterbox, wanted: bool) -> None:
        """Write the struct Job of an image of the next call.

        Args:
            tables: writable bytes-like object.
            offset: of the first image's struct in `tables`.
            index: the image in the batch.
            letterbox: its geometry.
            wanted: whether its mask is asked for.

        Raises:
            FrameError: the image is too large.
        """
        size = (letterbox.source_height, letterbox.source_width)
        self._sizes[index] = size if wanted else None
        runs = self._runs[index] if wanted else None
        descriptors.pack_mask(tables, offset + index * descriptors.MASK.size, letterbox, runs)

    def __call__(self, jobs: int, batch: int) -> None:
        """Enqueue on CuPy's current stream: the runs of the first `batch` images.

        Args:
            jobs: device address of `batch` structs Job (descriptors.MASK).
            batch: images in the output.
        """
        head = self._head
        shape = (np.int32(head.height), np.int32(head.width), np.int32(head.stride))
        cells = head.height * head.width // self._vector
        self._classify(
            (-(-cells // _THREADS), batch),
            (_THREADS,),
            (
                *(self._plane, np.int32(head.num_classes), *shape, np.uint64(jobs)),
                *(self._cells, self._faults),
            ),
        )
        grid, block = (self._strips, batch), (_THREADS,)
        self._count_runs(grid, block, (np.uint64(jobs), self._cells, *shape, self._counts))
        self._write(np.uint64(jobs), grid)

    def _write(self, jobs: Any, grid: tuple[int, int]) -> None:
        head = self._head
        shape = (np.int32(head.height), np.int32(head.width), np.int32(head.stride))
        arguments = (jobs, self._cells, *shape, self._counts, self._faults)
        self._write_runs(grid, (_THREADS,), arguments)

    def reset(self) -> None:
        """Forget a call that was cut short by an error (enqueued on CuPy's current stream)."""
        self._faults.fill(0)

    def read(self, index: int, tables: Any, offset: int) -> Mask | None:
        """Return an image's mask, None where none was asked for; the call must be over.

        An image with more runs than there is room for gets more room, and they are written again.

        Args:
            index: the image in the batch.
            tables: where ask() wrote.
            offset: as there.

        Raises:
            EngineError: the network gave NaN, or a class that it does not have.
        """
        size = self._sizes[index]
        if size is None:
            return None
        (count, fault), runs = self._runs[index][0].tolist(), self._runs[index]
        if fault:
            raise mask_fault(self._head)
        if count >= len(runs):
            runs = self._write_again(index, count, tables, offset)
        starts, values = runs[1 : count + 1].T
        return Mask.of_starts(*size, starts, values.astype(np.uint8))

    def _write_again(
        self, index: int, count: int, tables: Any, offset: int
    ) -> npt.NDArray[np.uint32]:
        """Make room for more runs, and write them from the cells, which are still there."""
        cupy = require("cupy")
        runs = self._runs[index] = descriptors.make_runs(cupy, 2 * count)
        struct = descriptors.MASK
        packed = bytearray(struct.size * (index + 1))  # of the images before it, none is asked for
        job = struct.unpack_from(tables, offset + index * struct.size)
        struct.pack_into(packed, index * struct.size, runs.ctypes.data, 2 * count, *job[2:])
        stream = cupy.cuda.get_current_stream()
        on_device = cupy.asarray(np.frombuffer(packed, np.uint8))
        self._write(on_device, (self._strips, index + 1))
        stream.synchronize()
        return runs
