# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Output: what a command shows. Tables and texts, progress bars, and the document of --json."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from yolox_trt.cli.table import fill, table_text
from yolox_trt.core.limits import printable
from yolox_trt.core.output_paths import json_text, write_json

STANDARD_OUTPUT = "-"
_COLOURS = {"red": "31", "green": "32", "yellow": "33", "dim": "2"}
#: Columns of the mark before an item.
_MARK = 4
#: Width of what goes to a file or a pipe: nothing is broken there.
_UNLIMITED = 1_000_000
#: Between two lines of progress in a log.
_SECONDS_BETWEEN_LINES = 10.0


class Output:
    """Shows a command's results.

    Args:
        json: where its document goes: a file, STANDARD_OUTPUT (which then shows nothing else), or
            None for nowhere.
    """

    def __init__(self, json: Path | str | None = None) -> None:
        self._json = json

    @property
    def silent(self) -> bool:
        """Whether the standard output is for the JSON document alone."""
        return self._json == STANDARD_OUTPUT

    @property
    def wants_json(self) -> bool:
        """Whether json() goes anywhere."""
        return self._json is not None

    @property
    def width(self) -> int:
        """Columns of the terminal; as good as unlimited where there is none."""
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNLIMITED

    def table(self, title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table; see table_text."""
        if not self.silent:
            print(table_text(title, headings, rows, self.width) + "\n", flush=True)

    @contextlib.contextmanager
    def live(self) -> Iterator[Callable[[str, Sequence[str], Sequence[Sequence[object]]], None]]:
        """Show a table, redrawn in a terminal at each call of what it yields (as `table`).

        What is not a terminal, and the terminal when the block ends, gets the last one alone.
        """
        last: tuple[str, Sequence[str], Sequence[Sequence[object]]] | None = None
        with contextlib.ExitStack() as stack:
            screen: Any = None
            if sys.stdout.isatty() and not self.silent:
                from rich.live import Live

                screen = stack.enter_context(Live(auto_refresh=False, transient=True))

            def show(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
                nonlocal last
                last = title, headings, rows
                if screen is not None:
                    from rich.text import Text

                    text = table_text(title, headings, rows, self.width)
                    screen.update(Text(text), refresh=True)

            yield show
        if last is not None:
            self.table(*last)

    def print(self, text: str, *, colour: str = "") -> None:
        """Print a line; in a terminal it is broken between words, and coloured if asked for."""
        if self.silent:
            return
        text = "\n".join(
            line for part in text.split("\n") for line in fill(printable(part), self.width)
        )
        print(self._coloured(text, colour), flush=True)

    def item(self, mark: str, text: str, colour: str = "") -> None:
        """Print a text behind a short mark; broken lines begin below the text."""
        if self.silent:
            return
        head, *rest = fill(printable(text), max(self.width - _MARK - 2, 20))
        mark = f"{mark:<{_MARK}}"
        print(
            "\n".join(
                [
                    f"{self._coloured(mark, colour)}  {head}",
                    *(" " * (_MARK + 2) + line for line in rest),
                ]
            ),
            flush=True,
        )

    @staticmethod
    def _coloured(text: str, colour: str) -> str:
        if colour and sys.stdout.isatty() and "NO_COLOR" not in os.environ:
            return f"\033[{_COLOURS[colour]}m{text}\033[0m"
        return text

    def json(self, document: Any) -> None:
        """Write the document to where --json asks for it; see json_text for what it may hold."""
        if self._json == STANDARD_OUTPUT:
            print(json_text(document), end="", flush=True)
        elif self._json is not None:
            write_json(Path(self._json), document)
            self.print(f"Wrote {self._json}")

    @contextlib.contextmanager
    def progress(self, per_second: float = 10.0) -> Iterator[Progress]:
        """Show bars on stderr while the block runs; where that is no terminal, a line at times.

        Args:
            per_second: how often they are drawn, which takes milliseconds of this process.
        """
        progress = Progress(per_second)
        try:
            yield progress
        finally:
            progress.stop()


class Progress:
    """Bars that show how far a command is; call it with how far each part of the work is."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._last_line = time.monotonic()
        #: Part of the work -> when it was first told of, and how much was done then.
        self._begun: dict[str, tuple[float, float]] = {}

    def __call__(self, what: str, done: float, total: float | None = None, note: str = "") -> None:
        """Show one part of the work, as core.progress.Progress; a new name begins a new bar."""
        share = f"{100 * done / total:.0f} %" if total else f"{done:g}"
        if not sys.stderr.isatty():
            now = time.monotonic()
            began, before = self._begun.setdefault(what, (now, done))
            if now - self._last_line > _SECONDS_BETWEEN_LINES:
                self._last_line = now
                if total and done > before:
                    share += f", {(now - began) * (total - done) / (done - before):.0f} s left"
                print(f"{what}: {share} {note}".rstrip(), file=sys.stderr, flush=True)
            return
        if self._bars is None:  # not before: an empty bar leaves a blank line before an error
            self._bars = _make_bars(self._per_second)
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(
                what, total=total or None, share=share, note=note
            )
        self._bars.update(
            self._tasks[what], completed=done, total=total or None, share=share, note=note
        )

    def stop(self) -> None:
        """Remove the bars."""
        if self._bars is not None:
            self._bars.stop()


def _make_bars(per_second: float) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[share]:>5}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=per_second,
    )
