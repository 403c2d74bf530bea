# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""OtherPrograms: what the rest of the computer takes of its cores during a measurement."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path

_STAT = Path("/proc/stat")
#: Of the figures of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal. What follows
#: is in the first two already.
_FIGURES, _IDLE = 8, (3, 4)


class OtherPrograms:
    """Processor time of other programs (and of other virtual machines) since this was made.

    A child process counts as this program's own from its end on, when it has been waited for.
    """

    def __init__(self) -> None:
        self._begin = _seconds()

    @property
    def share(self) -> float:
        """Their share of all cores so far, 0 to 1; NaN where the system does not tell."""
        total, others = (now - then for now, then in zip(_seconds(), self._begin, strict=True))
        return max(0.0, others / total) if total > 0.0 else math.nan


def _seconds() -> tuple[float, float]:
    """Return the seconds of all cores together, and those that other programs have worked."""
    try:
        words = _STAT.read_text().partition("\n")[0].split()
        figures = [int(words[1 + index]) for index in range(_FIGURES)]
    except (OSError, ValueError, IndexError):  # not on every platform, nor in every container
        return math.nan, math.nan
    tick = os.sysconf("SC_CLK_TCK")
    total, idle = sum(figures) / tick, sum(figures[i] for i in _IDLE) / tick
    own = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        own += usage.ru_utime + usage.ru_stime
    return total, total - idle - own
