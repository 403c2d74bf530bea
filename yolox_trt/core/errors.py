# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Exceptions of the package. Each one says what was found, what was expected and what mends it."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from yolox_trt.core.option import Option

E = TypeVar("E", bound="YoloxTrtError")

#: What reading a file, and taking it for what it should hold, may raise.
FILE_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError)
#: Names that an error lists at most.
_NAMES_SHOWN = 12

#: Text in which options stand as objects: each front end puts its own name in their place.
Message: TypeAlias = "str | Option | tuple[str | Option, ...]"


class YoloxTrtError(Exception):
    """Base of every error that this package raises on purpose.

    The command line prints it as one line and exits with 2; a node reports it on /diagnostics.
    An Option in a message is named by whoever shows the error: `--score` on the command line, the
    parameter `score_threshold` in ROS. `str(error)` names it as Python does.

    Args:
        found: what was found, as a short clause.
        expected: what was expected instead.
        fix: the command or option that mends it.
    """

    def __init__(self, found: Message, *, expected: Message = "", fix: Message = "") -> None:
        self.parts: tuple[Message, Message, Message] = (found, expected, fix)
        super().__init__(self.text(python_name))

    @classmethod
    @contextlib.contextmanager
    def instead_of(
        cls,
        errors: type[Exception] | tuple[type[Exception], ...],
        found: Message,
        *,
        expected: Message = "",
        fix: Message = "",
    ) -> Iterator[None]:
        """Raise this error instead of those of libraries and files within the block.

            with ModelError.instead_of(FILE_ERRORS, f"unreadable '{path}'", expected="JSON"):
                document = read_json(path)

        Args:
            errors: what is replaced, such as FILE_ERRORS. The package's own errors pass.
            found: what was found; the reason is put behind it in brackets.
            expected: what was expected instead.
            fix: what mends it.
        """
        try:
            yield
        except YoloxTrtError:
            raise
        except errors as error:
            reason = getattr(error, "strerror", None) or str(error) or repr(error)
            if isinstance(error, KeyError):
                reason = f"no {error}"
            raise cls((*parts_of(found), f" ({reason})"), expected=expected, fix=fix) from error

    @classmethod
    def unknown(
        cls: type[E], what: Message, name: object, known: Iterable[object], *, fix: Message = ""
    ) -> E:
        """Make the error of a name that is none of those known, which proposes the closest.

        Args:
            what: kind of thing that the name is of, such as "model".
            name: the name; a file may hold another value in its place.
            known: those that there are.
            fix: where to look, or what to set.
        """
        from yolox_trt.core.limits import LIMITS, clean_text  # it needs this module

        names = list(map(str, known))
        name = clean_text(str(name), LIMITS.name_characters)
        close = difflib.get_close_matches(name, names, n=1)
        more = len(names) - _NAMES_SHOWN
        shown = ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
        hint = (f"did you mean {close[0]}? ",) if close else ()
        return cls(
            (*parts_of(what), f" '{name}'"),
            expected=f"one of {shown}" if names else "none: there are no names to choose from",
            fix=(*hint, *parts_of(fix)),
        )

    @property
    def found(self) -> str:
        """What was found, options named as in Python."""
        return _join(self.parts[0], python_name)

    @property
    def expected(self) -> str:
        """What was expected, options named as in Python; may be empty."""
        return _join(self.parts[1], python_name)

    @property
    def fix(self) -> str:
        """What mends it, options named as in Python; may be empty."""
        return _join(self.parts[2], python_name)

    def text(self, name: Callable[[Option], str]) -> str:
        """Return the whole message.

        Args:
            name: what the interface that the user works with calls an option.
        """
        found, expected, fix = (_join(part, name) for part in self.parts)
        if expected:
            found += f"; expected {expected}"
        return found + (f"; fix: {fix}" if fix else "")


def python_name(option: Option) -> str:
    """Name an option as Python code does."""
    return f"`{option.name}`"


def parts_of(message: Message) -> tuple[str | Option, ...]:
    """Return a message as a tuple of texts and options, to put it into another one."""
    if isinstance(message, tuple):
        return message
    return (message,) if message else ()


def _join(message: Message, name: Callable[[Option], str]) -> str:
    return "".join(part if isinstance(part, str) else name(part) for part in parts_of(message))


class ConfigurationError(YoloxTrtError, ValueError):
    """A parameter, a configuration file or a command-line argument is wrong."""


class FrameError(YoloxTrtError, ValueError):
    """An image cannot be viewed as its header claims (encoding, size, step, data length)."""


class FrameMemoryError(FrameError, MemoryError):
    """There is no memory for an image now; another time it may be read."""


class ModelError(YoloxTrtError, ValueError):
    """A model file is not a YOLOX that this package can run."""


class EngineError(YoloxTrtError, RuntimeError):
    """An engine could not be built, loaded or run."""


class DeviceError(YoloxTrtError, RuntimeError):
    """A Device does not exist on this machine or went out of service."""


class MissingDependencyError(YoloxTrtError, ImportError):
    """An optional package is needed for what was asked and is not installed."""
