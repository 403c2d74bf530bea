# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CudaPreprocess: from images of any size and encoding to one network input, in one kernel."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.model_spec import Preprocessing
from yolox_trt.kernels.cuda import module
from yolox_trt.kernels.reference.preprocess import check_uint8

_OUTPUTS = {"float32": 0, "float16": 1, "int8": 2, "uint8": 3}
#: Name of a memory layout -> (number in preprocess.cu, channels of a pixel; 0: planes).
LAYOUTS: dict[str, tuple[int, int]] = {
    "nchw": (0, 0),
    "hwc4": (1, 4),
    "chw16": (2, 16),
    "chw32": (3, 32),
}
#: WARPS, TILE_ROWS, STAGE_BYTES, ROWS_AHEAD and BLOCKS of preprocess.cu.
Tile = tuple[int, int, int, int, int]
#: The measured choice for launches of up to SMALL_LAUNCH network pixels, in which every
#: multiprocessor has few blocks, and for larger ones (docs/decisions/preprocess-kernel.md).
SMALL_TILE: Tile = (4, 4, 9216, 2, 10)
LARGE_TILE: Tile = (4, 8, 16896, 2, 10)
SMALL_LAUNCH = 1 << 20

#: Offsets of elements are of 32 bits in preprocess.cu.
_MOST_ELEMENTS = (1 << 32) - 1

#: Part of the L2 that a network's input may fill if source pixels are to make room for it.
_KEPT = 0.5


class CudaPreprocess:
    """Resize, letterbox, colour conversion, normalisation and layout of a batch, in one launch.

    The images are described by `descriptors.IMAGE` structs in device memory, so that sizes,
    encodings and addresses may change under a captured CUDA graph.

    Args:
        height: rows of the network's input.
        width: columns of the network's input.
        dtype: "float32", "float16", "int8" or "uint8".
        layout: "nchw", or the DLA's "hwc4", "chw16" (float16), "chw32" (int8).
        row_pitch: elements (nchw) or pixels (other layouts) from one row to the next; None for
            rows without padding. The padding is not written.
        preprocessing: colour order, scale, mean, std and pad value.
        input_scale: real value of one step of an int8 input (dynamic range / 127).
        tile: macros of preprocess.cu; None for the measured choice.

    Raises:
        ConfigurationError: unknown dtype or layout, or sizes that do not fit them.
        ModelError: uint8 input with a normalisation.
        MissingDependencyError: CuPy is not installed.
    """

    def __init__(
        self,
        *,
        height: int,
        width: int,
        dtype: str = "float32",
        layout: str = "nchw",
        row_pitch: int | None = None,
        preprocessing: Preprocessing | None = None,
        input_scale: float = 1.0,
        tile: Tile | None = None,
    ) -> None:
        preprocessing = preprocessing or Preprocessing()
        if dtype not in _OUTPUTS or layout not in LAYOUTS:
            raise ConfigurationError(
                f"network input of {dtype} in layout {layout}",
                expected=f"one of {', '.join(_OUTPUTS)} in one of {', '.join(LAYOUTS)}",
            )
        if dtype == "uint8":
            check_uint8(preprocessing)
        self.height = height
        self.width = width
        self.dtype = dtype
        self.layout = layout
        self.row_pitch = width if row_pitch is None else row_pitch
        if self.row_pitch < width:
            raise ConfigurationError(
                f"row pitch {row_pitch}", expected=f"at least the input's width {width}"
            )
        factor, offset = preprocessing.factors
        scale = input_scale if dtype == "int8" else 1.0
        device = module.device()
        self._kept = device.l2_bytes * _KEPT
        self._bytes = prod(self.shape(1)) * np.dtype(dtype).itemsize
        self._most_images = _MOST_ELEMENTS // prod(self.shape(1))
        self._tile = tile
        self._parameters = (
            *(np.float32(value / scale) for value in factor),
            *(np.float32(value / scale) for value in offset),
            np.int32(preprocessing.pad),
        )
        self._macros = {
            "OUTPUT": _OUTPUTS[dtype],
            "LAYOUT": LAYOUTS[layout][0],
            "NORMALISE": int(not preprocessing.is_identity or scale != 1.0),
            "CENTRED": int(preprocessing.resize == "centre"),
            "BULK_COPY": int(device.capability >= 90),
            "HEIGHT": height,
            "WIDTH": width,
            "ROW_PITCH": self.row_pitch,
        }
        self._kernels: dict[tuple[Tile, bool], Any] = {}
        self._kernel(1)  # so that what does not compile is known at once

    def _variant(self, batch: int) -> tuple[Tile, bool]:
        """Return the tile for a batch, and whether source pixels are evicted first."""
        small = batch * self.height * self.width <= SMALL_LAUNCH
        tile = self._tile or (SMALL_TILE if small else LARGE_TILE)
        return tile, batch * self._bytes <= self._kept

    def macros(self, batch: int) -> dict[str, int]:
        """Return the macros of preprocess.cu for a launch of `batch` images."""
        tile, evict_first = self._variant(batch)
        names = ("WARPS", "TILE_ROWS", "STAGE_BYTES", "ROWS_AHEAD", "BLOCKS")
        return {
            **self._macros,
            **dict(zip(names, tile, strict=True)),
            "EVICT_FIRST": int(evict_first),
        }

    def _kernel(self, batch: int) -> tuple[Tile, Any]:
        """Return the tile for a batch and the kernel compiled for it."""
        if batch > self._most_images:
            raise ConfigurationError(
                f"batch of {batch} images of {self.width}x{self.height}",
                expected=f"at most {self._most_images} images, of {_MOST_ELEMENTS} elements",
                fix="a smaller max_batch",
            )
        variant = self._variant(batch)
        kernel = self._kernels.get(variant)
        if kernel is None:
            loaded = module.load("preprocess", fmad=True, **self.macros(batch))
            kernel = self._kernels[variant] = loaded.get_function("preprocess")
        return variant[0], kernel

    def shape(self, batch: int) -> tuple[int, ...]:
        """Return the shape of the output of `batch` images, in elements of `dtype`."""
        channels = LAYOUTS[self.layout][1]
        if channels:
            return (batch, self.height, self.row_pitch, channels)
        return (batch, 3, self.height, self.row_pitch)

    def __call__(self, images: int, output: int, batch: int) -> None:
        """Enqueue on CuPy's current stream.

        Args:
            images: device address of `batch` structs Image. The images they name must be readable
                for descriptors.SOURCE_MARGIN bytes behind their end.
            output: device address of the network's input, aligned to 16 bytes.
            batch: number of images.

        Raises:
            ConfigurationError: the network's input has 2^32 elements or more.
        """
        (warps, rows, *_), kernel = self._kernel(batch)
        columns = 32 * warps
        kernel(
            (-(-self.width // columns), -(-self.height // rows), batch),
            (columns, 1, 1),
            (
                np.uint64(images),
                np.uint64(output),
                *self._parameters,
            ),
        )
