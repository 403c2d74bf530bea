# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Standard streams that do not end the work: closed ones, those without a reader, any letters."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class _Lasting:
    """A text stream that goes on into nothing when its reader (head, less) has gone.

    Attributes:
        reader_gone: whether something was lost so.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.reader_gone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._without_reader():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._without_reader():
            self._stream.flush()

    @contextlib.contextmanager
    def _without_reader(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.reader_gone = True
            self._lead_to_nothing()

    def _lead_to_nothing(self) -> None:
        """Have what is in the buffer, and what processes of this one write, go there, too."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)

    def end(self) -> None:
        """Write what is in the buffer, or let it go; the interpreter's own attempt cannot fail."""
        try:
            self.flush()
        except OSError:  # a full disk, which the command has told of
            self._lead_to_nothing()


def reader_gone() -> bool:
    """Tell whether the reader of the standard output has gone, so that nobody sees what comes."""
    return getattr(sys.stdout, "reader_gone", False)


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    r"""Let what is printed in the block never end it.

    Where a stream is closed (`>&-`), or its reader goes away, what is printed is lost, and the work
    goes on. Letters that a stream's encoding does not have are written as `\u6728`.
    """
    _open_closed_ones()
    former: tuple[Any, Any] = (sys.stdout, sys.stderr)
    errors = []
    for stream in former:
        errors.append(getattr(stream, "errors", ""))
        if errors[-1] == "strict":
            stream.reconfigure(errors="backslashreplace")
    lasting: tuple[Any, Any] = (_Lasting(sys.stdout), _Lasting(sys.stderr))
    sys.stdout, sys.stderr = lasting
    try:
        yield
    finally:
        for stream in lasting:
            stream.end()
        sys.stdout, sys.stderr = former
        for stream, how in zip(former, errors, strict=True):
            if how == "strict":
                stream.reconfigure(errors=how)


def _open_closed_ones() -> None:
    """Have the numbers of closed standard streams lead to nothing: a file would get them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
