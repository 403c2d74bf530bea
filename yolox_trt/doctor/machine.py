# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The machine: Python, disk, shared memory, limits, clock, the model and the caches."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from yolox_trt import __version__
from yolox_trt.core.check import Check, Status
from yolox_trt.core.files import cache_folder
from yolox_trt.core.shipped_files import default_model

#: Engines of one model for three devices and what TensorRT writes beside them while it builds.
_DISK = 2 << 30
#: A ring of each camera (ingest processes) and a segment of each process with large images.
_SHARED_MEMORY = 1 << 30
_FILES = 1024
#: Receive buffer for images that come by UDP, as ROS 2's page on DDS tuning asks for at least.
_RECEIVE_BUFFER = 8 << 20
_RECEIVE_PATH = Path("/proc/sys/net/core/rmem_max")
#: Return value of adjtimex(2): the clock is not synchronised.
_TIME_ERROR = 5
#: Room for struct timex, which has 208 bytes on 64-bit Linux.
_TIMEX_BYTES = 512


def python() -> Iterator[Check]:
    """Look at the interpreter and the package."""
    found = f"yolox_trt {__version__}, Python {platform.python_version()}"
    yield Check("software", Status.PASS, f"{found}, {platform.machine()}, {_system()}")


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def model() -> Iterator[Check]:
    """Look at the model that is used where none is named."""
    from yolox_trt.graph.spec import read_spec

    path = default_model()
    spec = read_spec(path)
    size = f"{spec.input_height}x{spec.input_width}"
    yield Check("model", Status.PASS, f"{path}: {size}, {spec.num_classes} classes")


def caches() -> Iterator[Check]:
    """Look at the folder of engines and models: who may write there, and how much room it has."""
    folder = cache_folder("engines")
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield Check(
            "cache",
            Status.FAIL,
            f"{there} cannot be written to",
            "set YOLOX_TRT_CACHE to a folder of this user's",
        )
        return
    state = there.stat()
    if folder.exists() and (state.st_uid not in (0, os.getuid()) or state.st_mode & 0o022):
        yield Check(
            "cache",
            Status.FAIL,
            f"{folder} belongs to user {state.st_uid}, mode {state.st_mode & 0o777:o}: its engines "
            "are refused",
            f"chown $USER {folder} && chmod go-w {folder}",
        )
        return
    free = shutil.disk_usage(there).free
    yield Check(
        "cache",
        Status.PASS if free >= _DISK else Status.NOTE,
        f"{folder}, {_size(free)} free",
        "" if free >= _DISK else f"free {_size(_DISK)} there, or yolox_trt cache prune",
    )


def limits() -> Iterator[Check]:
    """Look at shared memory, open files and the receive buffer of sockets."""
    memory = shutil.disk_usage("/dev/shm")
    yield Check(
        "shared memory",
        Status.PASS if memory.free >= _SHARED_MEMORY else Status.NOTE,
        f"/dev/shm: {_size(memory.free)} of {_size(memory.total)} free",
        ""
        if memory.free >= _SHARED_MEMORY
        else "docker run --shm-size=2g, or mount -o remount,size=2g /dev/shm",
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= _FILES
    yield Check(
        "open files",
        Status.PASS if enough else Status.NOTE,
        f"{soft} (at most {hard})",
        "" if enough else f"ulimit -n {_FILES}",
    )
    if _RECEIVE_PATH.is_file():
        size = int(_RECEIVE_PATH.read_text())
        yield Check(
            "socket buffers",
            Status.PASS if size >= _RECEIVE_BUFFER else Status.NOTE,
            f"net.core.rmem_max {_size(size)}"
            + ("" if size >= _RECEIVE_BUFFER else ": little for images from another computer"),
            ""
            if size >= _RECEIVE_BUFFER
            else f"for cameras on another computer: sysctl -w net.core.rmem_max={_RECEIVE_BUFFER}",
        )


def clock() -> Iterator[Check]:
    """Look at whether the clock is synchronised, which the age of images is judged by."""
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state < 0:
        yield Check("clock", Status.NOTE, "adjtimex is not permitted here")
    elif state == _TIME_ERROR:
        yield Check(
            "clock",
            Status.NOTE,
            "not synchronised: images of another computer may look too old or too new",
            "timedatectl set-ntp true, or start chrony or ptp4l",
        )
    else:
        yield Check("clock", Status.PASS, "synchronised")


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
