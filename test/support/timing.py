# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Upper bounds of times, which a machine that stands still for a while may not spoil."""

from __future__ import annotations

import time
from collections.abc import Callable


def stopwatch(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def ever_within(limit: float, measure: Callable[[], float], attempts: int = 10) -> bool:
    """Whether seconds that are measured are fewer than `limit` in some attempt.

    A busy machine may spoil an attempt; what always takes longer can never pass.
    """
    return any(measure() < limit for _ in range(attempts))
