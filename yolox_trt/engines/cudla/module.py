# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DlaModule: a loadable on a DLA core, with its registered memory and its task."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from typing import Any

from yolox_trt.core.errors import EngineError, YoloxTrtError
from yolox_trt.core.faults import EngineFileError
from yolox_trt.engines.cudla.abi import (
    AccessPermissionFlags,
    DevAttribute,
    DevAttributeType,
    ExternalMemoryHandleDesc,
    ExternalSemaphoreHandleDesc,
    Mode,
    ModuleAttribute,
    ModuleAttributeType,
    ModuleTensorDescriptor,
    SignalEvents,
    Status,
    Task,
)
from yolox_trt.engines.cudla.library import Cudla, cudla_fault, load_cudla, status_name
from yolox_trt.engines.cudla.loadable import Loadable

_log = logging.getLogger("yolox_trt.cudla")

#: Seconds after which a task is given up: hundreds of times what a YOLOX takes.
TASK_TIMEOUT_S = 5.0

#: What mends a core that fails.
RESTART = "restart the process; see dmesg for nvdla"


def read_versions(core: int) -> dict[str, Any]:
    """Return the versions of cuDLA and of a core's hardware, for a loadable's sidecar.

    Returns:
        "cudla" and "dla"; without what this machine does not tell.
    """
    versions: dict[str, Any] = {}
    try:
        library = load_cudla()
        versions["cudla"] = library.version
        versions["dla"] = read_hardware_version(library, core)
    except YoloxTrtError as error:
        _log.info("the sidecar does not tell all versions: %s", error)
    return versions


def read_hardware_version(library: Cudla, core: int, mode: Mode = Mode.CUDA_DLA) -> int:
    """Return CUDLA_DEVICE_VERSION of a core: cuDLA's header says 1.0 for Xavier, 2.0 for Orin.

    Raises:
        DeviceError: there is no such core.
        EngineError: cuDLA fails.
    """
    library.check_core(core)
    device, what = ctypes.c_void_p(), f"the version of dla{core}"
    library.call("cudlaCreateDevice", core, ctypes.byref(device), mode, what=what)
    try:
        return _hardware_version(library, device, what)
    finally:
        library.call("cudlaDestroyDevice", device, what=what)


def _hardware_version(library: Cudla, device: ctypes.c_void_p, what: str) -> int:
    found, wanted = DevAttribute(), DevAttributeType.DEVICE_VERSION
    library.call("cudlaDeviceGetAttribute", device, wanted, ctypes.byref(found), what=what)
    return int(found.deviceVersion)


