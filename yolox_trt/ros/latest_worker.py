# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""LatestWorker: a thread that does the newest pieces of work of each camera."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any


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
        self._thread: threading.Thread | None = None

    def offer(self, camera: str, work: Callable[..., None], *args: Any) -> int:
        """Have `work(*args)` done soon, in the thread; it must raise nothing.

        Returns:
            How many older pieces of work of the camera give way, and will not be done.
        """
        with self._condition:
            if self._closed:
                return 0
            waiting = self._pending.setdefault(camera, deque())
            replaced = len(waiting) if len(waiting) >= self._depth else 0
            if replaced:
                waiting.clear()
            waiting.append((work, args))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._condition.notify()
        return replaced

    def discard(self, camera: str) -> int:
        """Forget what waits of a camera; return how much did."""
        with self._condition:
            return len(self._pending.pop(camera, ()))

    def close(self) -> None:
        """End the thread after the work that it is doing; what waits is not done."""
        with self._condition:
            self._closed = True
            self._pending.clear()
            self._condition.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._pending and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                # Dictionaries keep the order of first insertion: cameras take turns.
                camera, waiting = next(iter(self._pending.items()))
                work, args = waiting.popleft()
                del self._pending[camera]
                if waiting:
                    self._pending[camera] = waiting
            work(*args)
            del work, args  # an image is kept no longer than needed
