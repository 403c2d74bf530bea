# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ChildProcess: a Python module as a process of its own, ended by its id."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from yolox_trt.core.errors import DeviceError, YoloxTrtError
from yolox_trt.ros.middleware import transport_environment


class ChildProcess:
    """A process that runs a module of this package with the settings for large images.

    Args:
        module: name of the module, run as `python -m module`.
        arguments: its command line, turned into text.
        log: file that takes stdout and stderr.
        environment: variables beside the inherited ones.
        inherit: whether it gets this process's environment and the settings for large images.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[object],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        inherit: bool = True,
    ) -> None:
        self.module = module
        self.log = log
        base = transport_environment() if inherit else {}
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**base, "PYTHONUNBUFFERED": "1", **(environment or {})},
                # Ctrl-C in the terminal goes to the parent alone, which ends its children in order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def check_alive(self) -> None:
        """Raise YoloxTrtError with the end of its output if it has ended."""
        if self.status is not None:
            tail = " | ".join(self.output.strip().splitlines()[-5:])
            raise YoloxTrtError(
                f"{self.module} ended with status {self.status}" + (f": {tail}" if tail else ""),
                fix=f"see {self.log}",
            )

    def wait_for(self, text: str, timeout: float) -> None:
        """Wait until it has written a text.

        Raises:
            YoloxTrtError: it ended, or did not write the text in `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while text not in self.output:
            self.check_alive()
            if time.monotonic() > end:
                raise DeviceError(
                    f"{self.module} has not said '{text}' in {timeout:g} s", fix=f"see {self.log}"
                )
            time.sleep(0.02)

    def interrupt(self) -> None:
        """Send SIGINT, as Ctrl-C does."""
        if self.status is None:
            self._process.send_signal(signal.SIGINT)

    def stop(self, timeout: float = 5.0) -> int:
        """Send SIGINT and wait; kill after `timeout` seconds.

        Returns:
            The exit status; negative: the signal that ended it.
        """
        self.interrupt()
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
