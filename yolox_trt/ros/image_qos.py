# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Quality of service of a camera's subscription, and what its loss events count."""

from __future__ import annotations

from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def image_qos(reliable: bool, depth: int) -> QoSProfile:
    """Return the profile of the parameters qos_reliability and qos_depth."""
    return QoSProfile(
        depth=depth,
        history=HistoryPolicy.KEEP_LAST,
        durability=DurabilityPolicy.VOLATILE,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
    )


#: Fast DDS 3.2 follows the report of a lost image by a second one with this count, which no image
#: belongs to (seen with images larger than a segment and best-effort reliability).
_NO_COUNT = 2**31 - 1


def lost_images(event: Any) -> int:
    """Return how many images a message-lost event of rclpy stands for."""
    change = int(event.total_count_change)
    return change if 0 < change < _NO_COUNT else 0
