# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Files from web servers, which have their time to answer and to send, however they go about it."""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from yolox_trt.core.errors import ConfigurationError


def no_answer(address: str, answer_s: float) -> ConfigurationError:
    """Return the error of a source that does not answer in so many seconds."""
    return ConfigurationError(
        f"source '{address}', which did not answer in {answer_s:g} s",
        expected="a camera or a server that sends images",
        fix="check the address, and that this machine reaches it",
    )


@contextlib.contextmanager
def asked(url: str, answer_s: float) -> Iterator[tuple[Any, _Deadline]]:
    """Ask a web server for a file, and yield its response.

    Args:
        url: the file's address.
        answer_s: seconds until the head of the response is there, redirections included, and
            between two parts of what follows.

    Yields:
        The response, and the time by which all of it must have been read; none at first.

    Raises:
        ConfigurationError: no answer, or none with a file.
    """
    deadline = _Deadline(answer_s)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "yolox_trt"})
        with _opener(deadline).open(request, timeout=answer_s) as response:
            deadline.end = float("inf")
            yield response, deadline
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", error), TimeoutError):
            raise no_answer(url, answer_s) from error
        raise ConfigurationError(
            f"source '{url}' that cannot be fetched ({error})",
            expected="an image or a video",
            fix="check the address",
        ) from error


def received(url: str, most: int, answer_s: float, transfer_s: float) -> bytes:
    """Return a file, and `most` bytes of it at most.

    Args:
        url: its address.
        most: bytes.
        answer_s: see asked.
        transfer_s: seconds in which all of it must be there.

    Raises:
        ConfigurationError: no answer, no such file, or not all of it in time.
    """
    data = bytearray()
    with asked(url, answer_s) as (response, deadline):
        deadline.end = time.monotonic() + transfer_s
        try:
            while len(data) < most and (part := response.read1(min(1 << 16, most - len(data)))):
                data += part
                deadline.left()
        except TimeoutError:
            if time.monotonic() < deadline.end:  # a pause in it was too long
                raise
            raise OSError(f"{len(data)} bytes in {transfer_s:g} s") from None
        if response.length and len(data) < most:
            raise OSError(f"it broke off, {response.length} bytes before its end")
    return bytes(data)


class _Deadline:
    """When an exchange must have ended.

    Attributes:
        pause: seconds that one read may take.
        end: of time.monotonic().
    """

    def __init__(self, seconds: float) -> None:
        self.pause, self.end = seconds, time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that the next step may take.

        Raises:
            TimeoutError: there are none.
        """
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return min(left, self.pause)


class _TimedFile(io.RawIOBase):
    """What a socket receives, byte by byte or not, until the deadline.

    The timeout of a socket begins anew with each byte: a server that sends one now and then would
    never exceed it.
    """

    def __init__(self, connection: Any, file: Any, deadline: _Deadline) -> None:
        super().__init__()
        self._connection, self._file, self._deadline = connection, file, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._connection.settimeout(self._deadline.left())
        count: int | None = self._file.readinto(buffer)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, deadline: _Deadline, sock: Any, *arguments: Any, **settings: Any) -> None:
        super().__init__(sock, *arguments, **settings)
        file: Any = self.fp
        self.fp = io.BufferedReader(_TimedFile(sock, file.detach(), deadline))


def _opener(deadline: _Deadline) -> urllib.request.OpenerDirector:
    """Return what opens addresses, all of whose connections end by the deadline."""

    def timed(kind: Callable[..., Any]) -> Any:
        def connection(host: str, *, timeout: float, **settings: Any) -> Any:
            made = kind(host, timeout=min(timeout, deadline.left()), **settings)
            made.response_class = functools.partial(_TimedResponse, deadline)
            return made

        return connection

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: Any) -> Any:
            return self.do_open(timed(http.client.HTTPConnection), req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: Any) -> Any:
            return self.do_open(timed(http.client.HTTPSConnection), req)

    return urllib.request.build_opener(Http, Https)
