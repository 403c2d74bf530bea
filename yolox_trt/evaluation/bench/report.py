# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Report: what a benchmark found, as tables and as a document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        headings: of the columns.
        rows: cells, as many in each row as there are headings.
        title: line above it; may be empty.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""

    @classmethod
    def of(
        cls, columns: Mapping[str, str], figures: Iterable[Mapping[str, Any]], title: str = ""
    ) -> Table:
        """Make a table of figures.

        Args:
            columns: heading -> format of its cells, such as "{p50_ms:.2f}".
            figures: a mapping for each row.
            title: line above it.
        """
        rows = [[cell.format(**each) for cell in columns.values()] for each in figures]
        return cls(tuple(columns), rows, title)


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Attributes:
        document: all figures, of which a JSON document can be made.
        tables: the figures to be read.
        notes: lines below the tables: the machine, and how the figures are meant.
        failed: whether something did not work that should have.
    """

    document: Any
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    failed: bool = False
