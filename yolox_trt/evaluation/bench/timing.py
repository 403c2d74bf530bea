# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Wall-clock times on the host, their percentiles, and the machine that they were measured on."""

from __future__ import annotations

import gc
import importlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def median_time(call: Callable[[int], Any], repeats: int, *, warmup: int = 0) -> float:
    """Return the median seconds of call(0), call(1), ...; the first `warmup` do not count."""
    times = []
    for i in range(warmup + repeats):
        start = time.perf_counter()
        call(i)
        times.append(time.perf_counter() - start)
    return statistics.median(times[warmup:])


def alternating_times(
    calls: Sequence[Callable[[], Any]], seconds: float, *, before: Callable[[], None]
) -> list[float]:
    """Return the median seconds of each call; they take turns, so that a busy moment hits all.

    Args:
        calls: what is measured.
        seconds: for all of them together.
        before: called before each one, and not measured.
    """
    for _ in range(3):
        before()
        for call in calls:
            call()
    times: list[list[float]] = [[] for _ in calls]
    enabled = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times[0]) < 5:
            for call, found in zip(calls, times, strict=True):
                before()
                start = time.perf_counter()
                call()
                found.append(time.perf_counter() - start)
    finally:
        if enabled:
            gc.enable()
    return [statistics.median(found) for found in times]


def percentiles(values: npt.ArrayLike, *which: float) -> list[float]:
    """Return percentiles of values, NaN where there are none."""
    array = np.asarray(values, np.float64)
    return np.percentile(array, which).tolist() if array.size else [float("nan")] * len(which)


def describe_machine(*modules: str) -> str:
    """Return CPU, cores, and the versions of Python and of modules that matter to the figures."""
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [f"{name} {importlib.import_module(name).__version__}" for name in modules]
    return ", ".join([cpu, f"{cores} cores", f"Python {platform.python_version()}", *found])
