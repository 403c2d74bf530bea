# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""HostDecode: brings a network's outputs to the host, for a detector that only the CPU decodes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.optional import require
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.kernels.cuda.postprocess import Room
from yolox_trt.kernels.reference.postprocess import Postprocessor


class HostDecode:
    """Stands in CudaDetector in place of CudaPostprocess; its results are the outputs themselves.

    Args:
        spec: a network of the form CUSTOM.
        outputs: its output buffers by name, cupy arrays with the batch as first axis.
        max_batch: images of one call.

    Attributes:
        max_detections, capacity: without a limit of their own.
        dtype: of one image's outputs, a field each.
        results: uint8 (max_batch, bytes of an image) on the device.
        processor: decodes on the CPU.
    """

    max_detections = capacity = sys.maxsize

    def __init__(self, spec: ModelSpec, outputs: Mapping[str, Any], *, max_batch: int) -> None:
        self._outputs = [outputs[name] for name in spec.output_names]
        self.processor = Postprocessor(spec)
        sizes = [output.nbytes // len(output) for output in self._outputs]
        self._offsets = [int(n) for n in np.cumsum([0, *(-(-size // 16) * 16 for size in sizes)])]
        self._sizes = sizes
        self.dtype = np.dtype(
            {
                "names": list(spec.output_names),
                "formats": [(output.dtype, output.shape[1:]) for output in self._outputs],
                "offsets": self._offsets[:-1],
                "itemsize": self._offsets[-1],
            }
        )
        self.results = require("cupy").empty((max_batch, self.dtype.itemsize), np.uint8)

    def make_room(self, max_detections: int) -> Room:
        """Return the buffers that there are; never called, since there is room for any number."""
        return Room(max_detections, self.dtype, self.results)

    def take_room(self, room: Room) -> None:
        """Keep the buffers; see make_room."""

    def reset(self) -> None:
        """Do nothing: no state is left from one call to the next."""

    def __call__(self, posts: int, thresholds: int, batch: int) -> None:
        """Enqueue the copies of `batch` images' outputs into `results` on CuPy's current stream."""
        for output, offset, size in zip(self._outputs, self._offsets, self._sizes, strict=False):
            rows = output[:batch].reshape(batch, -1).view(np.uint8)
            self.results[:batch, offset : offset + size] = rows

    def read(self, row: Any, letterbox: Letterbox, options: PostprocessOptions) -> Detections:
        """Decode one image, a row of `results` on the host viewed as `dtype`.

        Raises:
            EngineError: the detector's decode() gives no detections.
        """
        outputs = {name: np.array(row[name])[None] for name in self.dtype.names or ()}
        return self.processor(outputs, 0, letterbox, options)
