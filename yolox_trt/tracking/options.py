# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Options of tracking. Imports nothing slow or optional."""

from __future__ import annotations

from dataclasses import dataclass

from yolox_trt.core.option import OptionGroup, option

#: Values of the option `tracking`.
TRACKERS = ("none", "bytetrack")


@dataclass(frozen=True, kw_only=True)
class TrackingOptions(OptionGroup):
    """Whether and how detections get ids that they keep from image to image."""

    tracking: str = option(
        "none", choices=TRACKERS, help="What gives the detections of a camera their track ids."
    )
    track_score: float = option(
        0.4,
        minimum=0.0,
        maximum=1.0,
        help="Least score of a detection that begins a track. Those below it only carry on tracks "
        "that there are.",
    )
    track_seconds: float = option(
        1.0,
        above=0.0,
        maximum=60.0,
        unit="s",
        help="How long an object may be unseen and keep its id. A longer gap between two images, "
        "or a stamp that goes back, ends all tracks.",
    )
