# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Tables are whole at every width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolox_trt.cli.table import table_text

CELLS = st.text("abc 0123456789.-", max_size=30)
HEADINGS = ("name", "what it does", "ms")
ROWS = [
    ("front", "a camera that looks forward over the bonnet", "12.50"),
    ("rear_left_wide_angle", "another one", "-"),
]


def test_a_wide_terminal_gets_one_line_a_row() -> None:
    assert table_text("Cameras", HEADINGS, ROWS, 200).splitlines() == [
        "Cameras",
        "name                  what it does                                    ms",
        "--------------------  -------------------------------------------  -----",
        "front                 a camera that looks forward over the bonnet  12.50",
        "rear_left_wide_angle  another one                                      -",
    ]


def test_long_texts_are_broken_between_words() -> None:
    assert table_text("", HEADINGS, ROWS, 60).splitlines() == [
        "name                  what it does                        ms",
        "--------------------  -------------------------------  -----",
        "front                 a camera that looks forward      12.50",
        "                      over the bonnet",
        "rear_left_wide_angle  another one                          -",
    ]


def test_rows_that_do_not_fit_become_blocks() -> None:
    assert table_text("", HEADINGS, ROWS, 40).splitlines() == [
        "front",
        "    what it does: a camera that looks",
        "        forward over the bonnet;",
        "    ms: 12.50",
        "rear_left_wide_angle",
        "    what it does: another one; ms: -",
    ]


def test_names_and_values_need_no_headings() -> None:
    rows = [("received", 120), ("dropped", "1 failed")]
    assert table_text("Soak", (), rows, 80).splitlines() == [
        "Soak",
        "received  120",
        "dropped   1 failed",
    ]


def test_what_a_terminal_would_obey_is_not_printed() -> None:
    assert table_text("", ("node",), [("a\x1b[31m[red]b",)], 80).endswith(r"a\x1b[31m[red]b")


def test_wide_characters_take_two_columns() -> None:
    lines = table_text("", ("name", "n"), [("歩行者", "1"), ("car", "2")], 80).splitlines()
    assert lines[2:] == ["歩行者  1", "car     2"]


@pytest.mark.parametrize("width", [1, 20, 40, 80, 1000])
@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5))
def test_every_word_of_every_cell_is_printed(rows: list[tuple[str, str, str]], width: int) -> None:
    text = table_text("", ("first", "second", "third"), rows, width)
    words = text.replace(";", " ").split()
    for row in rows:
        for word in " ".join(row).split():
            assert word in words
    for line in text.splitlines():
        # A word that is longer than the line stays whole, with its heading and its indent.
        assert len(line) <= max(width, 8 + max(map(len, words), default=0) + len("second: ;"))
