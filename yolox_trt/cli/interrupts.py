# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What ends a command from outside: Ctrl-C, `timeout` and `kill`, a terminal that closes."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


class Interrupted(KeyboardInterrupt):
    """A signal that ends the command.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP raise in the main thread while the block runs.

    What a command has started and half written is ended and removed by the blocks that it leaves.
    SIGINT raises even where a shell has started the command with it ignored, as with `&`; SIGHUP
    does not where `nohup` has.
    """
    former = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        # A terminal that closes sends several: the end in order is disturbed by Ctrl-C alone.
        for each in former.keys() - {signal.SIGINT}:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    try:
        for number in former:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
