# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that decide how fast large images arrive: Fast DDS's shared memory, and malloc's.

Measured figures are in docs/ros.md; `yolox_trt bench ros-transport` measures them again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from yolox_trt.core.memory import MALLOC_SETTINGS
from yolox_trt.core.shipped_files import shared_folder

#: Environment variables that name a profile. Fast DDS 2 (Humble, Jazzy) reads the second one only;
#: from Fast DDS 3 (Kilted) on, the first one is read, and the second one with a warning.
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")

#: Values of ROS_DISTRO with Fast DDS 2.
_FAST_DDS_2 = ("foxy", "galactic", "humble", "iron", "jazzy")

#: segment_size of config/fastdds_shm.xml.
SEGMENT_BYTES = 64 << 20


def profile_path() -> Path:
    """Return the shipped Fast DDS profile."""
    return shared_folder("config") / "fastdds_shm.xml"


def _variables_read(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the PROFILE_VARIABLES that this distribution's Fast DDS reads, the best one first."""
    return (
        PROFILE_VARIABLES[1:] if environment.get("ROS_DISTRO") in _FAST_DDS_2 else PROFILE_VARIABLES
    )


def transport_settings(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that a process with large images needs and its environment lacks.

    Args:
        environment: os.environ by default.
    """
    present = os.environ if environment is None else environment
    settings = {name: value for name, value in MALLOC_SETTINGS.items() if name not in present}
    variables = _variables_read(present)
    if not any(present.get(name) for name in variables):
        # A profile of the user's own under a name that this Fast DDS does not read is theirs still.
        own = [present[name] for name in PROFILE_VARIABLES if present.get(name)]
        settings[variables[0]] = own[0] if own else str(profile_path())
    return settings


def transport_environment() -> dict[str, str]:
    """Return os.environ with the profile and the malloc settings; what it sets stays."""
    return {**os.environ, **transport_settings()}


def transport_warning() -> str:
    """Return what is missing for large images to arrive quickly, "" where nothing is."""
    implementation = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    if "fastrtps" not in implementation:
        return ""
    variables = _variables_read(os.environ)
    if any(os.environ.get(name) for name in variables):
        return _shared_memory_warning()
    ignored = "".join(
        f" ({name} is set, but Fast DDS of ROS 2 {os.environ['ROS_DISTRO']} does not read it)"
        for name in PROFILE_VARIABLES
        if name not in variables and os.environ.get(name)
    )
    return (
        "Fast DDS runs with its default 512 kB shared-memory segment: large images arrive late and "
        f"few{ignored}. Start through the launch file or `yolox_trt up`, or set "
        f"{variables[0]}={profile_path()} here and for the camera drivers"
    )


def _shared_memory_warning() -> str:
    """Return what is wrong with /dev/shm, where the segments lie; containers often have 64 MB."""
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return ""
    if free >= SEGMENT_BYTES:
        return ""
    return (
        f"/dev/shm has {free >> 20} MB left, and each process that sends images takes "
        f"{SEGMENT_BYTES >> 20} MB of it: images go over UDP instead. Make it larger (docker run "
        "--shm-size=1g, or --ipc=host)"
    )