class DlaModule:
    """A loadable, loaded and checked. A device handle of cuDLA takes one.

    Args:
        library: cuDLA.
        core: number of the DLA core.
        mode: hybrid or standalone.
        loadable: what is to be loaded; its file holds the data.

    Attributes:
        hardware_version: CUDLA_DEVICE_VERSION of the core.
        inputs, outputs: cuDLA's descriptors.
        input_names, output_names: theirs, as in the sidecar.

    Raises:
        DeviceError: there is no such core.
        EngineFileError: cuDLA refuses it, or it is not what its sidecar says.
        EngineError: cuDLA fails otherwise.
        OutOfMemoryError: see core.faults.
    """

    def __init__(self, library: Cudla, core: int, mode: Mode, loadable: Loadable) -> None:
        self._library = library
        self._name = f"{loadable.file.path.name} on dla{core}"
        self._device = ctypes.c_void_p()
        self._module = ctypes.c_void_p()
        self._registered: list[int] = []
        self._task = Task()
        self._keep: list[Any] = []  # what the task points to
        library.check_core(core)
        try:
            self._call("cudlaCreateDevice", core, ctypes.byref(self._device), mode)
            self.hardware_version = _hardware_version(library, self._device, self._name)
            loadable.check_versions(library.version, self.hardware_version)
            self._load(loadable)
            self.inputs = self._describe(
                ModuleAttributeType.NUM_INPUT_TENSORS, ModuleAttributeType.INPUT_TENSOR_DESCRIPTORS
            )
            self.outputs = self._describe(
                ModuleAttributeType.NUM_OUTPUT_TENSORS,
                ModuleAttributeType.OUTPUT_TENSOR_DESCRIPTORS,
            )
            self.input_names = loadable.match(self.inputs, [loadable.input_name])
            self.output_names = loadable.match(self.outputs, loadable.file.spec.tensor_names)
            if "cudlaSetTaskTimeoutInMs" in library:
                # A task that hangs fails then, and does not hold its stream for ever.
                self._call("cudlaSetTaskTimeoutInMs", int(TASK_TIMEOUT_S * 1000))
        except Exception:
            self.close()
            raise

    # ---- memory

    def register(self, address: int, size: int) -> int:
        """Register CUDA memory (hybrid); return the address that a task takes.

        Raises:
            EngineError, OutOfMemoryError: cuDLA refuses it.
        """
        mapped = ctypes.c_void_p()
        self._call("cudlaMemRegister", address, size, ctypes.byref(mapped), 0)
        return self._remember(mapped)

    def import_memory(self, buffer: int, size: int) -> int:
        """Import an NvSciBufObj (standalone); return the address that a task takes.

        Raises:
            EngineError, OutOfMemoryError: cuDLA refuses it.
        """
        mapped = ctypes.c_void_p()
        description = ExternalMemoryHandleDesc(buffer, size)
        self._call(
            "cudlaImportExternalMemory",
            ctypes.byref(description),
            ctypes.byref(mapped),
            AccessPermissionFlags.READ_WRITE_PERM,
        )
        return self._remember(mapped)

    def import_semaphore(self, semaphore: int) -> int:
        """Import an NvSciSyncObj (standalone); return the address that signal events take.

        Raises:
            EngineError, OutOfMemoryError: cuDLA refuses it.
        """
        mapped = ctypes.c_void_p()
        description = ExternalSemaphoreHandleDesc(semaphore)
        self._call(
            "cudlaImportExternalSemaphore",
            ctypes.byref(description),
            ctypes.byref(mapped),
            0,
        )
        return self._remember(mapped)

    # ---- tasks

    def prepare(
        self, inputs: Sequence[int], outputs: Sequence[int], signal: SignalEvents | None = None
    ) -> None:
        """Make the task that submit() runs: nothing is allocated for a frame.

        Args:
            inputs: registered addresses, in the order of `inputs`.
            outputs: likewise.
            signal: what the end of the task signals (standalone).
        """
        arrays = [(ctypes.c_void_p * len(each))(*each) for each in (inputs, outputs)]
        pointer = ctypes.POINTER(ctypes.c_void_p)
        self._keep = [*arrays, signal]
        self._task = Task(
            moduleHandle=self._module,
            inputTensor=ctypes.cast(arrays[0], pointer),
            numInputTensors=len(inputs),
            outputTensor=ctypes.cast(arrays[1], pointer),
            numOutputTensors=len(outputs),
            signalEvents=ctypes.pointer(signal) if signal is not None else None,
        )

    def submit(self, stream: int | None) -> None:
        """Submit the task to the core.

        Args:
            stream: the CUDA stream's address (hybrid), None in standalone mode.

        Raises:
            EngineError, OutOfMemoryError: cuDLA refuses it, or a task before it failed.
        """
        self._call("cudlaSubmitTask", ctypes.byref(self._task), 1, stream, 0)

    def raise_failure(self) -> None:
        """Raise what the last task that has ended failed with; nothing if it did not.

        Raises:
            EngineError, OutOfMemoryError: see above.
        """
        status = self._library.status("cudlaGetLastError", self._device)
        if status != Status.Success:
            raise cudla_fault(
                status, f"a task of {self._name}", expected="the network to run", fix=RESTART
            )

    def close(self) -> None:
        """Unregister the memory, unload the module and give the core back, in this order.

        No task may be under way. What fails is logged: the device may be lost.
        """
        self._task, self._keep = Task(), []
        while self._registered:
            self._release("cudlaMemUnregister", self._device, self._registered.pop())
        if self._module:
            self._release("cudlaModuleUnload", self._module, 0)
            self._module = ctypes.c_void_p()
        if self._device:
            self._release("cudlaDestroyDevice", self._device)
            self._device = ctypes.c_void_p()

    # ---- parts

    def _call(self, name: str, *arguments: Any) -> None:
        first = () if name == "cudlaCreateDevice" else (self._device,)
        self._library.call(name, *first, *arguments, what=self._name, fix=RESTART)

    def _release(self, name: str, *arguments: Any) -> None:
        status = self._library.status(name, *arguments)
        if status != Status.Success:
            _log.warning("%s: %s returned %s while closing", self._name, name, status_name(status))

    def _remember(self, mapped: ctypes.c_void_p) -> int:
        address = mapped.value or 0
        self._registered.append(address)
        return address

    def _load(self, loadable: Loadable) -> None:
        data = loadable.file.data
        try:
            self._call("cudlaModuleLoadFromMemory", data, len(data), ctypes.byref(self._module), 0)
        except EngineError as error:
            if isinstance(error, MemoryError):
                raise
            raise EngineFileError(
                f"{error.found}: cuDLA does not load {loadable.file.path}, built with "
                f"{loadable.describe_versions()}",
                expected=f"a loadable for cuDLA {self._library.version} and DLA hardware "
                f"{self.hardware_version}, which this machine has",
                fix=loadable.rebuild,
            ) from error

    def _describe(
        self, count: ModuleAttributeType, descriptors: ModuleAttributeType
    ) -> list[ModuleTensorDescriptor]:
        found = ModuleAttribute()
        call, what = self._library.call, self._name
        call("cudlaModuleGetAttributes", self._module, count, ctypes.byref(found), what=what)
        array = (ModuleTensorDescriptor * found.numInputTensors)()
        found.inputTensorDesc = array
        call("cudlaModuleGetAttributes", self._module, descriptors, ctypes.byref(found), what=what)
        return list(array)
