# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""TensorLayout: how an engine's NCHW tensor lies in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from yolox_trt.core.errors import EngineError

#: Rows of kDLA_LINEAR and kDLA_HWC4 start at multiples of 64 bytes (NvInfer.h, TensorFormat). Of
#: 32 for kDLA_HWC4 on Xavier: the same there, since a YOLOX's width is a multiple of 32 pixels.
DLA_ROW_ALIGNMENT = 64

_PACKED_CHANNELS = {"chw16": 16, "chw32": 32}


@dataclass(frozen=True)
class TensorLayout:
    """Shape, type and format of an I/O tensor.

    Attributes:
        shape: the tensor's dimensions as TensorRT tells them, batch first; (N, C, H, W) for
            every format but linear, which takes any.
        dtype: numpy name of the element type.
        format: "linear", "chw16", "chw32", "dla_linear" or "dla_hwc4".

    Raises:
        EngineError: a format that this package does not read.
    """

    shape: tuple[int, ...]
    dtype: str
    format: str = "linear"

    def __post_init__(self) -> None:
        if self.format != "linear" and len(self.shape) != 4:
            raise EngineError(
                f"tensor of shape {self.shape} in format {self.format}",
                expected="(N, C, H, W)",
                fix="build with linear I/O formats",
            )
        if self.format not in ("linear", "dla_linear", "dla_hwc4", *_PACKED_CHANNELS):
            raise EngineError(
                f"I/O format {self.format}",
                expected="linear, chw16, chw32, dla_linear or dla_hwc4",
                fix="build with --input-format and --output-format of these",
            )

    @property
    def buffer_shape(self) -> tuple[int, ...]:
        """Dimensions of the buffer: padded rows, packed channels."""
        if self.format == "linear":
            return self.shape
        n, c, h, w = self.shape
        if self.format == "dla_linear":
            return n, c, h, self._row(1)
        if self.format == "dla_hwc4":
            return n, h, self._row(4), 4
        packed = _PACKED_CHANNELS[self.format]
        return n, -(-c // packed), h, w, packed

    def view(self, buffer: Any) -> Any:
        """Return a buffer without its padding columns: (N, C, H, W), (N, H, W, 4) or packed."""
        width = self.shape[-1]
        if self.format == "dla_linear":
            return buffer[..., :width]
        if self.format == "dla_hwc4":
            return buffer[:, :, :width]
        return buffer

    def _row(self, elements: int) -> int:
        """Columns of a row that is padded to DLA_ROW_ALIGNMENT."""
        column = np.dtype(self.dtype).itemsize * elements
        columns_per_step = max(DLA_ROW_ALIGNMENT // column, 1)
        return -(-self.shape[3] // columns_per_step) * columns_per_step
