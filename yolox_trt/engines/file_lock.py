# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Locks on files that may be removed: the kernel frees them when their process dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

_POLL_S = 0.1


class FileLock:
    """A lock that is held until close(), or until the object or its process is gone.

    Args:
        descriptor: an open file with a flock; it is closed with the lock.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def touch(self) -> None:
        """Note the present time as the file's time of last use."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.utime(self._descriptor)

    def close(self) -> None:
        """Release the lock; the file stays, others may wait on it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()


def try_lock(path: Path, *, shared: bool = False, create: bool = True) -> FileLock | None:
    """Lock a file without waiting; None where another holds it.

    Args:
        path: the file; made where it is missing, unless `create` says no.
        shared: others may hold it too, if they share it.
        create: whether to make the file. Without it, a file that is missing is not locked.

    Raises:
        OSError: the file cannot be opened or made.
    """
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    # Sharing needs no right to write, which another user's file may refuse.
    flags = (os.O_RDONLY if shared else os.O_RDWR) | (os.O_CREAT if create else 0)
    # Through a link, a file would be made wherever it points to.
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            fcntl.flock(descriptor, kind)
            if _is_still(descriptor, path):
                return FileLock(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        # It was removed, or replaced, between open and lock: that lock keeps nobody out.
        os.close(descriptor)


def wait_for_lock(path: Path, *, on_wait: Callable[[], None] | None = None) -> FileLock:
    """Lock a file alone, once nobody else holds it.

    Args:
        path: the file; made where it is missing.
        on_wait: called every 0.1 s while another holds it.

    Raises:
        OSError: the file cannot be opened or made.
    """
    while (lock := try_lock(path)) is None:
        if on_wait is not None:
            on_wait()
        time.sleep(_POLL_S)
    return lock


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
