# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""IngestChannel: messages between the executor's process and an ingest process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from typing import Any

from yolox_trt.core.documents import parse_json
from yolox_trt.core.limits import LIMITS

#: As a plain number: socket's own are enumerations, whose operators are Python.
_TRUNCATED = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)


class IngestChannel:
    """One end of a Unix socket that keeps messages whole: JSON objects, and descriptors.

    Args:
        end: the socket, of type SOCK_SEQPACKET; closed with the channel.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[IngestChannel, socket.socket]:
        """Return (this process's end, the socket for the other process)."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(here), there

    def send(self, kind: str, fd: int | None = None, *, wait: bool = True, **fields: Any) -> bool:
        """Send a message.

        Args:
            kind: what it is.
            fd: a descriptor that goes with it.
            wait: whether to wait for room; a process that is stopped makes none.
            fields: JSON values.

        Returns:
            False if the other end has gone, or takes nothing at present.

        Raises:
            ValueError: the message is too long; nothing was sent.
        """
        data = json.dumps({"kind": kind, **fields}).encode()
        if len(data) > LIMITS.message_bytes:
            raise ValueError(f"a message of {len(data)} bytes; {LIMITS.message_bytes} at most")
        flags = 0 if wait else socket.MSG_DONTWAIT
        try:
            if fd is None:
                self._socket.send(data, flags)
            else:
                socket.send_fds(self._socket, [data], [fd], flags)
        except OSError:
            return False
        return True

    def poll(self, timeout: float) -> bool:
        """Wait for a message or the other end's end; return whether there is one."""
        poll = select.poll()  # select() takes no descriptor from 1024 on
        try:
            poll.register(self._socket, select.POLLIN)
            return bool(poll.poll(timeout * 1000.0))
        except (OSError, ValueError):  # closed here
            return True

    def receive(self) -> tuple[dict[str, Any], int | None] | None:
        """Wait for a message; None when the other end has gone.

        Returns:
            (the message, the descriptor that came with it or None); its "kind" and, where it has
            one, its "camera" are strings.

        Raises:
            ValueError: a damaged message; the next one can be received.
        """
        try:
            data, fds, flags, _ = socket.recv_fds(self._socket, LIMITS.message_bytes, 1)
        except OSError:
            return None
        try:
            if not data:
                return None
            if flags & _TRUNCATED:
                raise ValueError(f"a message of more than {LIMITS.message_bytes} bytes")
            message = parse_json(data.decode())
            if not isinstance(message, dict):
                raise ValueError("no JSON object")
            if not (
                isinstance(message.get("kind"), str) and isinstance(message.get("camera", ""), str)
            ):
                raise ValueError("no kind of message, or no name of a camera")
            return message, fds.pop() if fds else None
        finally:
            for fd in fds:
                os.close(fd)

    def close(self) -> None:
        """Close this end; the other one sees it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
