# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What other programs take: not what this one and its children do."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from yolox_trt.evaluation.bench import processor
from yolox_trt.evaluation.bench.processor import OtherPrograms

#: Seconds of work: many of the system's ticks.
WORK = 0.5


def test_a_program_is_another_one_until_it_is_a_child_that_has_ended() -> None:
    """Whatever else runs, a child's work passes from the others to this program at its end."""
    others = OtherPrograms()
    begin = time.monotonic()
    work = f"import time\nwhile time.process_time() < {WORK}: pass\nprint(1, flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        running = others.share
        seconds = (time.monotonic() - begin) * (os.cpu_count() or 1)
        child.communicate(b"\n")
    ended = others.share
    assert 0.0 < running <= 1.0
    assert running >= 0.8 * WORK / seconds
    # The same time is no other program's any more; what the others did meanwhile is added.
    later = (time.monotonic() - begin) * (os.cpu_count() or 1)
    assert ended * later <= running * seconds - 0.8 * WORK + (later - seconds)


def test_where_the_system_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_STAT", tmp_path / "stat")
    assert math.isnan(OtherPrograms().share)
    (tmp_path / "stat").write_text("intr 1\n")
    assert math.isnan(OtherPrograms().share)


def test_all_that_is_not_idle_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(processor, "_STAT", tmp_path / "stat")

    def tell(*seconds: int) -> None:
        (tmp_path / "stat").write_text(f"cpu  {' '.join(str(s * tick) for s in seconds)}\ncpu0 1\n")

    # user, nice, system, idle, iowait, irq, softirq, steal, and guests, who are users already
    tell(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    others = OtherPrograms()
    tell(1000, 2000, 3000, 40000, 1000, 500, 500, 2000, 900, 900)
    assert others.share == pytest.approx(9000 / 50000, abs=0.001)
