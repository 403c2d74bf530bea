# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The host's stand-in for CUDA, with streams that a task of the DLA holds up.

Kernels and copies run when they are called, as in support.cuda_host; but first they wait for the
tasks of the stream that they are called on. Of a task on another stream they do not know, so that
work in the wrong order gives wrong results.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
from support import cuda_host
from support.cudla import StandIn

from yolox_trt.kernels.cuda import postprocess


def install(monkeypatch: pytest.MonkeyPatch, stand_in: StandIn) -> Any:
    """Install the host's CUDA with such streams; return its cupy."""
    cuda_host.install(monkeypatch)
    cupy = postprocess.require("cupy")
    numbers = itertools.count(1)
    of_thread = threading.local()
    emulator = threading.Lock()  # a kernel's threads are numbered by variables of the process

    def current() -> list[Any]:
        """Return the streams that this thread has entered."""
        return of_thread.__dict__.setdefault("streams", [])

    class Stream(cuda_host._Context):
        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__()
            self.ptr = next(numbers)

        def __enter__(self) -> Any:
            current().append(self)
            return self

        def __exit__(self, *_: object) -> None:
            current().pop()

        def synchronize(self, *_: Any) -> None:
            stand_in.wait(self.ptr)

    class Event(cuda_host._Context):
        stream: Any = None

        def record(self, stream: Any = None) -> None:
            self.stream = stream

        def synchronize(self, *_: Any) -> None:
            if self.stream is not None:
                self.stream.synchronize()

    class Device(cuda_host._Context):
        def synchronize(self, *_: Any) -> None:
            stand_in.wait()

    class Kernel(cuda_host._Kernel):
        def __call__(self, *arguments: Any) -> None:
            current_stream().synchronize()
            with emulator:
                super().__call__(*arguments)

    def copy(target: int, source: int, size: int, direction: int, stream: int) -> None:
        stand_in.wait(stream)
        cuda_host._memcpy(target, source, size, direction, stream)

    def current_stream() -> Stream:
        return current()[-1] if current() else default

    default = Stream()
    cupy.cuda.Stream, cupy.cuda.Event, cupy.cuda.Device = Stream, Event, Device
    cupy.cuda.get_current_stream = current_stream
    cupy.cuda.runtime.memcpyAsync = copy
    monkeypatch.setattr(cuda_host, "_Kernel", Kernel)
    monkeypatch.setattr("yolox_trt.engines.cudla.hybrid.require", lambda *_, **__: cupy)
    stand_in.add_memory(cupy)
    return cupy
