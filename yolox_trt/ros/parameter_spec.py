# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ParameterSpec: one parameter's name, type, default, range and description in one place."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from yolox_trt.core.errors import ConfigurationError


class ParameterKind(Enum):
    """Type of a parameter's value; the values are the names that ROS 2 prints."""

    BOOL = "bool"
    INTEGER = "integer"
    DOUBLE = "double"
    STRING = "string"
    INTEGER_ARRAY = "integer array"
    STRING_ARRAY = "string array"


class Applies(Enum):
    """When a changed value takes effect."""

    AT_ONCE = "at once"
    AT_CONFIGURE = "at the next configure"
    READ_ONLY = "never (read-only)"
    BY_NODE = "set by the node itself"


@dataclass(frozen=True, kw_only=True)
class ParameterSpec:
    """One ROS parameter.

    Attributes:
        name: the parameter's name.
        kind: type of its value.
        default: value without an override; a list for the array kinds.
        description: one or two sentences, shown by `ros2 param describe`.
        unit: unit of the value, "" where it has none.
        minimum, maximum: inclusive range of a number, None where it is open.
        choices: the strings that are allowed, () for any.
        applies: when a change takes effect.
        check: further check of the normalised value; raises ConfigurationError.
    """

    name: str
    kind: ParameterKind
    default: Any
    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    applies: Applies = Applies.AT_CONFIGURE
    check: Callable[[Any], object] | None = None

    @property
    def range_text(self) -> str:
        """The allowed values in words, "" where every value of the type is allowed."""
        if self.choices:
            return ", ".join(choice or "'' (empty)" for choice in self.choices)
        unit = f" {self.unit}" if self.unit else ""
        if self.minimum is not None and self.maximum is not None:
            return f"{self.minimum:g} to {self.maximum:g}{unit}"
        if self.minimum is not None:
            return f"at least {self.minimum:g}{unit}"
        if self.maximum is not None:
            return f"at most {self.maximum:g}{unit}"
        return ""

    def normalise(self, value: Any) -> Any:
        """Return the value in the parameter's type, after checking it.

        An integer is accepted where a double is expected, and nothing (an empty YAML list, which
        ROS 2 hands over without a type) where an array is expected.

        Args:
            value: what an override, a launch argument or `ros2 param set` gave.

        Raises:
            ConfigurationError: wrong type, out of range, or refused by `check`; the error names
                the range.
        """
        converted = _convert(self.kind, value)
        if converted is None:
            raise self._refusal(value)
        in_range = (self.minimum is None or converted >= self.minimum) and (
            self.maximum is None or converted <= self.maximum
        )
        if not in_range or (self.choices and converted not in self.choices):
            raise self._refusal(value)
        if self.check is not None:
            self.check(converted)
        return converted

    def _refusal(self, value: Any) -> ConfigurationError:
        allowed = f", {self.range_text}" if self.range_text else ""
        return ConfigurationError(
            f"{self.name} = {value!r}",
            expected=f"{self.kind.value}{allowed}",
            fix=f"set the parameter `{self.name}`",
        )


def _convert(kind: ParameterKind, value: Any) -> Any:
    """Return the value in the kind's Python type, or None if it is of another type."""
    if kind is ParameterKind.BOOL:
        return value if isinstance(value, bool) else None
    if kind is ParameterKind.INTEGER:
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    if kind is ParameterKind.DOUBLE:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return float(value) if math.isfinite(value) else None
    if kind is ParameterKind.STRING:
        return value if isinstance(value, str) else None
    if value is None:
        return []
    if isinstance(value, str | bytes):
        return None
    # ROS 2 hands integer arrays over as array.array, which is no Sequence.
    if not isinstance(value, Sequence | array):
        return None
    items = list(value)
    wanted = int if kind is ParameterKind.INTEGER_ARRAY else str
    if all(isinstance(item, wanted) and not isinstance(item, bool) for item in items):
        return items
    return None
