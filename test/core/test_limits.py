# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Limits: their table in the documentation, and text from outside."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from yolox_trt.core.errors import FrameError
from yolox_trt.core.limits import LIMITS, LineFormatter, clean_text, limits_table
from yolox_trt.core.model_spec import HeadLayout, HeadLevel, ModelSpec

SECURITY_PAGE = Path(__file__).resolve().parents[2] / "docs/security.md"


def test_the_documentation_states_every_limit() -> None:
    assert limits_table() in SECURITY_PAGE.read_text(encoding="utf-8"), (
        "put what core.limits.limits_table() returns into docs/security.md"
    )


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("front_left", "front_left"),
        ("caméra 前", "caméra 前"),
        ("a\nb\r\x1b[31mred\x00", r"a\nb\r\x1b[31mred\x00"),
        ("\x9b31m \u202eleft \u2028", r"\x9b31m \u202eleft \u2028"),
    ],
)
def test_text_from_outside_is_one_printable_line(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


def test_text_from_outside_has_a_limit() -> None:
    text = clean_text("x" * 1_000_000, 20)
    assert text == "x" * 20 + "... (1000000 characters)"


def test_an_unknown_name_is_repeated_clean_and_in_part() -> None:
    error = FrameError.unknown("encoding", "bgr8\x1b[2J" + "x" * 1_000_000, ["bgr8"])
    assert r"'bgr8\x1b[2J" in str(error)
    assert len(str(error)) < 2 * LIMITS.name_characters


def test_a_log_line_is_clean_and_its_traceback_is_kept() -> None:
    record = logging.LogRecord("a", logging.ERROR, "", 0, "topic %s", ("\x1b[2J\n",), None)
    formatter = LineFormatter("%(levelname)s %(message)s")
    assert formatter.format(record) == r"ERROR topic \x1b[2J\n"
    try:
        raise ValueError("why")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert formatter.format(record).splitlines()[1].startswith("Traceback")


def test_class_names_of_a_model_are_clean_and_short() -> None:
    levels = (HeadLevel(8, 1, 1),)
    names = ("person\x1b[31m", "x" * 1_000_000)
    spec = ModelSpec("x", 8, 8, 1, 2, HeadLayout.DECODED, ("y",), levels, class_names=names)
    assert spec.class_names[0] == r"person\x1b[31m"
    assert len(spec.class_names[1]) < 300
