# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for CuPy's allocations and CUDA IPC over memfds, across processes as well.

`log` tells what was allocated, opened, closed and freed in this process, in this order.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

BUS_ID = "0000:03:00.0"

log: list[str] = []
#: The device that is current, the innermost last, and (function, the current device) of calls.
devices = [0]
calls: list[tuple[str, int]] = []
#: Allocations: address -> (memfd, bytes).
by_address: dict[int, tuple[int, int]] = {}
_opened: dict[int, tuple[mmap.mmap, np.ndarray]] = {}


class CUDARuntimeError(RuntimeError):
    """What CuPy raises; `status` is CUDA's number."""

    def __init__(self, text: str, status: int = 801) -> None:
        super().__init__(text)
        self.status = status


class _Device:
    pci_bus_id = BUS_ID

    def __init__(self, index: int = 0) -> None:
        self.id = index

    def __enter__(self) -> _Device:
        devices.append(self.id)
        return self

    def __exit__(self, *_: object) -> None:
        devices.pop()


class _Stream:
    def __init__(self, non_blocking: bool = False) -> None:
        self.ptr = 0

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None: ...

    def synchronize(self) -> None: ...


def _map(fd: int, size: int) -> tuple[mmap.mmap, np.ndarray]:
    memory = mmap.mmap(fd, size)
    return memory, np.frombuffer(memory, np.uint8)


class Memory:
    """An allocation."""

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("stand-in", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self.size, self._map = size, _map(self.fd, size)
        self.ptr = self._map[1].ctypes.data
        by_address[self.ptr] = self.fd, size
        log.append("malloc")

    def __del__(self) -> None:
        os.close(self.fd)
        del by_address[self.ptr]
        log.append("free")


class _Unowned:
    def __init__(self, ptr: int, size: int, owner: Any, device_id: int) -> None:
        self.ptr, self.size, self.owner = ptr, size, owner


class _Pointer:
    def __init__(self, mem: Any, offset: int) -> None:
        self.mem, self.ptr = mem, mem.ptr + offset

    def copy_from_device_async(self, source: Any, size: int, stream: Any) -> None:
        assert size <= self.mem.size
        ctypes.memmove(self.ptr, source.ptr, size)


class _Array(np.ndarray):
    device = _Device()
    pointer: Any = None

    def __array_finalize__(self, other: Any) -> None:
        self.pointer = getattr(other, "pointer", None)

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": "|u1", "data": (self.ctypes.data, False)}

    def get(self) -> np.ndarray:
        return np.array(self)


def _array(shape: tuple[int, ...], dtype: Any, pointer: _Pointer) -> _Array:
    size = int(np.prod(shape))
    buffer = (ctypes.c_uint8 * size).from_address(pointer.ptr)
    array = np.frombuffer(buffer, dtype).reshape(shape).view(_Array)
    array.pointer = pointer
    return array


def asarray(values: Any) -> _Array:
    """Return a copy as this stand-in's array."""
    return np.array(values).view(_Array)


def _get_handle(address: int) -> bytes:
    fd, size = by_address[address]
    return f"{os.getpid()} {fd} {size}".encode().ljust(64, b"\0")


def _open_handle(handle: bytes) -> int:
    assert len(handle) == 64
    pid, fd, size = map(int, handle.rstrip(b"\0").split())
    try:
        own = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR)
    except OSError as error:
        raise CUDARuntimeError(f"cudaErrorInvalidValue: {error}", 1) from error
    mapped = _map(own, size)
    os.close(own)
    address = int(mapped[1].ctypes.data)
    _opened[address] = mapped
    log.append("open")
    return address


def _close_handle(address: int) -> None:
    del _opened[address]
    log.append("close")
    calls.append(("close", devices[-1]))


def make_cupy() -> Any:
    """Return the module."""
    module: Any = ModuleType("cupy")
    module.ndarray, module.asarray, module.ascontiguousarray = _array, asarray, asarray
    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=lambda: 1,
        hostRegister=lambda *_: calls.append(("pin", devices[-1])),
        hostUnregister=lambda *_: calls.append(("unpin", devices[-1])),
        ipcGetMemHandle=_get_handle,
        ipcOpenMemHandle=_open_handle,
        ipcCloseMemHandle=_close_handle,
    )
    module.cuda = SimpleNamespace(
        Device=_Device,
        Stream=_Stream,
        get_current_stream=_Stream,
        Memory=Memory,
        UnownedMemory=_Unowned,
        MemoryPointer=_Pointer,
        runtime=runtime,
    )
    return module
