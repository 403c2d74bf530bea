# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What processes take of a machine: CPU time, memory, GPU memory, power."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil


def gpu_total(field: str) -> float:
    """Return the sum over all GPUs of a figure of `nvidia-smi --query-gpu`; NaN without one."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return float("nan")
    query = [command, f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    try:
        return sum(map(float, answer.stdout.split()))
    except ValueError:  # [N/A]
        return float("nan")


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Return the CPU seconds that processes have taken so far, those of the kernel included."""
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))


def with_children(pids: Sequence[int]) -> list[psutil.Process]:
    """Return processes, and those that they have started."""
    mains = [psutil.Process(pid) for pid in pids]
    return [each for main in mains for each in (main, *main.children(recursive=True))]


class ResourceMeter:
    """Measures all processes of one run; made before they start."""

    def __init__(self) -> None:
        self._gpu_before = gpu_total("memory.used")

    def measure(self, pids: Sequence[int], wait: Callable[[], Any]) -> dict[str, float]:
        """Measure while a call runs.

        Args:
            pids: of the processes; those that they have started count, too.
            wait: lasts as long as the measurement.

        Returns:
            cpu_percent of one core, rss_mb and pss_mb (memory that processes share counts once) at
            the end, gpu_mb more than before they started, watts of all GPUs.
        """
        processes = with_children(pids)
        begin, before = time.monotonic(), cpu_seconds(processes)
        wait()
        share = (cpu_seconds(processes) - before) / (time.monotonic() - begin)
        memory = [process.memory_full_info() for process in processes]
        return {
            "cpu_percent": 100.0 * share,
            "rss_mb": sum(each.rss for each in memory) / 1e6,
            "pss_mb": sum(each.pss for each in memory) / 1e6,
            "gpu_mb": gpu_total("memory.used") - self._gpu_before,
            "watts": gpu_total("power.draw"),
        }
