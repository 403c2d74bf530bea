# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Tables as text: every cell is whole, at any width.

Where the columns do not fit side by side, long texts are broken between words; where that does not
suffice either, each row becomes a block of its own.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from itertools import zip_longest

from yolox_trt.core.limits import printable

_GAP = "  "
#: A cell up to this width is not broken (a number with its unit, a size); a heading may be.
_WHOLE = 16


def table_text(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[object]], width: int
) -> str:
    """Lay a table out.

    Args:
        title: line above it; "" for none.
        headings: of the columns; empty for a table of names (first column) and values.
        rows: cells, as many in each row as there are headings.
        width: columns of the terminal.

    Returns:
        The lines, joined; the last one has no newline.
    """
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    heads = [printable(heading) for heading in headings]
    columns = list(zip(*([heads] if heads else []), *cells, strict=True))
    widths = _widths(columns, len(heads[:1]), width)
    lines = fill(printable(title), width) if title else []
    if widths is None:
        lines += [line for row in cells for line in _block(heads, row, width)]
        return "\n".join(lines)
    right = [bool(heads) and _is_numeric([row[k] for row in cells]) for k in range(len(columns))]
    for number, row in enumerate([*([heads] if heads else []), *cells]):
        lines += _lines(row, widths, right)
        if heads and number == 0:
            lines.append(_GAP.join("-" * each for each in widths))
    return "\n".join(lines)


def fill(text: str, width: int, indent: str = "") -> list[str]:
    """Break a text between words; a word longer than the line stays whole."""
    return textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [""]


def _widths(columns: Sequence[Sequence[str]], heads: int, width: int) -> list[int] | None:
    """Return the width of each column, or None where they do not fit side by side.

    Args:
        columns: texts of each column; the first `heads` of them are headings.
        heads: 0 or 1.
        width: of all together.
    """
    natural = [max(map(_length, column), default=0) for column in columns]
    least = [
        max(
            max(map(_longest_word, column), default=0),
            min(max(map(_length, column[heads:]), default=0), _WHOLE),
        )
        for column in columns
    ]
    spare = width - len(_GAP) * (len(columns) - 1) - sum(least)
    if spare < 0:
        return None
    # The columns that lack the least are made whole first.
    order = sorted(range(len(columns)), key=lambda k: natural[k] - least[k])
    for place, k in enumerate(order):
        more = min(natural[k] - least[k], spare // (len(order) - place))
        least[k] += more
        spare -= more
    return least


def _lines(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    parts = [fill(cell, max(each, 1)) for cell, each in zip(row, widths, strict=True)]
    lines = []
    for texts in zip_longest(*parts, fillvalue=""):
        padded = (
            " " * (each - _length(text)) + text if flush else text + " " * (each - _length(text))
            for text, each, flush in zip(texts, widths, right, strict=True)
        )
        lines.append(_GAP.join(padded).rstrip())
    return lines


def _block(heads: Sequence[str], row: Sequence[str], width: int) -> list[str]:
    """Return a row as its first cell and, below it, the others with their headings."""
    lines, line = fill(row[0], width), "   "
    for name, value in zip(heads[1:] or [""] * len(row[1:]), row[1:], strict=True):
        if not value:
            continue
        pair = f"{name}: {value};" if name else value
        if line.strip() and _length(line) + 1 + _length(pair) > width:
            lines.append(line)
            line = "   "
        line += f" {pair}"
        if _length(line) > width:
            *whole, line = fill(line, width, "        ")
            lines += [f"    {whole[0].lstrip()}", *whole[1:]] if whole else []
    if line.strip():
        lines.append(line)
    return [text.rstrip(";") if text is lines[-1] else text for text in lines]


def _is_numeric(cells: Sequence[str]) -> bool:
    texts = [text for text in cells if text not in ("", "-", "none")]
    return bool(texts) and all(text.lstrip("+-")[:1].isdigit() for text in texts)


def _longest_word(text: str) -> int:
    return max(map(_length, text.split()), default=0)


def _length(text: str) -> int:
    """Return the columns that a text takes in a terminal: two for each wide character."""
    return len(text) + sum(unicodedata.east_asian_width(c) in "WF" for c in text)
