# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""LatestWorker: a thread that does the newest pieces of work of each camera."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

#: Threads that end by themselves, and the seconds that the end of the process waits for them: one
#: that is still inside a library would abort it.
_LEFT: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
LEFT_LIMIT = 2.0


@atexit.register
def _join_left() -> None:
    end = time.monotonic() + LEFT_LIMIT
    for thread in list(_LEFT):
        thread.join(max(0.0, end - time.monotonic()))


class LatestWorker:
    """One thread for work that must not hold up the one who hands it over.

    Work that newer work of the same camera overtakes is not done. The cameras take turns.

    Args:
        name: name of the thread, which starts with the first piece of work.
        depth: pieces of work of one camera that wait, in order; one more overtakes them all.
    """

    def __init__(self, name: str, depth: int = 1) -> None:
        self._name = name
        self._depth = depth
        self._pending: dict[str, deque[tuple[Callable[..., None], tuple[Any, ...]]]] = {}
        self._condition = threading.Condition()
        self._closed = False
        self._last: tuple[Callable[[], object], ...] = ()
        self._thread: threading.Thread | None = None

    def offer(self, camera: str, work: Callable[..., None], *args: Any) -> int:
        """Have `work(*args)` done soon, in the thread; it must raise nothing.

        Returns:
            How many older pieces of work of the camera give way, and will not be done.

        Raises:
            RuntimeError: the system has no room for the thread; the next piece may have more luck.
        """
        with self._condition:
            if self._closed:
                return 0
            self._start()
            waiting = self._pending.setdefault(camera, deque())
            replaced = len(waiting) if len(waiting) >= self._depth else 0
            if replaced:
                waiting.clear()
            waiting.append((work, args))
            self._condition.notify()
        return replaced

    def discard(self, camera: str) -> int:
        """Forget what waits of a camera; return how much did."""
        with self._condition:
            return len(self._pending.pop(camera, ()))

    def close(self) -> None:
        """End the thread after the work that it is doing; what waits is not done."""
        thread = self._end(())
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def leave(self, last: Callable[[], object]) -> None:
        """Have the thread end by itself after the work that it is doing, and `last()`.

        Without a thread `last()` is called here.
        """
        thread = self._end((last,))
        if thread is None:
            last()
        else:
            _LEFT.add(thread)

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
            self._thread = thread

    def _end(self, last: tuple[Callable[[], object], ...]) -> threading.Thread | None:
        with self._condition:
            self._closed = True
            self._last = last
            self._pending.clear()
            self._condition.notify()
            return self._thread

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._pending and not self._closed:
                    self._condition.wait()
                if self._closed:
                    break
                # Dictionaries keep the order of first insertion: cameras take turns.
                camera, waiting = next(iter(self._pending.items()))
                work, args = waiting.popleft()
                del self._pending[camera]
                if waiting:
                    self._pending[camera] = waiting
            work(*args)
            del work, args  # an image is kept no longer than needed
        for each in self._last:
            each()
