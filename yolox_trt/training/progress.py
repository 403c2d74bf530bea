# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A progress bar, or plain lines every ten seconds where there is no terminal or no rich."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any


class Progress:
    """Shows how far a run is.

    :param total: value that means done.
    """

    def __init__(self, total: float, title: str) -> None:
        self.total = total
        self.title = title
        self._last = 0.0
        self._bar: Any = None
        if sys.stderr.isatty():
            try:
                import rich.progress
            except ImportError:
                return
            self._bar = rich.progress.Progress(
                *rich.progress.Progress.get_default_columns(), "{task.fields[text]}"
            )
            self._task = self._bar.add_task(title, total=total, text="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, value: float, text: str = "") -> None:
        """Show ``value`` of the total, and a short text."""
        if self._bar is not None:
            self._bar.update(self._task, completed=value, text=text)
        elif time.monotonic() - self._last > 10:
            self._last = time.monotonic()
            print(f"{self.title}: {100 * value / self.total:.0f} % {text}", flush=True)
