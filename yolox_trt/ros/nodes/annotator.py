# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Annotator: draws results into images in a thread of its own, the newest of each camera."""

from __future__ import annotations

import threading
from collections.abc import Callable

from yolox_trt.executor.stream_result import StreamResult


class Annotator:
    """One thread for all cameras, so that drawing never holds a Device's worker up.

    A result that a newer one of the same camera overtakes is not drawn: ~/annotated is a view for
    people, and ~/detections carries every result.
    """

    def __init__(self) -> None:
        self._pending: dict[str, tuple[Callable[[StreamResult], None], StreamResult]] = {}
        self._condition = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def offer(
        self, camera: str, draw: Callable[[StreamResult], None], result: StreamResult
    ) -> None:
        """Draw a result soon; the thread starts with the first one.

        Args:
            camera: whose result it is.
            draw: called in the thread with the result; raises nothing.
            result: what to draw; its frame is kept until then.
        """
        with self._condition:
            if self._closed:
                return
            self._pending[camera] = (draw, result)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="annotate", daemon=True)
                self._thread.start()
            self._condition.notify()

    def discard(self, camera: str) -> None:
        """Forget what waits of a camera."""
        with self._condition:
            self._pending.pop(camera, None)

    def close(self) -> None:
        """End the thread; what waits is not drawn."""
        with self._condition:
            self._closed = True
            self._pending.clear()
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._pending and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                # Dictionaries keep the order of first insertion: cameras take turns.
                camera = next(iter(self._pending))
                draw, result = self._pending.pop(camera)
            draw(result)
            del draw, result
