# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Signals end a command in order, and its imports without a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from yolox_trt.cli import main as cli
from yolox_trt.cli.commands.models import ModelsList


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_blocks_that_clean_up(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = []

    def run(self: object, output: object) -> int:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(signal.SIGTERM)  # a second one does not disturb the end
            left.append(number)
        return 0

    monkeypatch.setattr(ModelsList, "run", run)
    former = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert cli.main(["models", "list"]) == 128 + number
    assert left == [number]
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == former


def test_nohup_stays_and_a_background_job_ends_on_sigint() -> None:
    code = (
        "import signal, sys; from yolox_trt.cli.interrupts import interruptible\n"
        "for s in (signal.SIGHUP, signal.SIGINT): signal.signal(s, signal.SIG_IGN)\n"
        "with interruptible():\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "    try: signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt: sys.exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7


@pytest.mark.parametrize("program", ["yolox_trt.cli.__main__", "yolox_trt.ros.nodes.__main__"])
def test_ctrl_c_during_the_imports_leaves_no_traceback(program: str) -> None:
    # The first import that the program itself does is interrupted.
    code = (
        "import os, signal, sys\n"
        f"from {program} import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'argparse' or name.startswith('yolox_trt.'):\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.exit(main())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")
