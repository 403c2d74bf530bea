# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CudlaStandaloneEngine: a DLA core without a CUDA context, for a machine whose GPU is taken."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.device import Device
from yolox_trt.core.errors import EngineError
from yolox_trt.engines.cudla.abi import Mode, NvSciSyncAttributes
from yolox_trt.engines.cudla.engine import CudlaEngine
from yolox_trt.engines.cudla.library import Cudla
from yolox_trt.engines.cudla.module import RESTART, TASK_TIMEOUT_S, DlaModule
from yolox_trt.engines.cudla.nvsci import NvSci, Signal
from yolox_trt.engines.engine_file import EngineFile
from yolox_trt.engines.file_lock import FileLock
from yolox_trt.engines.tensor_layout import TensorLayout

_log = logging.getLogger("yolox_trt.cudla")

#: Where NvSci fails: cuDLA's other mode does without it.
_HYBRID = "use cuDLA's hybrid mode"


class CudlaStandaloneEngine(CudlaEngine):
    """A loadable in cuDLA's standalone mode; needs NvSci's libraries.

    Images are preprocessed and results decoded on the CPU; the DLA's memory is NvSciBuf's, and the
    CPU waits for the end of a task by NvSciSync. Input and outputs are float32 planes: run()
    writes them into the DLA's formats and reads them from there.
    """

    memory = "host"
    mode = Mode.STANDALONE

    def __init__(
        self,
        file: EngineFile,
        *,
        device: Device | None = None,
        library: Cudla | None = None,
        lease: FileLock | None = None,
    ) -> None:
        self._nvsci: NvSci | None = None
        self._signal: Signal | None = None
        self._shared: dict[str, npt.NDArray[Any]] = {}
        self._late = False
        """Whether a task was submitted and has not been seen to end."""
        _close_hung(device or Device.parse(file.fingerprint.device))
        super().__init__(file, device=device, library=library, lease=lease)
        self.spec = dataclasses.replace(self.spec, input_dtype="float32")
        self.input = np.zeros(self._layouts[self.spec.input_name].shape, np.float32)
        self.outputs = {
            name: np.zeros(self._layouts[name].shape, np.float32) for name in self.spec.tensor_names
        }

    def run(self, batch: int, stream: Any = None) -> None:
        """Infer the loadable's batch, of which the first `batch` images count.

        Raises:
            EngineError, OutOfMemoryError: cuDLA fails, the task has not ended in TASK_TIMEOUT_S,
                one that was given up before has not ended yet, the batch is out of range, or the
                engine is closed.
        """
        module = self._checked(batch)
        if self._late:  # it has the buffers still
            self._wait(module, 0.0)
        name = self.spec.input_name
        write_planes(self.input, self._shared[name], self._layouts[name], self._scales.get(name))
        try:
            module.submit(None)
        except EngineError:
            self._forget_task()
            raise
        self._late = True
        self._wait(module, TASK_TIMEOUT_S)
        for name, planes in self.outputs.items():
            read_planes(self._shared[name], planes, self._layouts[name], self._scales.get(name))

    def close(self) -> None:
        """Unload the module and free NvSci's buffers, in this order.

        Where a task does not end in TASK_TIMEOUT_S, that is left to the next engine on the core:
        the DLA would write into memory of others.
        """
        if self._late and not self._ends_within(TASK_TIMEOUT_S):
            _log.error("%s on %s hangs: its memory is kept", self.file.path.name, self.device)
            _hung.append(self)
            return
        super().close()
        self._shared.clear()
        nvsci, self._nvsci = self._nvsci, None
        if nvsci is not None:
            self._forget_task()
            nvsci.close()

    def _ends_within(self, seconds: float) -> bool:
        """Whether the task that was submitted last has ended, failed or not, in some seconds."""
        if self._late and self._module is not None:
            with contextlib.suppress(EngineError):
                self._wait(self._module, seconds)
        return not self._late

    def _wait(self, module: DlaModule, seconds: float) -> None:
        """Wait for the task that was submitted last, and raise what it failed with."""
        assert self._signal is not None
        try:
            self._signal.wait(seconds)
        except EngineError as error:
            module.raise_failure()  # what the DLA says of it tells more
            raise EngineError(
                f"{self.file.path.name} on {self.device}: {error.found}",
                expected=f"the task's end within {TASK_TIMEOUT_S:g} s",
                fix=(error.fix, f", or {_HYBRID}") if error.fix else _HYBRID,
            ) from error
        self._late = False
        module.raise_failure()

    def _forget_task(self) -> None:
        if self._signal is not None:
            self._signal.clear()

    def _allocate(self, library: Cudla, module: DlaModule) -> None:
        nvsci = self._nvsci = NvSci()
        addresses = []
        names = (*module.input_names, *module.output_names)
        for name, descriptor in zip(names, (*module.inputs, *module.outputs), strict=True):
            buffer, raw = nvsci.new_buffer(int(descriptor.size))
            addresses.append(module.import_memory(buffer, int(descriptor.size)))
            layout = self._layouts[name]
            self._shared[name] = raw.view(layout.dtype).reshape(layout.buffer_shape)
        self._signal = nvsci.new_signal(
            lambda attributes: library.call(
                "cudlaGetNvSciSyncAttributes",
                attributes,
                NvSciSyncAttributes.SIGNAL,
                what="how cuDLA signals",
                fix=_HYBRID,
            )
        )
        events = self._signal.events(module.import_semaphore(self._signal.semaphore))
        count = len(module.inputs)
        module.prepare(addresses[:count], addresses[count:], events)


#: Engines that were to be closed while their task had not ended.
_hung: list[CudlaStandaloneEngine] = []


def _close_hung(device: Device) -> None:
    """Close what is left on a core.

    Raises:
        EngineError: a task has not ended yet. What is submitted would wait for it.
    """
    for engine in [engine for engine in _hung if engine.device == device]:
        if not engine._ends_within(0.0):
            raise EngineError(
                f"{device} works on a task of {engine.file.path.name} that was given up",
                expected="a core that works",
                fix=f"wait, or {RESTART}",
            )
        _hung.remove(engine)
        engine.close()


def write_planes(
    planes: npt.NDArray[np.float32],
    buffer: npt.NDArray[Any],
    layout: TensorLayout,
    scale: float | None,
) -> None:
    """Write float32 (N, C, H, W) into a buffer of a DLA format, int8 by its scale.

    Quantised as TensorRT does: rounded half to even, saturated to -128..127.
    """
    channels = planes.shape[1]
    values = planes
    if buffer.dtype == np.int8:
        values = np.rint(planes / np.float32(scale or 1.0)).clip(-128, 127)
    target = layout.view(buffer)
    if layout.format == "dla_hwc4":
        target[..., :channels] = values.transpose(0, 2, 3, 1)
    elif layout.format in ("linear", "dla_linear"):
        target[...] = values
    else:
        size = target.shape[-1]
        for channel in range(channels):
            target[:, channel // size, :, :, channel % size] = values[:, channel]


def read_planes(
    buffer: npt.NDArray[Any],
    planes: npt.NDArray[np.float32],
    layout: TensorLayout,
    scale: float | None,
) -> None:
    """Read a buffer of a DLA format into float32 (N, C, H, W), int8 by its scale."""
    source = layout.view(buffer)
    if layout.format in ("linear", "dla_linear"):
        planes[...] = source
    else:
        n, groups, h, w, size = source.shape
        flat = source.transpose(0, 1, 4, 2, 3).reshape(n, groups * size, h, w)
        planes[...] = flat[:, : planes.shape[1]]
    if buffer.dtype == np.int8:
        planes *= np.float32(scale or 1.0)
