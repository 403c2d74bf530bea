# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Web servers that take their time: what is waited for has an end, however little comes of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.web import received

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n"


@contextlib.contextmanager
def dripping(head: bytes, drop: bytes) -> Iterator[str]:
    """Serve the beginning of a response, and then a little every 20 ms; yield the address."""
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(4096)
            connection.sendall(head)
            while not ended.wait(0.02):
                connection.sendall(drop)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while not ended.is_set():
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 99999\r\n\r\n", b"a"),
    ],
)
def test_an_answer_that_drips_is_none(head: bytes, drop: bytes) -> None:
    begin = time.monotonic()
    with (
        dripping(head, drop) as address,
        pytest.raises(ConfigurationError, match=r"/a', which did not answer in 0\.3 s"),
    ):
        received(f"{address}/a", 4000, 0.3, 60.0)
    assert time.monotonic() - begin < 5.0


@pytest.mark.parametrize(
    ("head", "drop"),
    [(HEAD + b"\r\n", b"a"), (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0")],
)
def test_a_file_that_drips_is_given_up(head: bytes, drop: bytes) -> None:
    begin = time.monotonic()
    with (
        dripping(head, drop) as address,
        pytest.raises(
            ConfigurationError, match=r"/a' that cannot be fetched \(\d+ bytes in 0\.3 s"
        ),
    ):
        received(f"{address}/a", 4000, 1.0, 0.3)
    assert time.monotonic() - begin < 5.0


def test_a_file_that_comes_slowly_has_its_own_time() -> None:
    with dripping(HEAD + b"\r\n", bytes(100)) as address:
        assert received(f"{address}/a", 4000, 0.3, 20.0) == bytes(3000)


@pytest.mark.parametrize("url", ["http://[::1", "http://..a/x", "x://y", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be fetched"):
        received(url, 4000, 1.0, 1.0)
