# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CopyCrew: every job once, errors to the caller, no thread left."""

from __future__ import annotations

import threading
import time
from functools import partial

import numpy as np
import pytest
from support.executors import PATIENCE, new_threads, wait_until

from yolox_trt.detectors.copy_crew import CopyCrew


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_job_runs_once(threads: int) -> None:
    crew = CopyCrew(threads)
    for count in (0, 1, 3, 40):
        source = np.random.default_rng(count).integers(0, 256, (count, 1 << 14), dtype=np.uint8)
        target = np.zeros_like(source)
        ran: list[int] = []

        def job(index: int, source: np.ndarray, target: np.ndarray, ran: list[int]) -> None:
            np.copyto(target[index], source[index])
            ran.append(index)

        crew.run([partial(job, i, source, target, ran) for i in range(count)])
        assert sorted(ran) == list(range(count))
        np.testing.assert_array_equal(target, source)
    crew.close()


def test_jobs_are_shared() -> None:
    crew = CopyCrew(3)
    meeting = threading.Barrier(3, timeout=PATIENCE)
    places: list[int] = []
    # A barrier lets them pass only if three threads are in it at a time.
    crew.run([lambda: places.append(meeting.wait())] * 3)
    assert sorted(places) == [0, 1, 2]
    crew.close()


def test_a_late_thread_is_not_waited_for() -> None:
    started = threading.Event()

    def late() -> None:
        started.wait(2.0 * PATIENCE)

    crew = CopyCrew(2, on_start=late)
    begin = time.monotonic()
    ran: list[int] = []
    for _ in range(3):
        crew.run([partial(ran.append, 0)] * 4)
    assert len(ran) == 12
    assert time.monotonic() - begin < PATIENCE
    started.set()
    crew.close()


def test_an_error_reaches_the_caller_after_the_last_job() -> None:
    crew = CopyCrew(2)
    ran: list[int] = []

    def fail() -> None:
        raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory"):
        crew.run([fail, *[partial(ran.append, 0)] * 5])
    assert len(ran) == 5
    crew.run([partial(ran.append, 0)])
    assert len(ran) == 6
    crew.close()


def test_close_ends_the_threads() -> None:
    before = threading.enumerate()
    crew = CopyCrew(4)
    crew.run([partial(time.sleep, 0.001)] * 8)
    crew.close()
    assert wait_until(lambda: not new_threads(before))
