# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""IngestChannel: messages between the executor's process and an ingest process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import Any

#: Longest message; frame headers take some hundred bytes.
_LARGEST = 1 << 16


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

    def fileno(self) -> int:
        """Descriptor of the socket."""
        return self._socket.fileno()

    def send(self, kind: str, fd: int | None = None, **fields: Any) -> bool:
        """Send a message.

        Args:
            kind: what it is.
            fd: a descriptor that goes with it.
            fields: JSON values.

        Returns:
            False if the other end has gone.
        """
        data = json.dumps({"kind": kind, **fields}).encode()
        try:
            if fd is None:
                self._socket.send(data)
            else:
                socket.send_fds(self._socket, [data], [fd])
        except OSError:
            return False
        return True

    def receive(self) -> tuple[dict[str, Any], int | None] | None:
        """Wait for a message; None when the other end has gone.

        Returns:
            (the message, the descriptor that came with it or None).
        """
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, _LARGEST, 1)
        except OSError:
            return None
        if not data:
            for fd in fds:
                os.close(fd)
            return None
        return json.loads(data), fds[0] if fds else None

    def close(self) -> None:
        """Close this end; the other one sees it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
