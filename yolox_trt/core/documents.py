# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""JSON and YAML from outside. No other module parses either.

Both are limited in size, depth and values (core.limits). JSON holds no NaN and no infinity, and
neither a whole number beyond 64 bits; the aliases of YAML count as what they stand for, so that a
few lines do not grow to gigabytes. Neither holds half a character: an escape can write one, which
no file, message or terminal takes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from yolox_trt.core.files import read_at_most
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.optional import require

T = TypeVar("T")
#: An escaped character of a string of JSON.
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_QUOTE = ord('"')
#: What each byte adds to the depth of nesting.
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("["), ord("{")]] = 1
_STEPS[[ord("]"), ord("}")]] = -1
#: The bytes that stand before a value, or behind a key.
_MARKS = np.zeros(256, np.bool_)
_MARKS[[ord("["), ord("{"), ord(","), ord(":")]] = True
_CHUNK = 1 << 18
#: Whole numbers of 64 bits, with a sign or without: what floats, arrays and messages can hold.
_WHOLE = range(-(1 << 63), 1 << 64)
#: What every number beyond these has.
_MANY_DIGITS = re.compile("[0-9]{19}")
#: The escapes of a JSON text, in order; the group is half of a character (a surrogate) on its own.
_HALVES = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F])|.)", re.DOTALL
)


def parse_json(text: str, values: int = LIMITS.json_values) -> Any:
    """Return what a JSON text says.

    Args:
        text: the text.
        values: how many values, with keys, it may have.

    Raises:
        ValueError: it is no JSON, holds NaN, an infinity, a whole number beyond 64 bits or half a
            character, is nested too deeply, or has too many values.
    """
    # Only what could be too deep, or too much, is looked at.
    if len(text) > values or text.count("[") + text.count("{") > LIMITS.document_depth:
        _check_size(text, values)
    escaped = "\\ud" in text or "\\uD" in text
    if escaped and any(match[1] for match in _HALVES.finditer(text)):
        raise ValueError("half a character (a surrogate on its own)")
    # A function that is called for each whole number would double the time of a table of them.
    return _decoder(checks_whole=_MANY_DIGITS.search(text) is not None).decode(text)


def _check_size(text: str, most: int) -> None:
    """Refuse what is nested too deeply or has too many values, in the memory of one chunk.

    Each value takes up to some hundred bytes: `{},` grows thirtyfold.
    """
    start, depth, values, in_string = 0, 0, 1, False
    while start < len(text):
        chunk = text[start : start + _CHUNK]
        if (len(chunk) - len(chunk.rstrip("\\"))) % 2:  # it ends within an escape
            chunk = text[start : start + _CHUNK + 1]
        start += len(chunk)
        bare = np.frombuffer(_ESCAPED.sub(b"", chunk.encode("utf-8", "replace")), np.uint8)
        if not bare.size:
            continue
        quotes = np.cumsum(bare == _QUOTE, dtype=np.int32) + in_string
        outside = quotes % 2 == 0
        in_string = not outside[-1]
        depths = depth + np.cumsum(_STEPS[bare] * outside, dtype=np.int64)
        depth = int(depths[-1])
        if depths.max() > LIMITS.document_depth:
            raise _too_deep()
        values += int(np.count_nonzero(_MARKS[bare] & outside))
        if values > most:
            raise ValueError(f"more than {most} values and keys")


@functools.cache
def _decoder(*, checks_whole: bool) -> json.JSONDecoder:
    """Return what json.loads would make anew for each text."""
    return json.JSONDecoder(
        parse_constant=_refuse_constant,
        parse_float=_finite,
        parse_int=(lambda text: _whole(int(text))) if checks_whole else None,
    )


def read_json(
    path: str | Path, most: int = LIMITS.json_bytes, values: int = LIMITS.json_values
) -> Any:
    """Return what a JSON file says; see parse_json.

    Args:
        path: the file, in UTF-8.
        most: bytes that it may have.
        values: how many values, with keys, it may have.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or no such JSON.
    """
    return parse_json(read_at_most(path, most).decode(), values)


