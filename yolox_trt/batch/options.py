# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Options of `yolox_trt batch`. Imports nothing slow or optional."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from yolox_trt.core.limits import LIMITS
from yolox_trt.core.option import Kind, OptionGroup, option

FORMATS = ("parquet", "mcap", "coco")


@dataclass(frozen=True, kw_only=True)
class SourceOptions(OptionGroup):
    """Which recordings, and how they are cut into parts."""

    topic: Sequence[str] = option(
        [], kind=Kind.STRING_ARRAY, help="Image topic of the bags (default: all)."
    )
    part_frames: int = option(
        1000,
        minimum=1,
        unit="frames",
        help="About as many frames make a part, which is written, retried and taken up again as a "
        "whole.",
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions(OptionGroup):
    """Where the work is done, and what happens to a part that fails."""

    ray: str | None = option(
        None,
        kind=Kind.STRING,
        metavar="ADDRESS",
        help="Work on Ray: local (a cluster of this machine), auto (the one that this machine "
        "belongs to), HOST:PORT or ray://HOST:PORT (default: in this process).",
    )
    workers: int | None = option(
        None,
        kind=Kind.INTEGER,
        minimum=1,
        help="Detectors on Ray (default: one a GPU of the cluster, or one a core without any). "
        "Several may share a GPU.",
    )
    readers: int | None = option(
        None,
        kind=Kind.INTEGER,
        minimum=1,
        maximum=LIMITS.threads,
        help="Threads of each detector that read and decode image files (default: 1 beside a "
        "network on the CPU, else the cores that there are for a GPU).",
    )
    decoders: int = option(
        0,
        minimum=0,
        help="Decode on so many other cores of the cluster, and hand the images over in Ray's "
        "store; 0: each worker decodes for itself.",
    )
    retries: int = option(
        2, minimum=0, help="How many times a part that fails is tried again, after all others."
    )
    price: float | None = option(
        None,
        kind=Kind.DOUBLE,
        minimum=0.0,
        metavar="PRICE",
        help="Price of a worker for an hour, for the cost of 1,000 frames.",
    )
