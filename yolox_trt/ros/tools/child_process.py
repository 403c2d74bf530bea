# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ChildProcess: a Python module as a process of its own, ended by its id."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from yolox_trt.core.errors import DeviceError, YoloxTrtError
from yolox_trt.ros.middleware import transport_environment
from yolox_trt.ros.tools.launch_arguments import write_parameter_file
from yolox_trt.ros.tools.options import CameraOptions


class ChildProcess(subprocess.Popen[bytes]):
    """A process that runs a module of this package with the settings for large images.

    Args:
        module: name of the module, run as `python -m module`.
        arguments: its command line, turned into text.
        log: file that takes stdout and stderr.
        environment: all its variables; None for those of this process, with the settings for
            large images.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[object],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.module = module
        self.log = log
        base = transport_environment() if environment is None else environment
        with log.open("wb") as stream:
            super().__init__(
                [sys.executable, "-m", module, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**base, "PYTHONUNBUFFERED": "1"},
                # Ctrl-C in the terminal goes to the parent alone, which ends its children in order.
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def check_alive(self) -> None:
        """Raise YoloxTrtError with the end of its output if it has ended."""
        if self.poll() is not None:
            tail = " | ".join(self.output.strip().splitlines()[-5:])
            raise YoloxTrtError(
                f"{self.module} ended with status {self.returncode}"
                + (f": {tail}" if tail else ""),
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

    def stop(self, timeout: float = 5.0) -> int:
        """Send SIGINT, as Ctrl-C does, and wait; kill after `timeout` seconds.

        Returns:
            The exit status; negative: the signal that ended it.
        """
        self.send_signal(signal.SIGINT)  # which does nothing where it has ended
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait()


class ChildProcesses(ExitStack):
    """Context of a command that starts processes: their logs lie in one folder.

    At its end the one that was started last is stopped first: what cameras sent last shall still
    be worked on.

    Args:
        folder: folder of the logs.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.children: list[ChildProcess] = []

    def start(self, module: str, arguments: Sequence[object], **settings: Any) -> ChildProcess:
        """Start a process; see ChildProcess. Its log has the module's name by default."""
        settings.setdefault("log", self.folder / f"{module.rpartition('.')[2]}.log")
        child = ChildProcess(module, arguments, **settings)
        self.callback(child.stop)
        self.children.append(child)
        return child

    def start_multi_camera(
        self, sections: Mapping[str, Mapping[str, Any]], timeout: float
    ) -> ChildProcess:
        """Start multi_camera and wait until it is active.

        Args:
            sections: node, or pattern of nodes -> its parameters.
            timeout: longest time in seconds; engines may have to be built.
        """
        scratch = self.enter_context(TemporaryDirectory(prefix="yolox_trt_parameters_"))
        parameters = write_parameter_file(sections, Path(scratch) / "parameters.yaml")
        arguments = ["--ros-args", "--params-file", parameters]
        child = self.start("yolox_trt.ros.nodes.multi_camera", arguments)
        child.wait_for("active:", timeout)
        return child

    def start_camera(self, options: CameraOptions, **settings: Any) -> ChildProcess:
        """Start a camera."""
        arguments = [json.dumps(dataclasses.asdict(options))]
        settings.setdefault("log", self.folder / f"{options.name}.log")
        return self.start("yolox_trt.ros.tools.demo_camera", arguments, **settings)

    def check_alive(self) -> None:
        """Raise YoloxTrtError if one of them has ended."""
        for child in self.children:
            child.check_alive()
