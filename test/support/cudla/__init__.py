# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for libcudla and NvSci: compiled C that keeps the documented rules, and computes.

`StandIn(monkeypatch, compute)` makes the package load it. Loadables for it are made by `loadable`.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.cuda_host import HostArray

from yolox_trt.engines.cudla import library

HERE = Path(__file__).parent
_BUILD = Path(tempfile.gettempdir()) / f"yolox_trt_cudla_{os.getuid()}"
_COMPUTE = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_void_p))
#: CUDLA_DEVICE_VERSION of the stand-in.
HARDWARE = 2000
TYPES = {"float16": 2, "int8": 4}


def compile_c(name: str, *options: str) -> Path:
    """Compile a source of this folder, once for each state of it; skip without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the stand-in for libcudla cannot be made")
    sources = [HERE / name, HERE / "cudla_abi.h"]
    digest = hashlib.sha256(" ".join(options).encode())
    for source in sources:
        digest.update(source.read_bytes())
    target = _BUILD / f"{name}-{digest.hexdigest()[:16]}"
    if not target.exists():
        _BUILD.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_BUILD) as folder:
            built = Path(folder) / "built"
            command = [compiler, "-std=c11", "-D_DEFAULT_SOURCE", "-O1", "-Wall", "-pthread"]
            command += [*options, str(sources[0]), "-o", str(built)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            built.replace(target)
    return target


class Tensor(NamedTuple):
    """A tensor of a loadable, as a loadable tells it.

    `row` and `format` are cuDLA's stride[1] and dataFormat; `channels` those in memory (4 in
    dla_hwc4).
    """

    name: str
    dtype: str
    shape: tuple[int, int, int, int]
    size: int
    format: int
    row: int

    def packed(self) -> bytes:
        """Return the struct by the documented offsets, not by the package's own types."""
        n, c, h, w = self.shape
        name = self.name.encode() + b"'"  # as TensorRT ends them
        head = struct.pack("<81s7xQQQQQ", name, self.size, n, c, h, w)
        return head + struct.pack(
            "<5B3x8I", self.format, TYPES[self.dtype], 0, 0, 0, 1, self.row, *[0] * 6
        )


def loadable(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, hardware: int = HARDWARE
) -> bytes:
    """Return a loadable for the stand-in."""
    body = b"".join(tensor.packed() for tensor in (*inputs, *outputs))
    header = struct.pack(
        "<8sIIIIQ", b"STANDIN\1", hardware, len(inputs), len(outputs), 0, 32 + len(body)
    )
    return header + body


class StandIn:
    """The stand-in, loaded in the place of libcudla, libnvscibuf and libnvscisync.

    Args:
        monkeypatch: undoes it.
        compute: compute(addresses of inputs, addresses of outputs), for each task.
        counts: how many inputs and outputs the loadable has.
        delay: seconds before a task computes.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        compute: Callable[[list[int], list[int]], None],
        counts: tuple[int, int] = (1, 3),
        delay: float = 0.002,
    ) -> None:
        path = str(compile_c("standin.c", "-shared", "-fPIC"))
        self.c = ctypes.CDLL(path)
        self.c.standin_cuda_malloc.restype = ctypes.c_void_p
        self.c.standin_cuda_malloc.argtypes = (ctypes.c_size_t,)
        self.c.standin_cuda_free.argtypes = self.c.standin_wait.argtypes = (ctypes.c_void_p,)
        self.c.standin_versions.argtypes = (ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint64)
        self.errors: list[BaseException] = []

        def call(inputs: Any, outputs: Any) -> None:
            try:
                compute(list(inputs[: counts[0]]), list(outputs[: counts[1]]))
            except BaseException as error:
                self.errors.append(error)

        self._compute = _COMPUTE(call)
        self.c.standin_reset(self._compute, int(delay * 1e6))
        files = {name: (path, fix) for name, (_, fix) in library.LIBRARIES.items()}
        monkeypatch.setattr(library, "LIBRARIES", files)
        library.load_cudla.cache_clear()

    def versions(self, *, cudla: int = 1002001, hardware: int = HARDWARE, cores: int = 2) -> None:
        """Be another version, or another chip."""
        library.load_cudla.cache_clear()
        self.c.standin_versions(cudla, hardware, cores)

    def fail(self, function: str, status: int, after: int = 0) -> None:
        """Let a function fail once, after so many calls that do not."""
        self.c.standin_fail(function.encode(), int(status), after)

    def fail_task(self, status: int) -> None:
        """Let the next task fail when it runs."""
        self.c.standin_fail_task(int(status))

    def hang(self) -> None:
        """Let the next task not end: until its timeout, where it has one, or until release()."""
        self.c.standin_hang()

    def release(self) -> None:
        """Let the tasks that hang go on."""
        self.c.standin_release()

    def wait(self, stream: int | None = None) -> None:
        """Wait for the tasks of a stream, or for all."""
        self.c.standin_wait(stream)

    def check_clean(self) -> None:
        """Nothing is left over, no rule was broken, and no computation failed."""
        assert self.errors == []
        if self.c.standin_alive():
            gc.collect()  # memory goes with the last array over it
        assert (self.c.standin_alive(), self.c.standin_violations()) == (0, 0)

    def add_memory(self, cupy: Any) -> None:
        """Give a stand-in for cupy memory of its own allocation, in which arrays can be made."""
        stand_in = self

        class Memory:
            def __init__(self, size: int) -> None:
                self.ptr = stand_in.c.standin_cuda_malloc(size)
                self.size = size

            def __del__(self) -> None:
                stand_in.c.standin_cuda_free(self.ptr)

        def ndarray(shape: tuple[int, ...], dtype: Any, memory: Any) -> HostArray:
            raw = (ctypes.c_uint8 * memory.size).from_address(memory.ptr)
            raw.memory = memory  # freed with the last array over it
            array = np.frombuffer(raw, np.uint8)[: int(np.prod(shape)) * np.dtype(dtype).itemsize]
            return array.view(dtype).reshape(shape).view(HostArray)

        cupy.cuda.Memory = Memory
        cupy.cuda.MemoryPointer = lambda memory, offset: memory
        cupy.ndarray = ndarray


def array_at(address: int, layout: Any) -> np.ndarray:
    """Return the array of a TensorLayout that lies at an address."""
    size = int(np.prod(layout.buffer_shape)) * np.dtype(layout.dtype).itemsize
    raw = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(raw, layout.dtype).reshape(layout.buffer_shape)
