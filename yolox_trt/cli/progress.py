# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A progress bar with the time left, on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from yolox_trt.core.optional import require

Item = TypeVar("Item")


def track(
    items: Iterable[Item], *, total: int | None, description: str, show: bool = True
) -> Iterator[Item]:
    """Yield the items and show how far it is.

    Args:
        items: what is worked on.
        total: their number; None where it is unknown.
        description: what is done, as a participle.
        show: False for no bar at all.
    """
    if not show:
        yield from items
        return
    console_module = require("rich.console")
    progress_module = require("rich.progress")
    columns = (
        progress_module.TextColumn("{task.description}"),
        progress_module.BarColumn(),
        progress_module.MofNCompleteColumn(),
        progress_module.TimeElapsedColumn(),
        progress_module.TimeRemainingColumn(),
    )
    console = console_module.Console(stderr=True)
    with progress_module.Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(items, total=total, description=description)
