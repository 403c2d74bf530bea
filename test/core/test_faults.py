# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Errors of CUDA, ONNX Runtime and TensorRT as the package's faults."""

from __future__ import annotations

import pytest

from yolox_trt.core.errors import EngineError
from yolox_trt.core.faults import DeviceBrokenError, OutOfMemoryError, library_fault


class CUDARuntimeError(RuntimeError):
    """CuPy's: a code, and a text made of its name and description."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc:376 void* "
            "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory "
            "for requested buffer of size 943718400"
        ),
        RuntimeError(
            "Available memory of 1048576 is smaller than requested bytes of 943718400",
        ),
        RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; hostname=orin"),
        RuntimeError("std::bad_alloc"),
        "Error Code 2: OutOfMemory (Requested size was 6442450944 bytes.)",
        CUDARuntimeError(2, "cudaErrorMemoryAllocation: out of memory"),
        MemoryError(),
    ],
    ids=repr,
)
def test_out_of_memory(error: Exception | str) -> None:
    fault = library_fault(error, "the network failed", fix="unused")
    assert type(fault) is OutOfMemoryError
    assert isinstance(fault, MemoryError)
    assert str(error) in str(fault) and "max_batch" in fault.fix


@pytest.mark.parametrize(
    "error",
    [
        CUDARuntimeError(700, "cudaErrorIllegalAddress: an illegal memory access was encountered"),
        CUDARuntimeError(719, "cudaErrorLaunchFailure: unspecified launch failure"),
        RuntimeError("CUDA failure 716: misaligned address ; GPU=0 ; hostname=orin"),
        "Error Code 1: Cuda Runtime (an illegal memory access was encountered)",
    ],
    ids=repr,
)
def test_a_broken_context(error: Exception | str) -> None:
    fault = library_fault(error, "the network failed")
    assert type(fault) is DeviceBrokenError
    assert fault.fix == "restart the process"


@pytest.mark.parametrize(
    "error",
    [
        CUDARuntimeError(1, "cudaErrorInvalidValue: invalid argument"),
        # The code counts, whatever the text says.
        CUDARuntimeError(999, "unknown error, perhaps out of memory"),
        RuntimeError("CUDA failure 98: invalid device function ; GPU=0"),
        RuntimeError("Non-zero status code returned while running Conv node"),
    ],
    ids=repr,
)
def test_any_other_failure(error: Exception) -> None:
    fault = library_fault(error, "the network failed", expected="a run", fix="see the log")
    assert type(fault) is EngineError
    assert fault.expected == "a run" and fault.fix == "see the log"
