# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CopyCrew: threads that share a list of short jobs with the thread that brings it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence


class _Call:
    """One list of jobs: whoever is free takes the next."""

    def __init__(self, jobs: Sequence[Callable[[], None]]) -> None:
        self._left: Iterator[Callable[[], None]] = iter(jobs)  # next() is atomic
        self._count = len(jobs)
        self._errors: list[BaseException] = []
        self._ended = itertools.count(1)  # next() is atomic here, too: one thread sees the last
        self.done = threading.Lock()
        self.done.acquire()

    def work(self) -> None:
        for job in self._left:
            try:
                job()
            except BaseException as error:
                self._errors.append(error)
            if next(self._ended) == self._count:
                self.done.release()

    def raise_first(self) -> None:
        for error in self._errors:
            raise error


class CopyCrew:
    """Runs jobs that release Python's lock (copies) on several threads, the caller's among them.

    Lighter than an executor of futures: a call costs a lock's release for each thread, and the
    caller waits only for jobs that a thread has begun, not for threads that wake late.

    Args:
        threads: their number, the caller's included.
        on_start: called once on each of the others.
    """

    def __init__(self, threads: int, on_start: Callable[[], None] | None = None) -> None:
        self._on_start = on_start
        self._call: _Call | None = None
        self._closed = False
        self._bells = [threading.Lock() for _ in range(threads - 1)]
        self._threads = [
            threading.Thread(target=self._serve, args=(bell,), name="yolox_trt_copy", daemon=True)
            for bell in self._bells
        ]
        for bell in self._bells:
            bell.acquire()
        for thread in self._threads:
            thread.start()

    def run(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Run all jobs; each is started in the list's order. Not to be called by two at a time.

        Raises:
            The first error of a job, when all have ended.
        """
        if not jobs:
            return
        call = self._call = _Call(jobs)
        # A bell that is not locked has been rung before and not been heard yet: that will do.
        for bell in self._bells[: len(jobs) - 1]:
            if bell.locked():
                bell.release()
        call.work()
        call.done.acquire()
        self._call = None
        call.raise_first()

    def close(self) -> None:
        """End the threads."""
        self._closed = True
        for bell in self._bells:
            if bell.locked():
                bell.release()
        for thread in self._threads:
            thread.join()

    def _serve(self, bell: threading.Lock) -> None:
        if self._on_start is not None:
            self._on_start()
        while True:
            bell.acquire()
            if self._closed:
                return
            call = self._call
            if call is not None:
                call.work()
