# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ChildProcess: a Python module as a process of its own, ended by its id."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from yolox_trt.core.errors import DeviceError, YoloxTrtError
from yolox_trt.ros.middleware import transport_environment
from yolox_trt.ros.module_command import module_command
from yolox_trt.ros.tools.launch_arguments import EXECUTOR_NODE, file_in_memory, parameter_text
from yolox_trt.ros.tools.options import CameraOptions

#: What multi_camera says when it works.
ACTIVE = "active:"

#: Of <sys/prctl.h>.
_PR_SET_PDEATHSIG = 1
# Found before a process is made: between fork and exec nothing may be loaded.
_prctl = getattr(ctypes.CDLL(None), "prctl", None)


def _end_with(parent: int) -> None:
    """Let SIGTERM end this process when its parent ends, however it does (SIGKILL included).

    Called between fork and exec; what counts is the end of the thread that has started the process.
    """
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended already
            os._exit(128 + signal.SIGTERM)


class ChildProcess(subprocess.Popen[bytes]):
    """A process that runs a module of this package with the settings for large images.

    It ends with this process, whatever ends that.

    Args:
        module: name of the module; see module_command.
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
                module_command(module, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**base, "PYTHONUNBUFFERED": "1"},
                # Ctrl-C in the terminal goes to the parent alone, which ends its children in order.
                start_new_session=True,
                preexec_fn=partial(_end_with, os.getpid()),
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
        """Send SIGINT, as Ctrl-C does, and wait; after the timeout kill it and its children.

        Returns:
            The exit status; negative: the signal that ended it.
        """
        self.send_signal(signal.SIGINT)  # which does nothing where it has ended
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
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
        self,
        sections: Mapping[str, Mapping[str, Any]],
        timeout: float,
        module: str = "yolox_trt.ros.nodes.multi_camera",
        *,
        files: Sequence[str] = (),
        name: str = EXECUTOR_NODE,
    ) -> ChildProcess:
        """Start multi_camera and wait until it is active.

        Args:
            sections: node, or pattern of nodes -> its parameters.
            timeout: longest time in seconds; engines may have to be built. 0 for no waiting.
            module: that runs it.
            files: parameter files that `sections` go before.
            name: of its node, where another process has the usual one.
        """
        if sections:
            sections = {
                name if node == EXECUTOR_NODE else node: sections[node] for node in sections
            }
            files = [*files, file_in_memory(parameter_text(sections))]
        arguments = ["--ros-args", *(word for file in files for word in ("--params-file", file))]
        if name != EXECUTOR_NODE:
            arguments += ["-r", f"{EXECUTOR_NODE}:__node:={name}"]
        child = self.start(module, arguments, log=self.folder / f"{name}.log")
        if timeout > 0.0:
            child.wait_for(ACTIVE, timeout)
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
