# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A web server on this machine: images, a camera that sends JPEGs, and one that never answers."""

from __future__ import annotations

import http.server
import threading
import time
from typing import Any

import cv2
import numpy as np


class Server:
    """Serves while its `with` block runs."""

    def __init__(self) -> None:
        #: Path -> type and content.
        self.files: dict[str, tuple[str, bytes]] = {}
        #: Path of a file that is not sent to its end.
        self.broken = ""
        self._ended = threading.Event()
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Server:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def image(self, name: str, pixels: np.ndarray, kind: str = "image/png") -> str:
        """Serve an image; return its address."""
        self.files[f"/{name}"] = (kind, cv2.imencode(".png", pixels)[1].tobytes())
        return f"{self.address}/{name}"

    def camera(self, pixels: np.ndarray) -> str:
        """Serve a picture again and again, as a network camera does; return its address."""
        jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
        self.files["/camera"] = ("multipart/x-mixed-replace; boundary=frame", jpeg)
        return f"{self.address}/camera"

    def hang_up(self) -> None:
        """End the cameras."""
        self._ended.set()

    @property
    def silent(self) -> str:
        """Address that never answers."""
        return f"{self.address}/silent"

    def answer(self, request: Any) -> None:
        if request.path.startswith("/silent"):
            self._ended.wait(30)
            return
        kind, data = self.files.get(request.path, ("", b""))
        request.send_response(200 if kind else 404)
        request.send_header("Content-Type", kind or "text/plain")
        if "multipart" not in kind:
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            request.wfile.write(data[: len(data) // 2] if request.path == self.broken else data)
            return
        request.end_headers()
        try:
            while not self._ended.is_set():
                data = self.files[request.path][1]
                part = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                request.wfile.write(part.encode() + data + b"\r\n")
                time.sleep(0.02)
        except OSError:
            pass  # the reader has gone
