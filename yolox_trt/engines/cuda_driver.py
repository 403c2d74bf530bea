# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A GPU's name and compute capability, asked of the CUDA driver with no other package."""

from __future__ import annotations

import ctypes
import functools

# CUdevice_attribute values, cuda.h
_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76


@functools.cache
def compute_capability(index: int = 0) -> str | None:
    """Return a GPU's compute capability such as "8.7", or None where there is no such GPU.

    Args:
        index: CUDA device ordinal.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), index) != 0:
        return None
    numbers = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        value = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) != 0:
            return None
        numbers.append(value.value)
    return f"{numbers[0]}.{numbers[1]}"