def parse_yaml(text: str) -> Any:
    """Return what a YAML text says: numbers, texts, dates, lists and mappings.

    Raises:
        ValueError: it is no YAML, too large, nested too deeply, has too many values, a whole
            number beyond 64 bits, or half a character.
        MissingDependencyError: PyYAML is missing.
    """
    yaml = require("yaml", purpose="reading YAML")
    if len(text) > LIMITS.yaml_bytes:
        raise ValueError(f"{len(text)} characters, more than {LIMITS.yaml_bytes}")
    try:
        return yaml.load(text, _loader())
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"line {mark.line + 1}: {problem}" if mark else " ".join(str(error).split())
        raise ValueError(where) from error
    except (LookupError, AttributeError, TypeError) as error:  # as PyYAML does for `!!bool x`
        raise ValueError("a value that is not of its tag") from error
    except OverflowError as error:  # a number of base 60, or an escape of no character
        raise ValueError(f"a number or an escape that is too large ({error})") from error


def read_yaml(path: str | Path) -> Any:
    """Return what a YAML file says; see parse_yaml.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or no such YAML.
        MissingDependencyError: PyYAML is missing.
    """
    return parse_yaml(read_at_most(path, LIMITS.yaml_bytes).decode())


@functools.cache
def _loader() -> Any:
    """Return PyYAML's safe loader with limits."""
    yaml = require("yaml", purpose="reading YAML")

    class LimitedLoader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
        """Counts the values of a document, those that aliases stand for each time."""

        def __init__(self, stream: str) -> None:
            super().__init__(stream)
            self.depth = self.values = 0
            self.values_of: dict[int, int] = {}

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.depth == LIMITS.document_depth:
                raise _too_deep()
            before, event = self.values, self.peek_event()
            is_alias = isinstance(event, yaml.AliasEvent)
            value = getattr(event, "value", "")
            # A number of base 60 takes the square of its length.
            if len(value) > LIMITS.text_characters:
                raise ValueError(f"a value of more than {LIMITS.text_characters} characters")
            value.encode()  # raises where half of a character was escaped
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            if is_alias and id(node) not in self.values_of:
                raise ValueError("an alias within what it stands for")
            self.values += self.values_of[id(node)] if is_alias else 1
            if self.values > LIMITS.yaml_values:
                raise ValueError(f"more than {LIMITS.yaml_values} values, its aliases written out")
            self.values_of.setdefault(id(node), self.values - before)
            return node

        def construct_yaml_int(self, node: Any) -> int:
            return _whole(super().construct_yaml_int(node))

    LimitedLoader.add_constructor("tag:yaml.org,2002:int", LimitedLoader.construct_yaml_int)
    return LimitedLoader


def checked(made: T) -> T:
    """Return a dataclass that was made of a document, if its plain fields hold what they declare.

    Raises:
        TypeError: one does not: the document is damaged, or another one.
    """
    for each in dataclasses.fields(cast(Any, made)):
        kind, _, rest = str(each.type).partition(" | ")
        value = getattr(made, each.name)
        if kind in _PLAIN and not (rest == "None" and value is None) and not _PLAIN[kind](value):
            raise TypeError(f"{each.name} = {value!r:.80}, which is no {each.type}")
    return made


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _are_texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, str) for each in value)


#: What a field declares -> whether a value is that.
_PLAIN: dict[str, Callable[[Any], bool]] = {
    "bool": lambda value: isinstance(value, bool),
    "int": _is_count,
    "float": lambda value: type(value) is float or _is_count(value),
    "str": lambda value: isinstance(value, str),
    "tuple[str, ...]": _are_texts,
    "tuple[int, int, int]": lambda value: len(value) == 3 and all(map(_is_count, value)),
    "Mapping[str, Any]": lambda value: isinstance(value, dict),
}


def _too_deep() -> ValueError:
    return ValueError(f"nested more than {LIMITS.document_depth} deep")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:20]}, which is too large a number")
    return value


def _whole(value: int) -> int:
    if value not in _WHOLE:
        raise ValueError(f"{str(value)[:20]}, which is too large a number")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no number of JSON")
