# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A GPU's memory that somebody else writes: another process by CUDA IPC, or whoever lends some.

The process that reads allocates, and the one that writes opens the allocation. The other way round
the end of the writer, which may come at any time, would take away what kernels here are reading:
CUDA says nothing of what happens then.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from yolox_trt.core.device import Device
from yolox_trt.core.errors import DeviceError, MissingDependencyError
from yolox_trt.core.faults import library_fault
from yolox_trt.core.frame import Frame
from yolox_trt.core.optional import require

_PURPOSE = "images from another process in a GPU's memory"
#: A handle stands for all of a block of this size, of which smaller allocations get parts.
_BLOCK = 2 << 20


def lent_array(address: int, shape: tuple[int, ...], *, device: int, owner: Any) -> Any:
    """Return an array over a GPU's memory that belongs to somebody else.

    Args:
        address: of its first byte, on the device.
        shape: of the array; its rows lie one after the other.
        device: CUDA device ordinal.
        owner: is held as long as the array, or a view on it, is.

    Returns:
        A uint8 cupy.ndarray, for Frame.on_device.
    """
    cupy = require("cupy", purpose=_PURPOSE)
    size = 1
    for length in shape:
        size *= length
    memory = cupy.cuda.UnownedMemory(address, size, owner, device)
    return cupy.ndarray(shape, "u1", cupy.cuda.MemoryPointer(memory, 0))


def return_freed_device_memory(devices: Iterable[Device]) -> None:
    """Hand back what CuPy's pools keep of detectors that are gone; nothing without CuPy.

    To be called when no call is under way: CUDA waits for the GPU before it frees memory.

    Args:
        devices: those that the detectors were on.
    """
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return
    with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):  # the device may be lost
        for index in {device.cuda_index for device in devices if device.is_cuda}:
            with cupy.cuda.Device(index):
                cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()


_of_thread = threading.local()


def in_order(frame: Frame) -> Frame:
    """Return a frame that may be read on any thread and stream, behind the work that writes it.

    Its `ready` is True, or an event of the calling thread's current stream (CuPy's, or that of the
    library whose array it is, by DLPack). What is complete costs nothing.
    """
    if frame.device_array is None or frame.ready is not False:
        return frame
    array = frame.device_array
    if not hasattr(array, "__dlpack__"):  # Numba's: CuPy waits for the interface's stream itself
        return frame
    try:
        cupy = require("cupy", purpose=_PURPOSE)
    except MissingDependencyError:  # torch alone: no detector reads the array where it lies
        return frame.on_host()
    device = int(array.__dlpack_device__()[1])
    with cupy.cuda.Device(device):
        event = cupy.cuda.Event(disable_timing=True)
        if isinstance(array, cupy.ndarray):
            # Its __dlpack__ takes the current stream for the one that writes.
            event.record(cupy.cuda.get_current_stream())
            return replace(frame, ready=event)
        # Others are asked for their stream by one that then waits for it: one for each thread, so
        # that no camera waits for another's work.
        streams = _of_thread.__dict__.setdefault("streams", {})
        if device not in streams:
            streams[device] = cupy.cuda.Stream(non_blocking=True)
        with streams[device] as stream:
            array = cupy.from_dlpack(array)
            event.record(stream)
    return replace(frame, device_array=array, ready=event)


def bus_id(device: int) -> str:
    """Return a GPU's PCI bus id, by which every process knows it; ordinals may differ."""
    cupy = require("cupy", purpose=_PURPOSE)
    return str(cupy.cuda.Device(device).pci_bus_id)


def device_at(wanted: str) -> int:
    """Return the CUDA device ordinal of a PCI bus id.

    Raises:
        DeviceError: this process sees no such GPU.
    """
    cupy = require("cupy", purpose=_PURPOSE)
    try:
        found = [bus_id(index) for index in range(cupy.cuda.runtime.getDeviceCount())]
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise library_fault(error, "no GPU can be used") from error
    if wanted not in found:
        raise DeviceError(
            f"the GPU {wanted}, which this process does not see", expected=" or ".join(found)
        )
    return found.index(wanted)


class ExportedMemory:
    """Memory of this process that another one writes; it is freed with this object.

    It must stay until the other process has closed it, or has ended.

    Args:
        size: in bytes; rounded up to blocks of 2 MB.
        device: CUDA device ordinal.

    Attributes:
        address: of its first byte.
        device: CUDA device ordinal.
        handle: what ImportedMemory opens it by, 64 bytes.

    Raises:
        OutOfMemoryError, EngineError: there is no room, or the platform has no CUDA IPC.
    """

    def __init__(self, size: int, device: int) -> None:
        cupy = require("cupy", purpose=_PURPOSE)
        self.device = device
        try:
            with cupy.cuda.Device(device):
                # By cudaMalloc: CuPy's pool gives parts of allocations.
                self._memory = cupy.cuda.Memory(-(-size // _BLOCK) * _BLOCK)
                self.address = int(self._memory.ptr)
                self.handle = bytes(cupy.cuda.runtime.ipcGetMemHandle(self.address))
        except Exception as error:
            raise library_fault(error, "a GPU's memory cannot be shared (CUDA IPC)") from error


class ImportedMemory:
    """Memory of another process, for writing.

    Args:
        handle: of an ExportedMemory.
        device: CUDA device ordinal, here, of the GPU that it lies on.

    Raises:
        EngineError: it cannot be opened, as between containers with separate IPC namespaces.
    """

    def __init__(self, handle: bytes, device: int) -> None:
        self._cupy = cupy = require("cupy", purpose=_PURPOSE)
        self._device = device
        self._address = 0
        try:
            with cupy.cuda.Device(device):
                self._stream = cupy.cuda.Stream(non_blocking=True)
                self._address = int(cupy.cuda.runtime.ipcOpenMemHandle(handle))
        except Exception as error:
            raise library_fault(error, "a GPU's memory cannot be opened (CUDA IPC)") from error

    def write(self, offset: int, array: Any) -> None:
        """Copy an array that is complete; the bytes have arrived when this returns.

        Args:
            offset: where to, in bytes.
            array: uint8 cupy.ndarray on the same GPU.

        Raises:
            EngineError: CUDA cannot copy it.
        """
        cuda = self._cupy.cuda
        try:
            with cuda.Device(self._device), self._stream:
                source = self._cupy.ascontiguousarray(array)
                memory = cuda.UnownedMemory(
                    self._address + offset, source.nbytes, self, self._device
                )
                target = cuda.MemoryPointer(memory, 0)
                target.copy_from_device_async(source.data, source.nbytes, self._stream)
                self._stream.synchronize()
        except Exception as error:
            raise library_fault(error, "an image cannot be copied on the GPU") from error

    def close(self) -> None:
        """Close it; the memory stays with the other process."""
        address, self._address = self._address, 0
        if address:
            cuda = self._cupy.cuda
            with contextlib.suppress(cuda.runtime.CUDARuntimeError), cuda.Device(self._device):
                cuda.runtime.ipcCloseMemHandle(address)
