# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Options of the dashboard. Imports no ROS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yolox_trt.core.option import OptionGroup, option, path_option

#: Hosts that only this computer reaches.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class DashboardOptions(OptionGroup):
    """Where the page is served, and how much of the images it shows."""

    host: str = option(
        "127.0.0.1",
        help="Address to listen at; for one that others reach, the page asks for a token.",
    )
    port: int = option(8080, minimum=0, maximum=65535, help="Port; 0 for any that is free.")
    rate: float = option(
        10.0, above=0.0, maximum=60.0, unit="Hz", help="Images a second of a camera, at most."
    )
    width: int = option(
        640, minimum=64, maximum=3840, unit="pixels", help="Columns of an image, at most."
    )
    bag: Path | None = path_option(
        metavar="BAG",
        help="Play this bag, in rounds, and detect in it: no other process is needed.",
    )
