# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What is asked of the CUDA driver with no other package: a GPU's compute capability, a range."""

from __future__ import annotations

import ctypes
import functools

from yolox_trt.core.device import Device
from yolox_trt.core.errors import DeviceError, Message

# CUdevice_attribute values, cuda.h
_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76


def require_gpu(device: Device, *, expected: str, fix: Message) -> str:
    """Return the compute capability of a device's GPU.

    Raises:
        DeviceError: there is no such GPU.
    """
    found = compute_capability(device.cuda_index)
    if found is None:
        raise DeviceError(f"no CUDA device {device.cuda_index}", expected=expected, fix=fix)
    return found


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


def allocation_end(address: int) -> int:
    """Return where the allocation that holds a device address ends; 0 where that is not known."""
    base, size = ctypes.c_uint64(), ctypes.c_size_t()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    held = driver.cuMemGetAddressRange_v2(
        ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(address)
    )
    return base.value + size.value if held == 0 else 0
