# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Check: one thing that was looked at, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from yolox_trt.core.errors import YoloxTrtError


class Status(Enum):
    """PASS: as it should be. NOTE: missing or slower, and the rest works. FAIL: does not work."""

    PASS = "pass"
    NOTE = "note"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
        name: what was looked at.
        status: what it means.
        found: what is there.
        fix: the command or the setting that mends it; "" where nothing is to be mended.
        must: what is found where it works; "" where the status says all.
    """

    name: str
    status: Status
    found: str
    fix: str = ""
    must: str = ""


def run(
    name: str, look: Callable[[], Iterable[Check]], on_error: Status = Status.FAIL
) -> Iterator[Check]:
    """Yield what `look` finds; an error of it is a finding too, and the other checks go on.

    Args:
        name: of the check that tells the error.
        look: looks, and returns what it found.
        on_error: what an error means.
    """
    try:
        yield from look()
    except YoloxTrtError as error:
        expected = f"; expected {error.expected}" if error.expected else ""
        yield Check(name, on_error, error.found + expected, error.fix)
    except Exception as error:  # a driver or library that is damaged
        text = " ".join(str(error).split())
        yield Check(name, on_error, f"{type(error).__name__}: {text}")
