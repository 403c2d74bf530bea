# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Option: a setting's name, type, unit, default, range and help, declared once.

Settings are the fields of dataclasses ("option groups"):

    @dataclass(frozen=True, kw_only=True)
    class StreamOptions(OptionGroup):
        max_rate: float = option(0.0, unit="Hz", minimum=0.0, help="Images processed a second ...")

Arguments of the command line, ROS parameters with their descriptors, the pages of docs/ and the
checks are made of these declarations.
"""

from __future__ import annotations

import dataclasses
import math
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from yolox_trt.core.errors import ConfigurationError, Message, parts_of

_KEY = "yolox_trt.option"
_NESTED_KEY = "yolox_trt.nested_options"
T = TypeVar("T")


class Kind(Enum):
    """Type of an option's plain value; the values are the names that ROS 2 prints."""

    BOOL = "bool"
    INTEGER = "integer"
    DOUBLE = "double"
    STRING = "string"
    INTEGER_ARRAY = "integer array"
    STRING_ARRAY = "string array"

    @property
    def words(self) -> str:
        """What to give, for an error."""
        return _WORDS[self]


_WORDS = {
    Kind.BOOL: "true or false",
    Kind.INTEGER: "a whole number",
    Kind.DOUBLE: "a number",
    Kind.STRING: "a text",
    Kind.INTEGER_ARRAY: "a list of whole numbers",
    Kind.STRING_ARRAY: "a list of texts",
}


class Applies(Enum):
    """When a changed value takes effect."""

    AT_ONCE = "at once"
    AT_CONFIGURE = "at the next configure"
    READ_ONLY = "never (read-only)"
    BY_NODE = "set by the node itself"


@dataclass(frozen=True, kw_only=True, eq=False)
class Option:
    """One setting. Make it with `option` as a dataclass field; get it with `options_of`.

    Attributes:
        name: the field's name, which is the ROS parameter's name too.
        kind: type of its plain value: what a command line, a YAML file or ROS gives.
        default: plain value where none is given; a list for the array kinds; None where nothing
            stands for "not set".
        required: whether there is no default.
        help: one or two sentences.
        unit: unit of the value, "" where it has none.
        minimum, maximum: inclusive range of a number, None where it is open.
        above: number that the value must exceed, None where it is open.
        choices: the strings that are allowed, () for any.
        applies: when a change takes effect in a running node.
        parse: makes the typed value (a Path, a Device, a size) of the plain one; raises
            ConfigurationError. None where the plain value is the value.
        flag: the command line's name where it is not the field's with dashes: "--score",
            "--output -o", or "MODEL" for a positional argument.
        implied: value of a flag that is given without one; None where it needs a value.
        metavar: what stands for the value in the command line's help.
        group: title under which a page of help lists it; "" for the first options.
        file: whether it names a file or a folder, which a node takes from its start alone.
    """

    name: str = ""
    kind: Kind
    default: Any
    required: bool = False
    help: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    applies: Applies = Applies.AT_CONFIGURE
    parse: Callable[[Any], Any] | None = None
    flag: str = ""
    implied: Any = None
    metavar: str = ""
    group: str = ""
    file: bool = False

    @property
    def range_text(self) -> str:
        """The allowed values in words, "" where every value of the type is allowed."""
        if self.choices:
            return ", ".join(choice or "'' (empty)" for choice in self.choices)
        unit = f" {self.unit}" if self.unit else ""
        low = None if self.minimum is None else f"{self.minimum:g}"
        high = None if self.maximum is None else f"{self.maximum:g}"
        if self.above is not None:
            return f"above {self.above:g}" + (f", at most {high}" if high else "") + unit
        if low is not None and high is not None:
            return f"{low} to {high}{unit}"
        if low is not None:
            return f"at least {low}{unit}"
        return f"at most {high}{unit}" if high is not None else ""

    def plain(self, value: Any) -> Any:
        """Return a plain value in the option's type, after checking type, range and choices.

        An integer is accepted where a double is expected, and nothing (an empty YAML list, which
        ROS 2 hands over without a type) where an array is expected.

        Args:
            value: what an override, a launch argument or `ros2 param set` gave.

        Raises:
            ConfigurationError: wrong type, out of range, or refused by `parse`; it names the range.
        """
        converted = self._checked(value)
        if self.parse is not None and converted is not None:
            self._parsed(converted)
        return converted

    def typed(self, value: Any) -> Any:
        """Return the typed value of a plain one, checked as `plain` does."""
        converted = self._checked(value)
        return converted if converted is None else self._parsed(converted)

    def check(self, value: Any) -> None:
        """Check a value of a struct made in Python.

        Raises:
            ConfigurationError: it is neither an allowed plain value nor, where `parse` makes it of
                another type, an allowed typed one.
        """
        if self.parse is None or _convert(self.kind, value) is not None:
            self.plain(value)
        elif not (value is None and self.default is None) and not self._allows(value):
            raise self.refusal(value)

    def refusal(self, value: Any, expected: Message = "") -> ConfigurationError:
        """Make the error that refuses a value and names what is allowed.

        Args:
            value: what was given.
            expected: what is allowed; by default the option's type, range and choices.
        """
        if expected:
            pass
        elif self.choices:
            *others, last = (choice or "'' (empty)" for choice in self.choices)
            expected = f"{', '.join(others)} or {last}" if others else last
        else:
            expected = self.kind.words + (f", {self.range_text}" if self.range_text else "")
        if isinstance(value, list) and self.choices:  # one wrong word is named, not the list
            value = next((item for item in value if not self._allows(item)), value)
        value = value.tolist() if isinstance(value, array) else value
        found = value if isinstance(value, int | float) else _shown(repr(value))
        return ConfigurationError((self, f" = {found}"), expected=expected, fix=("set ", self))

    def _checked(self, value: Any) -> Any:
        if value is None and self.default is None and not self.required:
            return None
        converted = _convert(self.kind, value)
        if converted is None or not self._allows(converted):
            raise self.refusal(value)
        return converted

    def _parsed(self, plain: Any) -> Any:
        if self.parse is None:
            return tuple(plain) if isinstance(plain, list) else plain
        try:
            return self.parse(plain)
        except ConfigurationError as error:  # `parse` need not know what the option is called
            found, expected, fix = error.parts
            if not fix or str(parts_of(fix)[-1]).endswith("? "):  # nothing, or "did you mean X? "
                fix = (*parts_of(fix), "set ", self)
            raise ConfigurationError(found, expected=expected, fix=fix) from None
        except (ValueError, OverflowError):  # a number of more digits than Python reads
            raise self.refusal(plain) from None

    def _allows(self, value: Any) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if isinstance(value, list | tuple):
            return all(self._allows(item) for item in value)
        if self.choices and isinstance(value, str) and value not in self.choices:
            return False
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
        )


