# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CompressedDecoder: decodes a camera's compressed images away from rclpy's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class CompressedDecoder:
    """One thread that decodes the newest compressed image; OpenCV decodes without the GIL.

    Args:
        name: name of the camera, for the thread's name.
        decode: called in the thread with (message, received_ns); raises nothing.
        on_replaced: called when a newer message takes the place of one that was not decoded.
    """

    def __init__(
        self,
        name: str,
        decode: Callable[[Any, int], None],
        on_replaced: Callable[[], None],
    ) -> None:
        self._decode = decode
        self._on_replaced = on_replaced
        self._pending: tuple[Any, int] | None = None
        self._closed = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"decode {name}", daemon=True)
        self._thread.start()

    def offer(self, message: Any, received_ns: int) -> None:
        """Hand a message over; it replaces one that still waits."""
        with self._condition:
            replaced = self._pending is not None
            self._pending = (message, received_ns)
            self._condition.notify()
        if replaced:
            self._on_replaced()

    def close(self) -> None:
        """End the thread after the image that it is decoding; one that waits is given up."""
        with self._condition:
            self._closed = True
            given_up = self._pending is not None
            self._pending = None
            self._condition.notify()
        if given_up:
            self._on_replaced()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._pending is None and not self._closed:
                    self._condition.wait()
                if self._pending is None:
                    return
                pending, self._pending = self._pending, None
            self._decode(*pending)
