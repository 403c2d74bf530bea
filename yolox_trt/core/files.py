# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Files: written whole or not at all, their digests, and the folders of the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from yolox_trt.core.limits import LIMITS

#: Environment variable that replaces the user's cache folder.
CACHE_VARIABLE = "YOLOX_TRT_CACHE"

_CHUNK = 1 << 20


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, whole.

    It has the mode of the file whose place it takes, else the one that the umask gives.

    Raises:
        OSError: as open() and rename() do.
    """
    _write(path, data, 0o666, _mode_of(path))


def write_trusted(path: Path, data: bytes) -> None:
    """Write a file as write_atomically does, but so that read_trusted takes it.

    Nobody but its owner may write it, whatever the umask and the file before it allow.
    """
    _write(path, data, 0o644, None)


def _write(path: Path, data: bytes, mode: int, kept_mode: int | None) -> None:
    part = scratch_path(path.parent)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if kept_mode is not None:  # before there is anything to be read
                os.fchmod(file.fileno(), kept_mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def scratch_path(folder: Path) -> Path:
    """Return a path for what is being written; it is short where the final name is long."""
    return folder / f".{secrets.token_hex(8)}.part"


def _mode_of(path: Path) -> int | None:
    """Return who may read and write a file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mode & 0o777 if stat.S_ISREG(status.st_mode) else None


def read_upto(file: Any, most: int) -> bytes:
    """Return the bytes of an open file, `most` of them at most.

    Memory is taken as they come: file.read(most) would take `most` bytes first.
    """
    pieces, left = [], most
    while left > 0 and (piece := file.read(min(left, _CHUNK))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def open_plain(path: str | Path, flags: int = 0) -> BinaryIO:
    """Open a file to read it: no pipe, which waits for a writer, and no device, which has no end.

    Args:
        path: the file.
        flags: more of those of os.open.

    Raises:
        OSError: as open() does, or it is no plain file.
    """
    more = os.O_NONBLOCK | flags
    file = open(path, "rb", opener=lambda name, own: os.open(name, own | more))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("no plain file")
    return file


def read_at_most(path: str | Path, most: int) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: as open_plain() and read() do.
        ValueError: the file has more bytes than `most`, which are not read.
    """
    with open_plain(path) as file:
        data = read_upto(file, most + 1) if os.fstat(file.fileno()).st_size <= most else None
    if data is None or len(data) > most:
        raise ValueError(f"more than {most} bytes")
    return data


def scratch_room() -> int:
    """Return how many bytes may be put into the folder for temporary files now."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    return min(LIMITS.scratch_bytes, free // 2)


@contextlib.contextmanager
def whole_or_none(path: Path) -> Iterator[Path]:
    """Have a file or folder written beside its final place, under its own name.

    It moves to its place when the block ends in order, and is removed else. A file has the mode of
    the one whose place it takes.

    Args:
        path: the place; a folder must not exist yet.

    Yields:
        Where to write it.

    Raises:
        OSError: as mkdir() and rename() do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_path(path.parent)
    scratch.mkdir(mode=0o700)
    try:
        part = scratch / path.name
        yield part
        if (mode := _mode_of(path)) is not None:
            part.chmod(mode)
        os.replace(part, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def make_plain_folder(path: Path) -> None:
    """Make a folder, with those above it, unless it is there.

    Raises:
        OSError: as mkdir() does, or it is a link.
    """
    path.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise OSError(f"{path} is a symbolic link")


def read_trusted(path: str | Path, most: int | None = None) -> bytes:
    """Return the bytes of a file that nobody but this user, or root, can have written.

    What is looked at is what is read: the file is opened once, and not through a link.

    Args:
        path: the file.
        most: bytes that it may have; None for any number.

    Raises:
        OSError: as open_plain() and read() do, or the file is not to be trusted, or has more bytes;
            the text tells why.
    """
    if os.path.islink(path):
        raise OSError("a symbolic link")
    with open_plain(path, os.O_NOFOLLOW) as file:
        status = os.fstat(file.fileno())
        if status.st_uid not in (0, os.geteuid()):
            raise PermissionError(f"it belongs to user {status.st_uid}, not to {os.geteuid()}")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"others may write it: mode {stat.S_IMODE(status.st_mode):o}")
        if most is not None and status.st_size > most:
            raise OSError(f"more than {most} bytes")
        return file.read()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: as open_plain() and read() do.
    """
    digest = hashlib.sha256()
    with open_plain(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder(name: str) -> Path:
    """Return $YOLOX_TRT_CACHE/NAME, or else $XDG_CACHE_HOME (~/.cache)/yolox_trt/NAME."""
    own = os.environ.get(CACHE_VARIABLE)
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "yolox_trt"
    return base.expanduser() / name
