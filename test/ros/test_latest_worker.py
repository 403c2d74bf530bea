# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Work in a thread of its own: the newest of each camera, in turns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from yolox_trt.ros.latest_worker import LatestWorker


class Held:
    """A worker whose first piece of work waits for the gate."""

    def __init__(self) -> None:
        self.worker = LatestWorker("test worker")
        self.gate = threading.Event()
        self.done: list[Any] = []
        started = threading.Event()
        self.worker.offer("held", lambda: (started.set(), self.gate.wait(60)))
        assert started.wait(60)

    def offer(self, camera: str, what: Any) -> bool:
        return self.worker.offer(camera, self.done.append, what)

    def finish(self) -> list[Any]:
        """Open the gate, wait until all is done, and return what was."""
        finished = threading.Event()
        self.worker.offer("last", finished.set)
        self.gate.set()
        assert finished.wait(60)
        return self.done


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.gate.set()
    made.worker.close()


def test_newer_work_of_a_camera_replaces_older(held: Held) -> None:
    assert not held.offer("front", 1)
    assert held.offer("front", 2)
    assert not held.offer("rear", 3)
    assert held.finish() == [2, 3]


def test_what_is_discarded_is_not_done(held: Held) -> None:
    held.offer("front", 1)
    held.offer("rear", 2)
    assert held.worker.discard("front")
    assert not held.worker.discard("front")
    assert held.finish() == [2]


def test_the_end_leaves_no_thread_and_does_no_more(held: Held) -> None:
    held.offer("front", 1)
    held.gate.set()
    held.worker.close()
    assert not any(each.name == "test worker" for each in threading.enumerate())
    assert not held.offer("front", 2)
    assert 2 not in held.done


def test_a_worker_that_is_left_ends_with_its_last_piece_of_work(held: Held) -> None:
    ended = threading.Event()
    held.offer("front", 1)
    held.worker.leave(lambda: (held.done.append("last"), ended.set()))
    assert not ended.is_set()
    held.gate.set()
    assert ended.wait(60)
    assert held.done == ["last"]
    idle, ended = LatestWorker("idle"), threading.Event()
    idle.leave(ended.set)
    assert ended.is_set()


def test_a_thread_that_could_not_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    worker, done = LatestWorker("test worker"), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            worker.offer("front", done.set)
    assert worker.offer("front", done.set) == 0
    assert done.wait(60)
    worker.close()


def test_work_may_close_its_own_worker() -> None:
    worker, closed = LatestWorker("test worker"), threading.Event()
    worker.offer("front", lambda: (worker.close(), closed.set()))
    assert closed.wait(60)
