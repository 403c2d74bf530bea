# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Faults: what went wrong at run time, as types that the executor acts on.

Engines, detectors and factories raise them. Where they catch an exception of CUDA, ONNX Runtime or
TensorRT, they raise what `library_fault` makes of it, `from` that exception: only there are the
library's types and codes known. Nobody else looks into the text of an error.

    try:
        session.run_with_iobinding(binding)
    except Exception as error:
        raise library_fault(error, "ONNX Runtime failed", fix="check the model") from error

An EngineError of no class below says that a call failed: its device is restarted.
"""

from __future__ import annotations

import re

from yolox_trt.core.errors import EngineError, Message


class OutOfMemoryError(EngineError, MemoryError):
    """Memory of the host or the device is full; a smaller batch may fit."""


class DeviceBrokenError(EngineError):
    """The CUDA context is broken: every further CUDA call of this process fails too."""


class DeviceBusyError(EngineError):
    """A detector takes no further call before those under way are collected; nothing is lost."""


class EngineFileError(EngineError):
    """The runtime refuses an engine file, or it is not what its sidecar says: to be built again.

    A device that fails or hangs says nothing against the file.
    """


class HungError(EngineError):
    """A call or a restart has not returned in time. The executor's watchdog makes it."""


_CUDA_OUT_OF_MEMORY = 2
#: CUDA's errors after which the process must be restarted (CUDA Runtime API, "Data types used by
#: CUDA Runtime", cudaError): the runtime's code, which is the driver's too, and CUDA's text for it.
_CUDA_BROKEN = {
    214: "uncorrectable ECC error encountered",
    700: "an illegal memory access was encountered",
    702: "the launch timed out and was terminated",
    710: "device-side assert triggered",
    714: "hardware stack error",
    715: "an illegal instruction was encountered",
    716: "misaligned address",
    717: "operation not supported on global/shared address space",
    718: "invalid program counter",
    719: "unspecified launch failure",
}
_OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "outofmemory",  # TensorRT
    "failed to allocate memory",  # ONNX Runtime's arena; below, where the arena has a limit
    "is smaller than requested bytes",
    "bad_alloc",  # C++
    "can't allocate memory",  # PyTorch on the CPU
)


def library_fault(
    error: BaseException | str,
    what: str,
    *,
    expected: Message = "",
    fix: Message = "",
    otherwise: type[EngineError] = EngineError,
) -> EngineError:
    """Return the fault that an error of CUDA, ONNX Runtime or TensorRT stands for.

    Args:
        error: the library's exception, or its message where it reports in words alone.
        what: what failed, as a short clause; the error's text is appended.
        expected: what was expected, for a fault that is none of the classes of this module.
        fix: what mends such a fault.
        otherwise: the class of such a fault.

    Returns:
        An OutOfMemoryError, a DeviceBrokenError or, for all else, one of `otherwise`.
    """
    found = f"{what}: {error}"
    kind = _kind_of(error)
    if kind is OutOfMemoryError:
        return OutOfMemoryError(
            found,
            expected="free memory",
            fix="set a smaller max_batch, or run fewer engines on this device",
        )
    if kind is DeviceBrokenError:
        return DeviceBrokenError(
            found, expected="a working CUDA context", fix="restart the process"
        )
    return otherwise(found, expected=expected, fix=fix)


def _kind_of(error: BaseException | str) -> type[EngineError]:
    if isinstance(error, MemoryError):  # CuPy's OutOfMemoryError and NumPy's are MemoryErrors
        return OutOfMemoryError
    text = str(error).lower()
    code = getattr(error, "status", None)  # CuPy's CUDARuntimeError and CUDADriverError
    if code is None and (match := re.search(r"cuda failure (\d+)", text)):  # ONNX Runtime
        code = int(match[1])
    if code is not None:
        if code == _CUDA_OUT_OF_MEMORY:
            return OutOfMemoryError
        return DeviceBrokenError if code in _CUDA_BROKEN else EngineError
    # TensorRT and ONNX Runtime give neither types nor codes for these, but CUDA's own words.
    if any(words in text for words in _OUT_OF_MEMORY_TEXTS):
        return OutOfMemoryError
    if any(words.lower() in text for words in _CUDA_BROKEN.values()):
        return DeviceBrokenError
    return EngineError
