# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Child processes end with the command that has started them, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: run `make venv`")

from support.ros import REPOSITORY, is_running

#: A command with a child that would run on for good.
PARENT = """
import pathlib, sys, time
from yolox_trt.cli.interrupts import interruptible
from yolox_trt.ros.tools.child_process import ChildProcesses
with interruptible(), ChildProcesses(pathlib.Path(sys.argv[1])) as processes:
    print(processes.start("http.server", [0]).pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.sampled(2)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, signal.SIGINT])
def test_children_end_with_their_parent(number: int, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
        text=True,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert is_running(child)
    parent.send_signal(number)
    parent.wait(30)
    end = time.monotonic() + 30
    while is_running(child):
        assert time.monotonic() < end
        time.sleep(0.02)