_REQUIRED: Any = object()
#: Digits of a side of an image, in pixels.
_DIGITS = 6
#: Characters of a wrong value that an error repeats: what mends it stands behind them.
_SHOWN = 500


def option(default: Any = _REQUIRED, *, help: str, kind: Kind | None = None, **rest: Any) -> Any:  # noqa: A002
    """Declare an option as a dataclass field.

    Args:
        default: plain value where none is given, a list for an array, None for "not set" (give
            `kind` with it); left out where the option must be given.
        help: one or two sentences.
        kind: type of the plain value; by default that of the default.
        rest: further attributes of Option.
    """
    required = default is _REQUIRED
    if kind is None:
        kind = Kind.STRING if required else _kind_of(default)
    spec = Option(
        kind=kind, default=None if required else default, required=required, help=help, **rest
    )
    return _field(spec)


def again(declared: Option, **changes: Any) -> Any:
    """Declare an option of another dataclass as a dataclass field, too.

    Args:
        declared: the option, as options_of gives it.
        changes: attributes that differ here, such as its default or its flag.
    """
    return _field(dataclasses.replace(declared, **changes))


def _field(spec: Option) -> Any:
    metadata, default = {_KEY: spec}, spec.default
    if spec.required:
        return dataclasses.field(metadata=metadata)
    if spec.parse is not None and default is not None:
        return dataclasses.field(default_factory=lambda: spec.typed(default), metadata=metadata)
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: tuple(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def path_option(*, help: str, **rest: Any) -> Any:  # noqa: A002
    """Declare a file or folder, a Path or None, as a dataclass field; see `option`."""
    rest = {"metavar": "FILE", "kind": Kind.STRING, "parse": parse_path, "file": True, **rest}
    return option(None, help=help, **rest)


def size_option(default: str | None = None, *, help: str, **rest: Any) -> Any:  # noqa: A002
    """Declare a (height, width), "HxW" as plain value, as a dataclass field; see `option`."""
    rest = {"metavar": "HxW", "kind": Kind.STRING, "parse": parse_size, **rest}
    return option(default, help=help, **rest)


@dataclass(frozen=True)
class Nested:
    """A dataclass of options as a field of another one. Make it with `nested`.

    Attributes:
        type: the dataclass.
        defaults: plain values that replace its options' own defaults here.
        without: names of options that are not offered here.
    """

    type: type[Any]
    defaults: Mapping[str, Any]
    without: tuple[str, ...] = ()


def nested(type: type[Any], *, without: Sequence[str] = (), **defaults: Any) -> Any:  # noqa: A002
    """Declare a dataclass of options as a field of another one, such as `build: BuildOptions`.

    Args:
        type: the dataclass.
        without: names of options that are not offered here; they keep their defaults.
        defaults: plain values that replace its options' own defaults here.
    """
    inner = Nested(type, defaults, tuple(without))
    return dataclasses.field(
        default_factory=lambda: from_plain(type, defaults), metadata={_NESTED_KEY: inner}
    )


def nested_of(group: type[Any]) -> dict[str, Nested]:
    """Return the dataclasses of options that are fields of a dataclass, by the field's name."""
    return {
        field.name: field.metadata[_NESTED_KEY]
        for field in dataclasses.fields(group)
        if _NESTED_KEY in field.metadata
    }


_GROUPS: dict[type[Any], Mapping[str, Option]] = {}


def options_of(group: type[Any]) -> Mapping[str, Option]:
    """Return the options of a dataclass by name, in the order of its fields.

    Every call gives the same Option objects, so that they may be compared by identity.
    """
    if group not in _GROUPS:
        _GROUPS[group] = {
            field.name: dataclasses.replace(field.metadata[_KEY], name=field.name)
            for field in dataclasses.fields(group)
            if _KEY in field.metadata
        }
    return _GROUPS[group]


class OptionGroup:
    """Base of a dataclass of options that checks each of them when one is made.

    Raises:
        ConfigurationError: a value out of range.
    """

    def __post_init__(self) -> None:
        for name, declared in options_of(type(self)).items():
            declared.check(getattr(self, name))


def from_plain(group: type[T], values: Mapping[str, Any]) -> T:
    """Make a dataclass of plain values; those left out take their defaults.

    Raises:
        ConfigurationError: a name that is no option's, or a value that its option refuses.
    """
    declared = options_of(group)
    if unknown := [name for name in values if name not in declared]:
        raise ConfigurationError.unknown("option", unknown[0], declared, fix="correct the name")
    return group(**{name: declared[name].typed(value) for name, value in values.items()})


def parse_path(text: str) -> Path:
    """Read a file's name, in which `~` is the home folder; for Option.parse.

    Raises:
        ConfigurationError: a home folder of nobody, or a name that the system does not look at: in
            a folder that this user may not enter, too long, a link to itself, a null character.
    """
    with ConfigurationError.instead_of(
        (OSError, RuntimeError, ValueError),
        f"file '{text}'",
        expected="a file's name; ~ is the home folder",
    ):
        if "\0" in text:
            raise ValueError("a null character")
        path = Path(text).expanduser()
        # Each raises what the other does not, by version of Python.
        path.resolve()
        path.exists()
        return path


def parse_size(text: str) -> tuple[int, int]:
    """Read "HxW" as (height, width), both from 1 on; for Option.parse.

    Raises:
        ConfigurationError: another form.
    """
    match = re.fullmatch(rf"0*(\d{{1,{_DIGITS}}})x0*(\d{{1,{_DIGITS}}})", text.lower())
    if match and int(match[1]) and int(match[2]):
        return int(match[1]), int(match[2])
    raise ConfigurationError(f"size '{_shown(text)}'", expected="HxW, such as 608x960")


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def parse_pairs(entries: Iterable[str]) -> dict[str, str]:
    """Read "key:value" entries, which the last colon or "=" separates; for Option.parse.

    Empty entries are left out, and white space around keys and values does not count.

    Raises:
        ConfigurationError: an entry without a key or a value.
    """
    pairs = {}
    for entry in filter(str.strip, entries):
        match = re.fullmatch(r"\s*(.*\S)\s*[:=]\s*([^:=]*[^:=\s])\s*", entry)
        if match is None:
            raise ConfigurationError(f"entry '{entry}'", expected="name:value")
        pairs[match[1]] = match[2]
    return pairs


def _kind_of(default: Any) -> Kind:
    if isinstance(default, bool):
        return Kind.BOOL
    if isinstance(default, int):
        return Kind.INTEGER
    if isinstance(default, float):
        return Kind.DOUBLE
    if isinstance(default, str):
        return Kind.STRING
    if isinstance(default, list) and default:
        return Kind.INTEGER_ARRAY if isinstance(default[0], int) else Kind.STRING_ARRAY
    raise TypeError(f"an option with the default {default!r} needs `kind`")


def as_float(value: float) -> float:
    """Return a number in 64 bits; infinity for a whole one that is too large for them."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _convert(kind: Kind, value: Any) -> Any:
    """Return the value in the kind's Python type, or None if it is of another type."""
    if kind is Kind.BOOL:
        return value if isinstance(value, bool) else None
    if kind is Kind.INTEGER:
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    if kind is Kind.DOUBLE:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        number = as_float(value)
        return number if math.isfinite(number) else None
    if kind is Kind.STRING:
        return value if isinstance(value, str) else None
    if value is None:
        return []
    if isinstance(value, str | bytes):
        return None
    # ROS 2 hands integer arrays over as array.array, which is no Sequence.
    if not isinstance(value, Sequence | array):
        return None
    items = list(value)
    wanted = int if kind is Kind.INTEGER_ARRAY else str
    if all(isinstance(item, wanted) and not isinstance(item, bool) for item in items):
        return items
    return None
