# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Page-locking of memory that this process did not allocate, so that CUDA reads it in place."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import MissingDependencyError
from yolox_trt.core.optional import require

_LOGGER = logging.getLogger(__name__)

#: cudaHostRegisterPortable: page-locked for every CUDA context of the process.
_PORTABLE = 1


def pin(memory: npt.NDArray[np.uint8], device: int) -> Callable[[], None] | None:
    """Page-lock memory; CudaDetector then uploads frames in it without a copy on the host.

    Args:
        memory: uint8 (size,), contiguous; stays mapped until it is released.
        device: CUDA device ordinal of one of those that read it: no other gets a context by this.

    Returns:
        A function that releases it again, or None where CUDA is missing or refuses (frames in it
        are then copied as any others; the reason is logged).
    """
    try:
        cupy = require("cupy", purpose="page-locked shared memory")
    except MissingDependencyError:
        return None
    runtime, on_device = cupy.cuda.runtime, cupy.cuda.Device
    address = memory.ctypes.data

    def release() -> None:
        with on_device(device):
            runtime.hostUnregister(address)

    try:
        with on_device(device):
            runtime.hostRegister(address, memory.size, _PORTABLE)
    except runtime.CUDARuntimeError as error:
        _LOGGER.warning("%d bytes could not be page-locked: %s", memory.size, error)
        return None
    return release
