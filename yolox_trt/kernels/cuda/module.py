# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Compilation of the .cu files by NVRTC, once for each set of macros."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from yolox_trt.core.errors import EngineError
from yolox_trt.core.optional import require

SOURCES = Path(__file__).parent


_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)


def files(name: str) -> list[Path]:
    """Return a .cu file behind the files that it includes, each once."""
    found: list[Path] = []

    def add(path: Path) -> None:
        for included in _INCLUDE.findall(path.read_text()):
            add(SOURCES / included)
        if path not in found:
            found.append(path)

    add(SOURCES / f"{name}.cu")
    return found


def source(name: str) -> str:
    """Return a .cu file's text with what it includes, as NVRTC takes it."""
    text = "\n".join(path.read_text() for path in files(name))
    return _INCLUDE.sub("", text).replace("#pragma once\n", "")


def load(name: str, *, fmad: bool = True, **macros: int) -> Any:
    """Compile and load a .cu file for the current CUDA device.

    CuPy keeps compiled code in ~/.cupy/kernel_cache (CUPY_CACHE_DIR), so that a second process
    does not compile; this function keeps the loaded module for the life of the process.

    Args:
        name: file name without `.cu`.
        fmad: whether a * b + c may be contracted into one rounding.
        macros: values of the file's macros.

    Returns:
        cupy.RawModule.

    Raises:
        MissingDependencyError: CuPy is not installed.
        EngineError: the code does not compile for this device.
    """
    cupy = require("cupy", purpose="the CUDA kernels")
    return _load(int(cupy.cuda.Device().id), name, fmad, tuple(sorted(macros.items())))


@dataclass(frozen=True)
class DeviceProperties:
    """What the wrappers need to know of a CUDA device.

    Attributes:
        capability: compute capability, for example 90 for 9.0.
        l2_bytes: size of the L2 cache.
    """

    capability: int
    l2_bytes: int


def device() -> DeviceProperties:
    """Return the properties of the current CUDA device."""
    cupy = require("cupy", purpose="the CUDA kernels")
    current = cupy.cuda.Device()
    return DeviceProperties(int(current.compute_capability), int(current.attributes["L2CacheSize"]))


@cache
def _load(device: int, name: str, fmad: bool, macros: tuple[tuple[str, int], ...]) -> Any:
    cupy = require("cupy")
    options = ["--std=c++17", f"--fmad={'true' if fmad else 'false'}"]
    options += [f"-D{key}={value}" for key, value in macros]
    module = cupy.RawModule(code=source(name), options=tuple(options), backend="nvrtc")
    try:
        module.compile()
    except cupy.cuda.compiler.CompileException as error:
        raise EngineError(
            f"{name}.cu does not compile with {options} on CUDA device {device}: {error}",
            expected="NVRTC of CUDA 11.4 or newer",
            fix="install the CuPy package that matches the installed CUDA (cupy-cuda12x, -cuda13x)",
        ) from error
    return module
