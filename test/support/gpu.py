# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`requires_gpu`: a mark for tests that need an NVIDIA GPU and CuPy."""

from __future__ import annotations

import pytest


def _missing() -> str:
    try:
        import cupy
    except ImportError as error:
        return f"no CuPy ({error})"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA driver ({error})"
    return "" if count else "no CUDA device"


_REASON = _missing()
requires_gpu = pytest.mark.skipif(bool(_REASON), reason=f"needs an NVIDIA GPU: {_REASON}")
