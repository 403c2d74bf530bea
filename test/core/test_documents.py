# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""JSON and YAML from outside: what is taken, and what is refused before it costs anything."""

from __future__ import annotations

import itertools
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from yolox_trt.core.documents import parse_json, parse_yaml, read_json, read_yaml
from yolox_trt.core.limits import LIMITS

LETTERS = "abcdefghi"
#: Each line stands for nine times the one before: 9^9 values in 306 bytes.
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in itertools.pairwise(LETTERS)
)
MERGES = BOMB.replace("[x,x,x,x,x,x,x,x,x]", "{x: 1, y: 2}").replace("[*", "{<<: [*")
MERGES = MERGES.replace("]\n", "]}\n")
PARAMETERS = """\
multi_camera: &node
  ros__parameters: {cameras: [front, rear], score_threshold: 0.3, "on": yes}
other: *node
"""


@pytest.mark.parametrize(
    ("parse", "text", "reason"),
    [
        (parse_yaml, BOMB, "more than 20000 values"),
        (parse_yaml, MERGES, "more than 20000 values"),
        (parse_yaml, "- 1\n" * 30_000, "more than 20000 values"),
        (parse_yaml, "&a [*a]", "an alias within what it stands for"),
        (parse_yaml, "[" * 100_000, "nested more than 64 deep"),
        (parse_yaml, "{a: " * 10_000, "nested more than 64 deep"),
        (parse_yaml, "- " * 10_000, "nested more than 64 deep"),
        (parse_yaml, "1" + ":1" * 100_000, "a value of more than 2000 characters"),
        (parse_yaml, "9" * 1_000_000, "1000000 characters, more than 262144"),
        (parse_yaml, "day: 2001-99-99", "month"),
        (parse_yaml, "!!python/object:os.system x", "line 1: could not determine"),
        (parse_yaml, "a: 1\nb: c: d", "line 2: mapping values are not allowed here"),
        (parse_yaml, "a\0", "unacceptable character"),
        (parse_yaml, "!!bool x", "a value that is not of its tag"),
        (parse_yaml, "!!int ''", "a value that is not of its tag"),
        (parse_yaml, "!!timestamp x", "a value that is not of its tag"),
        (parse_yaml, "!!timestamp {=: x}", "a value that is not of its tag"),
        (parse_yaml, "1" + ":0" * 300 + ".5", "a number or an escape that is too large"),
        (parse_yaml, r'"\UFFFFFFFF"', "too large|not in range"),  # by version of Python
        (parse_yaml, r'a: ["\ud800"]', "surrogates not allowed"),
        (parse_yaml, r'{"\udfff": 1}', "surrogates not allowed"),
        (parse_json, "[" * 100_000, "nested more than 64 deep"),
        (parse_json, '{"a":' * 100_000, "nested more than 64 deep"),
        (parse_json, '"' + r"\"" * 1_000_000, "Unterminated string"),
        (parse_json, '{"scale": NaN}', "NaN, which is no number of JSON"),
        (parse_json, r'["\ud800"]', "half a character"),
        (parse_json, r'{"\\\uDFFFx": 1}', "half a character"),
        (parse_json, r'["\ud83d\ude00\ude00"]', "half a character"),
        (parse_json, "[-Infinity]", "-Infinity, which"),
        (parse_json, "[1e999]", "1e999, which is too large"),
        (parse_json, "9" * 400 + ".0", "9, which is too large"),
        (parse_json, '[{"ms": 1' + "0" * 400 + "}]", "10000000000000000000, which is too large"),
        (parse_json, "[-9223372036854775809]", "-9223372036854775809, which is too large"),
        (parse_yaml, "ms: 1" + "0" * 400, "10000000000000000000, which is too large"),
        (parse_yaml, "0x" + "f" * 17, "29514790517935282585, which is too large"),
    ],
)
def test_a_hostile_document_is_refused_at_once(
    parse: Callable[[str], Any], text: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)


def test_a_bomb_takes_no_memory() -> None:
    parse_yaml("a: 1")
    tracemalloc.start()
    with pytest.raises(ValueError, match="values"):
        parse_yaml(BOMB)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('["' + r"\\" * 1_000_000 + '",' + "[" * 65, "nested"),
        ("[" + '"a",' * 500_000 + "[" * 65, "nested"),
        ("[" + "{}," * 4_000_000, "more than 8000000 values"),
    ],
)
def test_a_check_takes_less_memory_than_what_it_looks_at(text: str, reason: str) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match=reason):
        parse_json(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


def test_brackets_of_strings_are_no_nesting() -> None:
    chunk = 1 << 18
    for before in range(chunk - 8, chunk + 2):
        strings = ["x" * before, '\\"[\\' * 3, "[" * 100, "é" * 3, '"']
        text = json.dumps([strings, [[]] * 80], ensure_ascii=False)
        assert parse_json(text) == json.loads(text)
        with pytest.raises(ValueError, match="nested"):
            parse_json(text[:-1] + "," + "[" * 65)


def test_characters_of_two_escapes_are_read() -> None:
    texts = ["\U0001f600", "\U0010ffff x", "\\ud800", "\\\\ud83d", "\ud7ff\ue000", '\\"\U00010000']
    assert parse_json(json.dumps(texts)) == texts


def test_documents_within_the_limits_are_read(tmp_path: Path) -> None:
    assert parse_yaml("") is None
    read = parse_yaml(PARAMETERS)
    assert read["other"] == read["multi_camera"]
    assert read["other"]["ros__parameters"]["cameras"] == ["front", "rear"]
    assert parse_json('{"a": "' + "[" * 1000 + '"}') == {"a": "[" * 1000}
    numbers = [-(1 << 63), (1 << 64) - 1, 10**17]
    assert parse_json(str(numbers)) == parse_yaml(str(numbers)) == numbers
    deepest = "[" * LIMITS.document_depth + "]" * LIMITS.document_depth
    assert parse_json(deepest) == parse_yaml(deepest)
    file = tmp_path / "file"
    file.write_text('{"größe": [1, 2.5, null]}', encoding="utf-8")
    assert read_json(file) == read_yaml(file) == {"größe": [1, 2.5, None]}


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_a_file_without_an_end_is_not_read_whole(
    read: Callable[[Path], Any], tmp_path: Path
) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(50 << 30)
    with pytest.raises(ValueError, match=r"more than \d+ bytes"):
        read(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    for endless in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="no plain file"):
            read(endless)
