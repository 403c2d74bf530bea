# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""SchedulerOptions: batching, watchdogs and restarts."""

from __future__ import annotations

from dataclasses import dataclass

from yolox_trt.core.option import OptionGroup, option


@dataclass(frozen=True, kw_only=True)
class SchedulerOptions(OptionGroup):
    """Times of batching, watchdogs and restarts."""

    batch_window: float = option(
        0.0,
        minimum=0.0,
        maximum=60.0,
        unit="s",
        help="How long a run waits for further images of its batch.",
    )
    starvation_limit: float = option(
        1.0,
        above=0.0,
        unit="s",
        help="A stream that has waited longer for service goes before every priority.",
    )
    watchdog: float = option(
        5.0,
        minimum=0.0,
        maximum=3600.0,
        unit="s",
        help="A device that has not answered for this long is taken out of service and tried "
        "again later; 0 for never.",
    )
    watchdog_factor: float = option(
        20.0,
        above=0.0,
        help="A call may take this many times as long as at the device's warm-up before it counts "
        "as hung, where that is longer than `watchdog`.",
    )
    slow_factor: float = option(
        5.0,
        minimum=1.0,
        help="A device whose calls take this many times as long as at its warm-up, on average, is "
        "reported as slow.",
    )
    callback_limit: float = option(
        5.0,
        minimum=0.0,
        maximum=3600.0,
        unit="s",
        help="A callback that has not returned for this long holds up its own stream alone: the "
        "device goes on for the others, on another thread; 0 for never.",
    )
    restart_watchdog: float = option(
        120.0,
        above=0.0,
        unit="s",
        help="A restart (loading engines, warm-up) that takes longer counts as hung.",
    )
    backoff: float = option(
        0.5,
        above=0.0,
        unit="s",
        help="Time from a failure to the first restart; it doubles with each failure in a row.",
    )
    backoff_max: float = option(30.0, above=0.0, unit="s", help="Longest time between restarts.")
    batch_recovery: float = option(
        60.0,
        above=0.0,
        unit="s",
        help="Time after which a batch that out-of-memory had halved doubles again.",
    )
