# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""NvSci: buffers that CPU and DLA share, and the signal that a task has ended."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import EngineError
from yolox_trt.engines.cudla import abi
from yolox_trt.engines.cudla.abi import (
    Fence,
    FenceType,
    NvSciAttribute,
    NvSciSyncFence,
    SignalEvents,
)
from yolox_trt.engines.cudla.library import load_functions

#: As in NVIDIA's sample cuDLAStandaloneMode.
_ALIGNMENT = 512


class NvSci:
    """NvSciBuf's and NvSciSync's functions, their modules, and what was made of them.

    Raises:
        MissingDependencyError: a library is not there.
        EngineError: NvSci fails, as it does on a Jetson whose JetPack has no NvSci driver.
    """

    def __init__(self) -> None:
        purpose = "cuDLA's standalone mode"
        self._functions = {
            **load_functions("nvscibuf", abi.NVSCIBUF_FUNCTIONS, purpose=purpose),
            **load_functions("nvscisync", abi.NVSCISYNC_FUNCTIONS, purpose=purpose),
        }
        for name in abi.NVSCI_VOID:
            self._functions[name].restype = None
        # (function that frees it, handle), freed from the last to the first
        self._made: list[tuple[str, int]] = []
        try:
            self._buffers = self._make("NvSciBufModuleOpen", "NvSciBufModuleClose")
            self._syncs = self._make("NvSciSyncModuleOpen", "NvSciSyncModuleClose")
        except Exception:
            self.close()
            raise

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function.

        Raises:
            EngineError: it returns an error.
        """
        status = self._functions[name](*arguments)
        if status:
            raise EngineError(
                f"{name} returned NvSciError {status:#x}",
                expected="NvSci to serve the DLA",
                fix="use cuDLA's hybrid mode, which needs no NvSci; in a container: "
                "docker run --runtime nvidia",
            )

    def new_buffer(self, size: int) -> tuple[int, npt.NDArray[np.uint8]]:
        """Return an NvSciBufObj that the CPU reads and writes, and its bytes, which are 0.

        Raises:
            EngineError: NvSci fails.
        """
        attributes = self._make("NvSciBufAttrListCreate", "NvSciBufAttrListFree", self._buffers)
        values = (
            (abi.BUF_TYPES, ctypes.c_int(abi.BUF_TYPE_RAW)),  # first: others are keys of it
            (abi.BUF_RAW_SIZE, ctypes.c_uint64(size)),
            (abi.BUF_RAW_ALIGN, ctypes.c_uint64(_ALIGNMENT)),
            (abi.BUF_NEED_CPU_ACCESS, ctypes.c_bool(True)),
            (abi.BUF_REQUIRED_PERM, ctypes.c_int(abi.BUF_READ_WRITE)),
        )
        self._set("NvSciBufAttrListSetAttrs", attributes, values)
        reconciled = self._reconcile("NvSciBuf", [attributes])
        buffer = self._make("NvSciBufObjAlloc", "NvSciBufObjFree", reconciled)
        address = ctypes.c_void_p()
        self.call("NvSciBufObjGetCpuPtr", buffer, ctypes.byref(address))
        memory = (ctypes.c_uint8 * size).from_address(address.value or 0)
        array: npt.NDArray[np.uint8] = np.ctypeslib.as_array(memory)
        array.fill(0)
        return buffer, array

    def new_signal(self, fill_signaler: Any) -> Signal:
        """Return what the CPU waits for and a task signals.

        Args:
            fill_signaler: fill_signaler(attribute list) lets cuDLA say how it signals.

        Raises:
            EngineError: NvSci or cuDLA fails.
        """
        made = ("NvSciSyncAttrListCreate", "NvSciSyncAttrListFree", self._syncs)
        signaler, waiter = self._make(*made), self._make(*made)
        fill_signaler(signaler)
        values = (
            (abi.SYNC_NEED_CPU_ACCESS, ctypes.c_bool(True)),
            (abi.SYNC_REQUIRED_PERM, ctypes.c_uint64(abi.SYNC_WAIT_ONLY)),
        )
        self._set("NvSciSyncAttrListSetAttrs", waiter, values)
        reconciled = self._reconcile("NvSciSync", [signaler, waiter])
        semaphore = self._make("NvSciSyncObjAlloc", "NvSciSyncObjFree", reconciled)
        context = self._make(
            "NvSciSyncCpuWaitContextAlloc", "NvSciSyncCpuWaitContextFree", self._syncs
        )
        return Signal(self, semaphore, context)

    def close(self) -> None:
        """Free everything, the last first."""
        while self._made:
            self.call(*self._made.pop())

    def _make(self, name: str, free: str, *arguments: Any) -> int:
        handle = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(handle))
        self._made.append((free, handle.value or 0))
        return handle.value or 0

    def _set(self, name: str, attributes: int, values: Any) -> None:
        pairs = (NvSciAttribute * len(values))()
        for pair, (key, value) in zip(pairs, values, strict=True):
            pair.key, pair.len = key, ctypes.sizeof(value)
            pair.value = ctypes.addressof(value)
        self.call(name, attributes, pairs, len(values))

    def _reconcile(self, family: str, lists: list[int]) -> int:
        array = (ctypes.c_void_p * len(lists))(*lists)
        found, conflict = ctypes.c_void_p(), ctypes.c_void_p()
        name = f"{family}AttrListReconcile"
        try:
            self.call(name, array, len(lists), ctypes.byref(found), ctypes.byref(conflict))
        finally:
            for made in (found, conflict):
                if made.value:
                    self._made.append((f"{family}AttrListFree", made.value))
        return found.value or 0


class Signal:
    """The end of a task, as the CPU waits for it.

    Attributes:
        semaphore: the NvSciSyncObj, for cuDLA.
    """

    def __init__(self, nvsci: NvSci, semaphore: int, context: int) -> None:
        self._nvsci = nvsci
        self.semaphore = semaphore
        self._context = context
        self._fence = NvSciSyncFence()
        self._keep: list[Any] = []

    def events(self, mapped: int) -> SignalEvents:
        """Return what a task takes, of the semaphore's address at cuDLA."""
        pointers = (ctypes.c_void_p * 1)(mapped)
        fences = (Fence * 1)(Fence(ctypes.addressof(self._fence), FenceType.NVSCISYNC_FENCE))
        self._keep = [pointers, fences]
        return SignalEvents(
            ctypes.cast(pointers, ctypes.POINTER(ctypes.c_void_p)),
            ctypes.cast(fences, ctypes.POINTER(Fence)),
            1,
        )

    def wait(self, seconds: float) -> None:
        """Wait for the task that was submitted last, and forget it.

        Raises:
            EngineError: it has not ended in time. It may be waited for again.
        """
        limit = int(seconds * 1e6)
        self._nvsci.call("NvSciSyncFenceWait", ctypes.byref(self._fence), self._context, limit)
        self.clear()

    def clear(self) -> None:
        """Forget a task that will not be waited for: only then may another one be submitted."""
        self._nvsci.call("NvSciSyncFenceClear", ctypes.byref(self._fence))
