# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Files: written whole or not at all, their digests, and the folders of the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

#: Environment variable that replaces the user's cache folder.
CACHE_VARIABLE = "YOLOX_TRT_CACHE"

_CHUNK = 1 << 20


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, whole.

    Raises:
        OSError: as open() and rename() do.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes files that only their owner may read
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: as open() and read() do.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder(name: str) -> Path:
    """Return $YOLOX_TRT_CACHE/NAME, or else $XDG_CACHE_HOME (~/.cache)/yolox_trt/NAME."""
    own = os.environ.get(CACHE_VARIABLE)
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "yolox_trt"
    return base.expanduser() / name
