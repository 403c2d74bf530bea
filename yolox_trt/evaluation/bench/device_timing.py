# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Timing on a CUDA device: graph replays between events, and the device's copy bandwidth."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from yolox_trt.core.optional import require

_LOGGER = logging.getLogger(__name__)


def device_time(
    enqueue: Callable[[int], None], count: int = 1, *, replays: int = 20, stream: Any = None
) -> float:
    """Return the device time of one enqueue(i), in seconds.

    `count` calls, i = 0 to count - 1, are captured into a CUDA graph, so that the host's launch
    times do not show; the median of `replays` replays is divided by `count`. Calls that cannot be
    captured are logged, and timed as they are.

    Args:
        enqueue: puts work on the current stream.
        count: calls of one replay.
        replays: replays of which the median is taken.
        stream: the stream, which is current meanwhile; None for one of its own.
    """
    cupy = require("cupy", purpose="timing on the GPU")
    cupy.cuda.get_current_stream().synchronize()  # what the calls read may still be on its way
    stream = stream or cupy.cuda.Stream(non_blocking=True)

    def enqueue_all() -> None:
        for i in range(count):
            enqueue(i)

    launch: Callable[[], Any] = enqueue_all
    with stream:
        enqueue(0)
        stream.synchronize()
        stream.begin_capture()
        try:
            enqueue_all()
        finally:
            try:
                launch = partial(stream.end_capture().launch, stream)
            except Exception as error:
                _LOGGER.warning("timed without a graph: %s", error)
        for _ in range(3):
            launch()
        return statistics.median(between_events(launch, stream) for _ in range(replays)) / count


def between_events(enqueue: Callable[[], Any], stream: Any) -> float:
    """Return the device time of what enqueue() puts on a stream, in seconds."""
    cupy = require("cupy")
    before, after = cupy.cuda.Event(), cupy.cuda.Event()
    before.record(stream)
    enqueue()
    after.record(stream)
    after.synchronize()
    return float(cupy.cuda.get_elapsed_time(before, after)) * 1e-3


def copy_bandwidth(size: int = 1 << 31) -> float:
    """Return bytes read plus bytes written a second of a device-to-device copy of `size` bytes."""
    cupy = require("cupy")
    source = cupy.ones(size // 4, cupy.float32)
    target = cupy.empty_like(source)
    stream = cupy.cuda.get_current_stream()

    def copy() -> None:
        cupy.cuda.runtime.memcpyAsync(
            target.data.ptr,
            source.data.ptr,
            size,
            cupy.cuda.runtime.memcpyDeviceToDevice,
            stream.ptr,
        )

    times = [between_events(copy, stream) for _ in range(12)]
    return 2 * size / statistics.median(times[2:])


_STREAM = r"""
extern "C" __global__ void stream(const uint4* source, uint4* target, int read, int written) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const uint4 value = i < read ? source[i] : make_uint4(i, i, i, i);
  if (i < written) target[i] = value;
  else if (value.x == 0x9e3779b9u && value.y == value.z) target[0] = value;  // keeps the load
}
"""


def streaming_time(sources: Sequence[Any], written: int) -> float:
    """Return the device time of a kernel that reads one buffer and writes another, in seconds.

    That is what any kernel of this traffic takes at least in one launch: in contrast to
    `copy_bandwidth`, the launch, the first bytes' latency and the last ones' are in it.

    Args:
        sources: cupy arrays of one size, read in turn; the same buffer is written each time.
        written: bytes that are written.
    """
    cupy = require("cupy")
    kernel = cupy.RawKernel(_STREAM, "stream")
    target = cupy.empty(written, cupy.uint8)
    read = sources[0].nbytes // 16
    blocks = -(-max(read, written // 16) // 256)

    def enqueue(i: int) -> None:
        arguments = (sources[i], target, np.int32(read), np.int32(written // 16))
        kernel((blocks,), (256,), arguments)

    return device_time(enqueue, len(sources))


def describe_device() -> str:
    """Return the GPU's name, driver and CuPy's version."""
    cupy = require("cupy")
    runtime = cupy.cuda.runtime
    name = runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    driver, cuda = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    return f"{name}, CUDA driver API {driver}, runtime {cuda}, CuPy {cupy.__version__}"
