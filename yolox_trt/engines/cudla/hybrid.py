# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CudlaHybridEngine: a DLA core whose tasks are enqueued on a CUDA stream."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from yolox_trt.core.device import Device
from yolox_trt.core.optional import require
from yolox_trt.engines.cudla.abi import Mode
from yolox_trt.engines.cudla.engine import CudlaEngine
from yolox_trt.engines.cudla.library import Cudla
from yolox_trt.engines.cudla.module import DlaModule
from yolox_trt.engines.engine_file import EngineFile
from yolox_trt.engines.file_lock import FileLock
from yolox_trt.engines.tensor_layout import TensorLayout


class CudlaHybridEngine(CudlaEngine):
    """A loadable in cuDLA's hybrid mode; needs CuPy.

    Input and outputs are CUDA memory that is registered with the DLA, so that a frame goes through
    GPU preprocessing, DLA and GPU decoding in the order of one stream, with no copy.
    """

    memory = "cuda"
    mode = Mode.CUDA_DLA

    def __init__(
        self,
        file: EngineFile,
        *,
        device: Device | None = None,
        library: Cudla | None = None,
        lease: FileLock | None = None,
    ) -> None:
        self._cupy: Any = require("cupy", purpose="cuDLA's hybrid mode")
        device = device or Device.parse(file.fingerprint.device)
        self._cuda = self._cupy.cuda.Device(device.cuda_index)
        self._streams: dict[int, Any] = {}
        with self._cuda:  # cuDLA takes the current GPU for the one that it belongs to
            super().__init__(file, device=device, library=library, lease=lease)

    def run(self, batch: int, stream: Any = None) -> None:
        """Enqueue the loadable's batch on `stream` (cupy.cuda.Stream; None: the current one).

        Raises:
            EngineError, OutOfMemoryError: cuDLA refuses it, a run before it failed, the batch is
                out of range, or the engine is closed.
        """
        module = self._checked(batch)
        stream = self._cupy.cuda.get_current_stream() if stream is None else stream
        self._streams[stream.ptr] = stream
        module.submit(stream.ptr)

    def close(self) -> None:
        """Wait for the tasks, unload the module, and release the buffers."""
        with self._cuda:
            # Not for the whole device: the task of another core may hang.
            for stream in self._streams.values():
                with contextlib.suppress(Exception):  # the device may be lost
                    stream.synchronize()
            self._streams.clear()
            super().close()  # before the memory that is registered with the module
        self.input = None
        self.outputs = {}

    def _allocate(self, library: Cudla, module: DlaModule) -> None:
        views, addresses = {}, {}
        names = (*module.input_names, *module.output_names)
        for name, descriptor in zip(names, (*module.inputs, *module.outputs), strict=True):
            buffer = self._new_buffer(self._layouts[name], int(descriptor.size))
            views[name] = self._layouts[name].view(buffer)
            addresses[name] = module.register(int(buffer.data.ptr), int(descriptor.size))
        module.prepare(
            [addresses[name] for name in module.input_names],
            [addresses[name] for name in module.output_names],
        )
        self.input = views[self.spec.input_name]
        self.outputs = {name: views[name] for name in self.spec.tensor_names}
        self.input_format = self._layouts[self.spec.input_name].format
        self.input_scale = self._scales.get(self.spec.input_name)
        self.output_scales = {n: s for n, s in self._scales.items() if n in self.outputs}
        # The zeros are written on this stream, and runs come on others.
        self._cupy.cuda.get_current_stream().synchronize()

    def _new_buffer(self, layout: TensorLayout, size: int) -> Any:
        """Allocate by cudaMalloc: a part of CuPy's pool may not be registered by itself."""
        cuda = self._cupy.cuda
        memory = cuda.MemoryPointer(cuda.Memory(size), 0)
        buffer = self._cupy.ndarray(layout.buffer_shape, np.dtype(layout.dtype), memory)
        buffer.fill(0)
        return buffer
