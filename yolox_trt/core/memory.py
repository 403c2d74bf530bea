# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What becomes of memory that was freed: kept by malloc, collected, handed back to the system.

A model's graph refers to its weights in a circle (each value knows its node, each node its values),
so they stay until Python's collector looks at its oldest generation. It does so when a quarter of
all objects are new: in a node that runs for days, many restarts of an engine later.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os

#: Bytes up to which buffers for images are kept. What is larger is rare, and is given back: one raw
#: image of 200 MB must not leave its copies behind in the middleware, in rclpy and on the heap.
KEPT_BUFFER = 64 << 20

#: glibc: take no fresh mapping for an image (it would be faulted in page by page each time), and
#: never give the heap's top back.
MALLOC_SETTINGS: dict[str, str] = {
    "MALLOC_MMAP_THRESHOLD_": str(KEPT_BUFFER),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
    "MALLOC_TOP_PAD_": str(32 << 20),
    "MALLOC_ARENA_MAX": "2",
}

# Parameters of mallopt(3), from malloc.h.
_MALLOPT = {
    "MALLOC_TRIM_THRESHOLD_": -1,
    "MALLOC_TOP_PAD_": -2,
    "MALLOC_MMAP_THRESHOLD_": -3,
    "MALLOC_ARENA_MAX": -8,
}

_in_force = False


def apply_malloc_settings() -> bool:
    """Apply the malloc settings to this process, where the environment has not done it.

    To be called before large allocations and before threads start.

    Returns:
        Whether they are in force (False without glibc).
    """
    global _in_force
    missing = [name for name in MALLOC_SETTINGS if name not in os.environ]
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # mallopt takes a C int, whose largest value stands for 2 GB.
    largest = (1 << 31) - 1
    results = [
        mallopt(_MALLOPT[name], min(int(MALLOC_SETTINGS[name]), largest)) for name in missing
    ]
    _in_force = all(result == 1 for result in results)
    return _in_force


def heap_keeps_large_blocks() -> bool:
    """Whether this process's malloc keeps what was freed, so that no pool above it is needed."""
    return _in_force


def trim_heap() -> None:
    """Hand the heap's free pages back to the operating system (glibc; elsewhere nothing)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def return_freed_memory() -> None:
    """Collect what lies about in circles, then trim the heap; for when networks were replaced.

    Networks leave holes on the heap between what lives on. Without this, resident memory grows by
    about a third over the first sixty restarts of engines before it levels off.
    """
    gc.collect()
    trim_heap()


def keep_for_good() -> None:
    """Take what exists now out of the collector's sight, to be called when a process has started.

    What was imported lives as long as the process. Left out, a full collection looks at what came
    later alone, and stops the cameras' threads for a shorter time.
    """
    gc.collect()
    gc.freeze()
