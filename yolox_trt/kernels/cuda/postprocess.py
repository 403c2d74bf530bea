# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CudaPostprocess: from a network's outputs to final detections, all on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ConfigurationError, EngineError, ModelError
from yolox_trt.core.model_spec import HeadLayout, HeadLevel, HeadTensor, ModelSpec
from yolox_trt.core.optional import require
from yolox_trt.kernels.cuda import descriptors, module

#: CELLS of postprocess.cu: grid cells (or EfficientNMS slots) of one block of decode.
CELLS = 32
#: MAX_WORDS of postprocess.cu times 64: the most candidates that NMS can take.
MAX_CANDIDATES = 65536


class Room(NamedTuple):
    """Buffers for the results of a call.

    Attributes:
        max_detections: room for detections in one image's result.
        dtype: of one image's result, see descriptors.result_dtype.
        results: uint8 (max_batch, result bytes) on the device.
    """

    max_detections: int
    dtype: np.dtype[Any]
    results: Any


class CudaPostprocess:
    """Decode, threshold, sort, NMS and the way back to source pixels, in four launches.

    All anchors may become candidates; the best `max_candidates` of each image enter NMS, the rest
    is counted in the result's `overflow`. Memory: max_candidates ** 2 / 8 bytes an image for the
    bits of NMS, and 28 bytes an anchor.

    Args:
        spec: the network.
        outputs: its output buffers by name, cupy arrays with the batch as first axis; their
            addresses must not change. Raw levels may have padded rows (strided arrays) or be
            packed as (N, groups, H, W, 16 or 32), as the DLA writes them.
        max_batch: images of one call.
        max_candidates: candidates of one image that enter NMS, rounded up to a multiple of 64.
        max_detections: room for detections in one image's result.

    Raises:
        ModelError: an output is neither float32 nor float16, or lies as no engine writes it.
        ConfigurationError: max_candidates is not between 1 and MAX_CANDIDATES.
        MissingDependencyError: CuPy is not installed.
    """

    def __init__(
        self,
        spec: ModelSpec,
        outputs: Mapping[str, Any],
        *,
        max_batch: int,
        max_candidates: int = 4096,
        max_detections: int = 300,
    ) -> None:
        cupy = require("cupy", purpose="the CUDA kernels")
        if not 1 <= max_candidates <= MAX_CANDIDATES:
            raise ConfigurationError(
                f"max_candidates {max_candidates}",
                expected=f"1 to {MAX_CANDIDATES}",
                fix="set `max_candidates`",
            )
        self._spec = spec
        self._outputs = outputs
        self._in_network = spec.head is HeadLayout.EFFICIENT_NMS
        values = self._values()
        dtype = np.dtype(values[0].dtype)
        for value in values:
            if value.dtype != dtype or dtype not in (np.float32, np.float16):
                raise ModelError(
                    f"network outputs of {sorted({str(v.dtype) for v in values})}",
                    expected="all float32 or all float16",
                    fix="export the model with one output type",
                )
            if spec.head is not HeadLayout.RAW_LEVELS and not value.flags.c_contiguous:
                raise ModelError("a strided network output", expected="contiguous outputs")
        anchors = values[1].shape[1] if self._in_network else spec.num_anchors
        self.capacity = min(-(-max_candidates // 64), -(-anchors // 64)) * 64
        self.max_batch = max_batch
        self._anchors = anchors
        self._multiprocessors = int(cupy.cuda.Device().attributes["MultiProcessorCount"])

        levels, self._blocks = self._levels()
        self._level_count = len(spec.levels)
        self._levels_on_device = cupy.asarray(np.frombuffer(levels or b"\0", np.uint8))
        self._tallies = cupy.zeros((max_batch, 2), np.int32)
        self._keys = cupy.empty((max_batch, anchors), np.uint64)
        self._boxes = cupy.empty((max_batch, anchors, 4), np.float32)
        self._class_ids = cupy.empty((max_batch, anchors), np.int32)
        self._sorted_boxes = cupy.empty((max_batch, self.capacity, 4), np.float32)
        self._sorted_scores = cupy.empty((max_batch, self.capacity), np.float32)
        self._sorted_class_ids = cupy.empty((max_batch, self.capacity), np.int32)
        words = self.capacity // 64
        self._mask = cupy.empty((max_batch, self.capacity, words), np.uint64)
        #: uint8 (max_batch, result bytes), view it as `dtype` on the host.
        self.results: Any
        self.dtype: np.dtype[Any]
        self.max_detections: int
        self.take_room(self.make_room(max_detections))

        code = module.load(
            "postprocess",
            fmad=False,
            OUTPUT=0 if dtype == np.float32 else 1,
            INTERLEAVED=int(spec.head is not HeadLayout.RAW_LEVELS or values[0].ndim == 5),
            DECODED=int(spec.head is HeadLayout.DECODED),
            SIGMOID=int(not spec.sigmoid),
        )
        self._decode = code.get_function("decode")
        self._read_efficient_nms = code.get_function("read_efficient_nms")
        self._rank = code.get_function("rank_candidates")
        self._suppression = code.get_function("suppression")
        self._selection = code.get_function("greedy_selection")

    def make_room(self, max_detections: int) -> Room:
        """Return buffers for more detections an image, for take_room().

        Raises:
            cupy.cuda.memory.OutOfMemoryError: there is no memory for them; nothing has changed.
        """
        count = min(max_detections, self.capacity)
        dtype = descriptors.result_dtype(count)
        results = require("cupy").empty((self.max_batch, dtype.itemsize), np.uint8)
        return Room(count, dtype, results)

    def take_room(self, room: Room) -> None:
        """Write into other buffers from now on. Graphs captured before must not be launched."""
        self.max_detections, self.dtype, self.results = room

    def reset(self) -> None:
        """Forget a call that was cut short by an error (enqueued on CuPy's current stream)."""
        self._tallies.fill(0)

    def __call__(self, posts: int, thresholds: int, batch: int) -> None:
        """Enqueue on CuPy's current stream; the first `batch` rows of `results` are written.

        Args:
            posts: device address of `batch` structs Post (descriptors.POST).
            thresholds: device address of float32 (batch, num_classes), least scores.
            batch: images in the outputs.
        """
        classes = np.int32(self._spec.num_classes)
        tables = (np.uint64(posts), np.uint64(thresholds))
        found = (self._tallies, self._keys, self._boxes, self._class_ids)
        if self._in_network:
            arguments = (*self._values_in_order(), np.int32(self._anchors), classes)
            blocks = -(-self._anchors // CELLS)
            self._read_efficient_nms((blocks, batch), (32,), (*arguments, *tables, *found))
        else:
            head = (self._levels_on_device, np.int32(self._level_count), classes)
            arguments = (*head, np.int32(self._anchors), *tables, *found)
            self._decode((self._blocks, batch), (256,), arguments)
        # Enough blocks to fill the device, not more: how many candidates there are, only the
        # device knows, and blocks without work are not free.
        share = max(1, self._multiprocessors // batch)
        anchors, capacity = np.int32(self._anchors), np.int32(self.capacity)
        in_order = (self._sorted_boxes, self._sorted_scores, self._sorted_class_ids)
        self._rank(
            (min(-(-self._anchors // 32), share), batch),
            (1024,),
            (self._tallies, anchors, capacity, *found[1:], *in_order),
        )
        tiles = self.capacity // 64
        self._suppression(
            (min(tiles * (tiles + 1) // 2, 16 * share), batch),
            (64,),
            (self._tallies, capacity, tables[0], in_order[0], in_order[2], self._mask),
        )
        self._selection(
            (batch,),
            (1024,),
            (
                *(self._tallies, capacity, tables[0], *in_order, self._mask, self.results),
                *(np.int32(self.dtype.itemsize), np.int32(self.max_detections)),
            ),
        )

    def read(self, results: npt.NDArray[Any], index: int) -> Any:
        """Check and return one image's result, a row of `results` viewed as `dtype` on the host.

        Raises:
            EngineError: the network gave NaN.
        """
        result = results[index]
        if result["nan"]:
            raise EngineError(
                "NaN in the network's outputs"
                + (", or a class it does not have" if self._in_network else ""),
                expected="numbers",
                fix="check the precision (a float16 overflow?) and the preprocessing of the model",
            )
        return result

    def _values(self) -> list[Any]:
        """Return the floating-point outputs that the kernels read."""
        names = self._spec.output_names
        if self._in_network:
            return [self._outputs[names[1]], self._outputs[names[2]]]
        return [self._outputs[name] for name in names]

    def _values_in_order(self) -> tuple[Any, ...]:
        """Return EfficientNMS_TRT's num_detections, boxes, scores, classes."""
        return tuple(self._outputs[name] for name in self._spec.output_names)

    def _levels(self) -> tuple[bytes, int]:
        """Return the structs Level, and the number of blocks for all of them."""
        spec = self._spec
        packed = b""
        first_anchor = first_block = 0
        if self._in_network:
            return packed, 0
        for level in spec.levels:
            if spec.head is HeadLayout.RAW_LEVELS:
                for tensor in (level.box, level.objectness, level.classes):
                    packed += self._plane(tensor, level)
            else:
                for channel in (0, 4, 5):
                    packed += self._rows(first_anchor, level.width, channel)
            cells = level.height * level.width
            packed += descriptors.LEVEL.pack(
                *(level.stride, level.width, cells, first_anchor, first_block, 0)
            )
            first_anchor += cells
            first_block += -(-cells // CELLS)
        return packed, first_block

    def _rows(self, first_anchor: int, width: int, channel: int) -> bytes:
        """Describe a part of the single tensor (N, A, 5 + C)."""
        tensor = self._outputs[self._spec.output_names[0]]
        anchors, channels = tensor.shape[1:]
        data = tensor.data.ptr + first_anchor * channels * tensor.itemsize
        steps = (1 << 30, width * channels, channels)  # all channels are one group
        return descriptors.PLANE.pack(data, anchors * channels, channel, 30, *steps, 0)

    def _plane(self, place: HeadTensor | None, level: HeadLevel) -> bytes:
        """Describe a part of a raw level, (N, C, H, W) or packed (N, groups, H, W, 16 or 32)."""
        assert place is not None  # RAW_LEVELS name all three
        tensor = self._outputs[place.name]
        steps = [step // tensor.itemsize for step in tensor.strides]
        packing = tensor.shape[4] if tensor.ndim == 5 else 1
        if tensor.shape[2:4] != (level.height, level.width) or packing not in (1, 16, 32):
            raise ModelError(
                f"output '{place.name}' of shape {tensor.shape}",
                expected=f"(N, C, {level.height}, {level.width}), or packed by 16 or 32 channels",
                fix="build the engine again",
            )
        image, group, row, cell = steps[:4]
        shift = packing.bit_length() - 1
        return descriptors.PLANE.pack(
            tensor.data.ptr, image, place.channel, shift, group, row, cell, 0
        )
