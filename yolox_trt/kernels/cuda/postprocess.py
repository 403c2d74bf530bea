# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CudaPostprocess: from a network's outputs to final detections, all on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from yolox_trt.core.anchors import efficientdet_anchors
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.model_spec import (
    FINISHED,
    BoxFormat,
    HeadLayout,
    HeadLevel,
    HeadTensor,
    ModelSpec,
)
from yolox_trt.core.optional import require
from yolox_trt.kernels.cuda import descriptors, module
from yolox_trt.kernels.reference.decode import nan_error
from yolox_trt.kernels.reference.finished import finished_fault

#: CELLS of postprocess.cu: grid cells (or EfficientNMS slots) of one block of decode.
CELLS = 32
#: NAN_FLAG of postprocess.cu.
_NAN = 1
_WITH_OBJECTNESS = (HeadLayout.UNDECODED, HeadLayout.DECODED, HeadLayout.RAW_LEVELS)
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

    Three where the network has suppressed what overlaps: decode or read, sort, write the best.

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
        scales: of each int8 output, by name: the real value of one step. Only raw levels may be
            int8.

    Raises:
        ModelError: an output is neither float32, float16 nor int8 of a known scale, or lies as no
            engine writes it.
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
        scales: Mapping[str, float] | None = None,
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
        self._scales = scales or {}
        self._is_finished = spec.head in FINISHED
        values = self._values()
        dtype = np.dtype(values[0].dtype)
        is_raw = spec.head is HeadLayout.RAW_LEVELS
        types = ("float32", "float16", "int8") if is_raw else ("float32", "float16")
        for value in values:
            if value.dtype != dtype or dtype.name not in types:
                raise ModelError(
                    f"network outputs of {sorted({str(v.dtype) for v in values})}",
                    expected=f"all of one type, of {', '.join(types)}",
                    fix="export the model with one output type",
                )
            if spec.head is not HeadLayout.RAW_LEVELS and not value.flags.c_contiguous:
                raise ModelError("a strided network output", expected="contiguous outputs")
        anchors = spec.num_anchors or values[0].shape[2 if spec.channels_first else 1]
        self.capacity = min(-(-max_candidates // 64), -(-anchors // 64)) * 64
        self.max_batch = max_batch
        self._anchors = anchors
        self._multiprocessors = int(cupy.cuda.Device().attributes["MultiProcessorCount"])

        levels, self._blocks = (self._finished(), 0) if self._is_finished else self._levels()
        self._level_count = max(1, len(spec.levels))
        self._levels_on_device = cupy.asarray(np.frombuffer(levels or b"\0", np.uint8))
        own_anchors = np.zeros((1, 4), np.float32)
        if spec.box_format is BoxFormat.ANCHORS:
            own_anchors = efficientdet_anchors(spec.input_height, spec.input_width)
        self._own_anchors = cupy.asarray(own_anchors)
        self._tallies = cupy.zeros((max_batch, 2), np.int32)
        self._keys = cupy.empty((max_batch, anchors), np.uint64)
        self._boxes = cupy.empty((max_batch, anchors, 4), np.float32)
        self._class_ids = cupy.empty((max_batch, anchors), np.int32)
        self._sorted_boxes = cupy.empty((max_batch, self.capacity, 4), np.float32)
        self._sorted_scores = cupy.empty((max_batch, self.capacity), np.float32)
        self._sorted_class_ids = cupy.empty((max_batch, self.capacity), np.int32)
        words = self.capacity // 64
        bits = (max_batch, self.capacity, words) if spec.needs_nms else (1,)
        self._mask = cupy.empty(bits, np.uint64)
        #: uint8 (max_batch, result bytes), view it as `dtype` on the host.
        self.results: Any
        self.dtype: np.dtype[Any]
        self.max_detections: int
        self.take_room(self.make_room(max_detections))

        code = module.load(
            "postprocess",
            fmad=False,
            OUTPUT=types.index(dtype.name),
            INTERLEAVED=int(not (is_raw or spec.channels_first) or values[0].ndim == 5),
            BOXES=self._boxes_code(),
            RELATIVE=int(not spec.levels and spec.box_format.is_relative),
            OBJECTNESS=int(spec.head in _WITH_OBJECTNESS),
            SIGMOID=int(not spec.sigmoid),
            CLASSES=self._classes_code(),
        )
        self._decode = code.get_function("decode")
        self._read_finished = code.get_function("read_finished")
        self._rank = code.get_function("rank_candidates")
        self._suppression = code.get_function("suppression")
        self._selection = code.get_function("greedy_selection")
        self._best = code.get_function("best_selection")

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
        size = (np.float32(self._spec.input_width), np.float32(self._spec.input_height))
        tables = (np.uint64(posts), np.uint64(thresholds))
        found = (self._tallies, self._keys, self._boxes, self._class_ids)
        if self._is_finished:
            self._read_finished(
                (-(-self._anchors // CELLS), batch),
                (32,),
                (self._levels_on_device, classes, *size, *tables, *found),
            )
        else:
            head = (self._levels_on_device, np.int32(self._level_count), classes)
            own = (np.int32(self._anchors), *size, self._own_anchors)
            self._decode((self._blocks, batch), (256,), (*head, *own, *tables, *found))
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
        sizes = (np.int32(self.dtype.itemsize), np.int32(self.max_detections))
        if not self._spec.needs_nms:
            self._best(
                (batch,),
                (1024,),
                (self._tallies, capacity, tables[0], *in_order, self.results, *sizes),
            )
            return
        tiles = self.capacity // 64
        self._suppression(
            (min(tiles * (tiles + 1) // 2, 16 * share), batch),
            (64,),
            (self._tallies, capacity, tables[0], in_order[0], in_order[2], self._mask),
        )
        self._selection(
            (batch,),
            (1024,),
            (self._tallies, capacity, tables[0], *in_order, self._mask, self.results, *sizes),
        )

    def read(self, results: npt.NDArray[Any], index: int) -> Any:
        """Check and return one image's result, a row of `results` viewed as `dtype` on the host.

        Raises:
            EngineError: the network gave NaN.
        """
        result = results[index]
        if result["flags"] & _NAN:
            raise finished_fault(self._spec) if self._is_finished else nan_error()
        return result

    def _values(self) -> list[Any]:
        """Return the floating-point outputs that the kernels read, boxes first."""
        names = self._spec.output_names
        if self._spec.head in (HeadLayout.EFFICIENT_NMS, HeadLayout.LABELS_BOXES_SCORES):
            names = names[1:3]
        return [self._outputs[name] for name in names]

    def _boxes_code(self) -> int:
        """Return BOXES of postprocess.cu."""
        spec = self._spec
        if spec.levels and spec.head is not HeadLayout.DECODED:
            return 0
        if spec.box_format is BoxFormat.ANCHORS:
            return 3
        corners = (BoxFormat.XYXY, BoxFormat.XYXY_RELATIVE)
        return 2 if spec.head is HeadLayout.EFFICIENT_NMS or spec.box_format in corners else 1

    def _classes_code(self) -> int:
        """Return CLASSES of postprocess.cu: the type of finished detections' classes."""
        spec = self._spec
        place = {HeadLayout.EFFICIENT_NMS: 3, HeadLayout.LABELS_BOXES_SCORES: 0}.get(spec.head)
        if place is None:
            return 2
        classes = self._outputs[spec.output_names[place]]
        codes = {"int32": 0, "int64": 1, str(self._values()[0].dtype): 2}
        if str(classes.dtype) not in codes:
            raise ModelError(
                f"output '{spec.output_names[place]}' with classes of type {classes.dtype}",
                expected=" or ".join(codes),
                fix="export the model with classes of one of these types",
            )
        return codes[str(classes.dtype)]

    def _finished(self) -> bytes:
        """Return the struct Finished."""
        own = [self._outputs[name] for name in self._spec.output_names]
        at = [tensor.data.ptr for tensor in own]
        if self._spec.head is HeadLayout.END_TO_END:
            (table,) = own
            places = (0, at[0], at[0] + 4 * table.itemsize, at[0] + 5 * table.itemsize)
            return descriptors.FINISHED.pack(*places, table.shape[1], *[table.shape[2]] * 3)
        if self._spec.head is HeadLayout.LABELS_BOXES_SCORES:
            at = [0, at[1], at[2], at[0]]
        if at[0] and own[0].dtype != np.int32:
            raise ModelError(
                f"output '{self._spec.output_names[0]}' of type {own[0].dtype}",
                expected="int32, as EfficientNMS_TRT counts",
            )
        return descriptors.FINISHED.pack(*at, own[1].shape[1], 4, 1, 1)

    def _levels(self) -> tuple[bytes, int]:
        """Return the structs Level, and the number of blocks for all of them."""
        spec = self._spec
        packed = b""
        first_anchor = first_block = 0
        if not spec.levels:
            packed = self._table()
            sizes = (0, self._anchors, self._anchors, 0, 0, 0)
            return packed + descriptors.LEVEL.pack(*sizes), -(-self._anchors // CELLS)
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

    def _table(self) -> bytes:
        """Describe boxes, objectness and classes of all anchors as those of one level."""
        tensors = self._values()
        boxes, classes = tensors[0], tensors[-1]
        if len(tensors) == 2:
            return self._column(boxes, 0) + descriptors.NO_PLANE + self._column(classes, 0)
        first = 5 if self._spec.head is HeadLayout.DECODED else 4
        return self._column(boxes, 0) + self._column(boxes, 4) + self._column(boxes, first)

    def _column(self, tensor: Any, channel: int) -> bytes:
        """Describe the channels of (N, A, channels), or (N, channels, A), from one on."""
        size = tensor.shape[1] * tensor.shape[2]
        if self._spec.channels_first:
            shift, steps = 0, (tensor.shape[2], 0, 1)
        else:
            shift, steps = 30, (1 << 30, 0, tensor.shape[2])
        return descriptors.PLANE.pack(tensor.data.ptr, size, channel, shift, *steps, 1.0)

    def _rows(self, first_anchor: int, width: int, channel: int) -> bytes:
        """Describe a part of the single tensor (N, A, 5 + C)."""
        tensor = self._outputs[self._spec.output_names[0]]
        anchors, channels = tensor.shape[1:]
        data = tensor.data.ptr + first_anchor * channels * tensor.itemsize
        steps = (1 << 30, width * channels, channels)  # all channels are one group
        return descriptors.PLANE.pack(data, anchors * channels, channel, 30, *steps, 1.0)

    def _plane(self, place: HeadTensor | None, level: HeadLevel) -> bytes:
        """Describe a part of a raw level, (N, C, H, W) or packed (N, groups, H, W, 16 or 32)."""
        assert place is not None  # RAW_LEVELS name all three
        tensor = self._outputs[place.name]
        scale = self._scales.get(place.name)
        if tensor.dtype == np.int8 and scale is None:
            raise ModelError(
                f"int8 output '{place.name}' of unknown scale",
                expected="the real value of one step",
                fix="build the engine with a calibration cache or ranges that name this tensor",
            )
        size = (level.height, level.width)
        return descriptors.pack_plane(tensor, place.name, size, place.channel, scale or 1.0)
