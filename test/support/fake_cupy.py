# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for cupy over numpy: arrays with an address, streams and devices that do nothing."""

from __future__ import annotations

import itertools
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

_addresses = itertools.count(4711)


class _Array(np.ndarray):
    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


class _Device:
    stack: list[int]

    def __init__(self, index: int = 0) -> None:
        self.index = index

    def __enter__(self) -> _Device:
        self.stack.append(self.index)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.pop()

    def synchronize(self) -> None:
        raise AssertionError("others' work on the device may hang, or a graph be captured")


class Stream:
    """A stream; `fails` is what synchronize() raises, `waits` how often it was called."""

    def __init__(self, non_blocking: bool = False) -> None:
        self.ptr = next(_addresses)
        self.fails: Exception | None = None
        self.waits = 0

    def synchronize(self) -> None:
        self.waits += 1
        if self.fails is not None:
            raise self.fails


def make_cupy() -> Any:
    """Return the module; `allocations` counts its arrays, `devices` is the stack of current ones.

    `streams` and `allocated_on` hold the device that was the current one when a stream or an array
    was made.
    """
    module: Any = ModuleType("cupy")
    module.allocations = 0
    module.allocated_on = []
    module.devices = [0]
    module.streams = []
    device = type("Device", (_Device,), {"stack": module.devices})

    def stream(**options: Any) -> Stream:
        module.streams.append(module.devices[-1])
        return Stream(**options)

    def zeros(shape: Any, dtype: Any) -> Any:
        module.allocations += 1
        module.allocated_on.append(module.devices[-1])
        return np.zeros(shape, dtype).view(_Array)

    current = Stream()
    module.zeros = module.empty = zeros
    module.cuda = SimpleNamespace(Device=device, Stream=stream, get_current_stream=lambda: current)
    return module
