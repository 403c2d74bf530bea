# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels compiled by g++ and run on the host, behind CuPy's interface.

`install(monkeypatch)` makes the wrappers in yolox_trt.kernels.cuda use them: the wrappers' own
code (grids, structs, buffers) and the kernels' own code run, only the device is missing.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from yolox_trt.kernels.cuda import module

HERE = Path(__file__).parent
# A folder of another user could not be written to.
_BUILD = Path(tempfile.gettempdir()) / f"yolox_trt_cuda_host_{os.getuid()}"


class HostArray(np.ndarray):
    """A NumPy array with the attributes of a cupy.ndarray that the wrappers use."""

    device = SimpleNamespace(id=0)

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


def host_array(values: Any, dtype: Any = None) -> HostArray:
    """Copy values into a HostArray."""
    return allocated(np.array(values, dtype).view(HostArray))


#: Arrays that stand for allocations, while they live: a copy must stay within one.
_allocations: list[weakref.ref[np.ndarray]] = []


def allocated(array: Any) -> Any:
    """Return an array of memory that copies on the device may not leave from now on."""
    _allocations[:] = [each for each in _allocations if each() is not None]
    _allocations.append(weakref.ref(array))
    return array


def allocation_end(address: int) -> int:
    """Stand for cuda_driver.allocation_end: where the allocation ends that an address is in."""
    for each in _allocations:
        array = each()
        if array is not None and 0 <= address - array.ctypes.data < array.nbytes:
            return int(array.ctypes.data + array.nbytes)
    raise AssertionError(f"{address:#x} lies in no allocation")


class _Kernel:
    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: Any) -> None:
        def triple(values: tuple[int, ...]) -> Any:
            return (ctypes.c_uint * 3)(*values, *([1] * (3 - len(values))))

        self._function(triple(grid), triple(block), *map(_convert, arguments))


def _convert(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    return {
        np.uint64: lambda: ctypes.c_void_p(int(value)),
        np.int32: lambda: ctypes.c_int(int(value)),
        np.float32: lambda: ctypes.c_float(float(value)),
    }[type(value)]()


class HostModule:
    """Stands for cupy.RawModule."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))

    def get_function(self, name: str) -> _Kernel:
        return _Kernel(getattr(self.library, f"run_{name}"))


def load(name: str, *, fmad: bool = True, **macros: int) -> HostModule:
    """Stand for module.load: compile by g++, once for each state of the sources."""
    options = [f"-D{key}={value}" for key, value in sorted(macros.items())]
    sources = module.files(name)
    sources += [HERE / "host_shim.hpp", HERE / f"host_{name}.cpp"]
    digest = hashlib.sha256(" ".join(options).encode())
    for path in sources:
        digest.update(path.read_bytes())
    library = _BUILD / f"{name}-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        _BUILD.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_BUILD) as folder:
            built = Path(folder) / "built.so"
            command = ["g++", "-std=c++17", "-O0", "-ffp-contract=off", "-shared", "-fPIC"]
            command += ["-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function"]
            command += ["-Wno-unused-variable", "-Wno-maybe-uninitialized"]
            command += [f"-I{module.SOURCES}", *options, str(sources[-1]), "-o", str(built)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            built.replace(library)
    return HostModule(library)


def reverse_order(loaded: HostModule, reverse: bool) -> None:
    """Run the threads of a block from the last to the first."""
    loaded.library.set_order(int(reverse))


def install(
    monkeypatch: pytest.MonkeyPatch, *, reverse: bool = False, capability: int = 80
) -> None:
    """Let the wrappers run on the host for the rest of a test; skip it without g++.

    `capability` chooses the code that a device of that compute capability runs.
    """
    if shutil.which("g++") is None:
        pytest.skip("no g++: the kernels' code cannot be run on the host")

    def load_in_order(name: str, **options: Any) -> HostModule:
        loaded = load(name, **options)
        reverse_order(loaded, reverse)
        return loaded

    def empty(shape: Any, dtype: Any) -> HostArray:
        # Poison: what a kernel does not write, a test must see.
        array = np.empty(shape, dtype).view(HostArray)
        array.view(np.uint8).fill(0xCD)
        return allocated(array)

    fake_cupy = make_cupy(empty)
    monkeypatch.setattr(module, "load", load_in_order)
    properties = module.DeviceProperties(capability, l2_bytes=1 << 20)
    monkeypatch.setattr(module, "device", lambda: properties)
    for user in (
        "yolox_trt.kernels.cuda.masks",
        "yolox_trt.kernels.cuda.postprocess",
        "yolox_trt.detectors.cuda",
        "yolox_trt.detectors.device_memory",
        "yolox_trt.detectors.host_decode",
        "yolox_trt.detectors.staging",
    ):
        monkeypatch.setattr(f"{user}.require", lambda *_, **__: fake_cupy)


class CUDARuntimeError(RuntimeError):
    """Stands for cupy.cuda.runtime.CUDARuntimeError, which is made of CUDA's code too."""

    def __init__(self, status: int) -> None:
        super().__init__(f"CUDA error {status}")
        self.status = status


class OutOfMemoryError(MemoryError):
    """Stands for cupy.cuda.memory.OutOfMemoryError."""


#: cudaMemcpyKind.
_TO_DEVICE, _TO_HOST, _DEFAULT = 1, 2, 4


class _Context:
    id = 0
    ptr = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        self.attributes = {"MultiProcessorCount": 4, "Integrated": 0}

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _nothing(self, *_: Any) -> None:
        pass

    synchronize = record = wait_event = use = _nothing

    def is_capturing(self) -> bool:
        return False


def _memcpy(target: int, source: int, size: int, direction: int, _stream: int) -> None:
    on_device = {_TO_DEVICE: (target,), _TO_HOST: (source,), _DEFAULT: (target, source)}
    for address in on_device[direction]:
        room = allocation_end(address) - address
        assert size <= room, f"a copy of {size} bytes where the allocation ends after {room}"
    ctypes.memmove(target, source, size)


def make_cupy(empty: Any) -> Any:
    """Return what the wrappers and CudaDetector use of cupy; everything is done at once."""
    runtime = SimpleNamespace(
        memcpyAsync=_memcpy,
        memcpyHostToDevice=_TO_DEVICE,
        memcpyDeviceToHost=_TO_HOST,
        memcpyDefault=_DEFAULT,
        pointerGetAttributes=lambda _: SimpleNamespace(type=0),
        CUDARuntimeError=CUDARuntimeError,
    )
    return SimpleNamespace(
        asarray=lambda values: values if isinstance(values, HostArray) else host_array(values),
        ndarray=HostArray,
        zeros=lambda shape, dtype: allocated(np.zeros(shape, dtype).view(HostArray)),
        empty=empty,
        cuda=SimpleNamespace(
            Device=_Context,
            Stream=_Context,
            Event=_Context,
            get_current_stream=_Context,
            runtime=runtime,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            alloc_pinned_memory=lambda size: allocated(np.full(size, 0xCD, np.uint8)),
            get_elapsed_time=lambda *_: 1.0,
        ),
    )
