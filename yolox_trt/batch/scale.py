# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Scale: how many frames a second a cluster of any size works on, and what it waits for.

Each frame passes through five places, and the slowest of them sets the rate:

    read      the recordings' storage, shared by all machines
    network   of each machine: the recording in and, where decoders are apart, pixels out and in
    decode    cores of each machine
    detect    GPUs, or cores, of each machine
    write     the one process that takes all results and writes them

All but `read` and `write` grow with the machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from yolox_trt.core.option import OptionGroup, option

#: GB are 1e9 bytes, and a link's Gbit/s 1e9 bits a second.
_GIGA = 1e9


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(OptionGroup):
    """Figures of one machine and one frame; the defaults are those measured in docs/scale.md."""

    machines: Sequence[int] = option(
        [1, 2, 4, 10, 100, 1000], minimum=1, metavar="N", help="Number of machines."
    )
    cores: int = option(16, minimum=1, help="Cores of a machine that decode or detect.")
    gpus: int = option(0, minimum=0, help="GPUs of a machine; 0: its cores detect.")
    decode_ms: float = option(
        18.0, above=0.0, unit="ms", help="Time of a core to read and decode a frame."
    )
    detect_ms: float = option(
        67.0, above=0.0, unit="ms", help="Time of a GPU, or of a core without one, for a frame."
    )
    frame_kb: float = option(
        283.0, above=0.0, unit="kB", help="A frame in the recording, compressed or not."
    )
    store_kb: float = option(
        0.0,
        minimum=0.0,
        unit="kB",
        help="A frame in Ray's store: its pixels with --decoders.",
    )
    remote: float = option(
        1.0,
        minimum=0.0,
        maximum=1.0,
        help="Share of the frames whose decoder is on another machine than the detector.",
    )
    result_kb: float = option(0.6, minimum=0.0, unit="kB", help="A frame's detections in Parquet.")
    link: float = option(10.0, above=0.0, unit="Gbit/s", help="Network of a machine.")
    storage: float = option(
        100.0, above=0.0, unit="Gbit/s", help="What the storage gives to all machines together."
    )
    write_us: float = option(
        25.0, above=0.0, unit="us", help="Time of the writing process for a frame."
    )


@dataclass(frozen=True)
class Rate:
    """A cluster's rate.

    Attributes:
        machines: how many.
        frames: a second.
        limit: the place that sets it.
        efficiency: of as many times what one machine does.
    """

    machines: int
    frames: float
    limit: str
    efficiency: float


def rates(options: ScaleOptions) -> list[Rate]:
    """Return the rate for each number of machines."""
    one, _ = _rate(1, options)
    found = []
    for machines in options.machines:
        frames, limit = _rate(machines, options)
        found.append(Rate(machines, frames, limit, frames / (one * machines)))
    return found


def _rate(machines: int, options: ScaleOptions) -> tuple[float, str]:
    decode, detect = options.decode_ms / 1e3, options.detect_ms / 1e3
    out = options.store_kb * options.remote if machines > 1 else 0.0
    kilobytes = options.frame_kb + 2 * out + options.result_kb
    limits = {
        "read": options.storage * _GIGA / 8 / (options.frame_kb * 1e3),
        "network": machines * options.link * _GIGA / 8 / (kilobytes * 1e3),
        "write": 1e6 / options.write_us,
    }
    if options.gpus:
        limits["decode"] = machines * options.cores / decode
        limits["detect"] = machines * options.gpus / detect
    else:  # the same cores do both
        limits["decode and detect"] = machines * options.cores / (decode + detect)
    limit = min(limits, key=limits.__getitem__)
    return limits[limit], limit
