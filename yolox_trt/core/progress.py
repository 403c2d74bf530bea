# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Progress: how long work tells whoever waits for it how far it is."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """What work calls, and a progress bar is."""

    def __call__(self, what: str, done: float, total: float | None = None, note: str = "") -> None:
        """Tell how far one part of the work is.

        Args:
            what: what is being done.
            done: how much of it is done.
            total: how much there is; None where that is not known.
            note: a short text on its present state.
        """


def no_progress(what: str, done: float, total: float | None = None, note: str = "") -> None:
    """Show nothing."""


def track(what: str, items: Iterable[Item], on_progress: Progress) -> Iterator[Item]:
    """Yield the items, and tell of each one that is done."""
    total = operator.length_hint(items) or None
    for done, item in enumerate(items, start=1):
        yield item
        on_progress(what, done, total)
