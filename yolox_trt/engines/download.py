# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Download of a file: resumed where it broke off, checked by its digest, put in place at once."""

from __future__ import annotations

import http.client
import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from yolox_trt.core.errors import ModelError
from yolox_trt.core.files import sha256_of
from yolox_trt.engines.file_lock import FileLock, try_lock

_LOGGER = logging.getLogger(__name__)

_CHUNK = 1 << 18
#: Connections that may break before a download is given up.
_ATTEMPTS = 4
_TIMEOUT_S = 30.0


def download(
    url: str,
    path: Path,
    *,
    sha256: str = "",
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Bring a file from the web, unless it is there already.

    The bytes arrive in `path` + ".part", which a later call continues (HTTP Range, if the file has
    not changed on the server); the file appears under its own name only when it is whole and its
    digest is right. Where no digest is known, that of the first download is written beside it
    (".sha256") and holds from then on.

    Args:
        url: http or https address.
        path: where to.
        sha256: digest in hexadecimal, "" where unknown.
        on_progress: called with the file's name, the bytes that are there and the bytes of the
            whole (0 where unknown).

    Returns:
        The path.

    Raises:
        ModelError: no connection, a refusal of the server, a wrong digest, or no place on disk.
    """
    record = path.with_name(path.name + ".sha256")
    expected = sha256 or _recorded(record)
    if path.is_file():
        if expected and sha256_of(path) == expected:
            return path
        _LOGGER.warning("%s is damaged or has no known digest: it is fetched again", path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part), part.open("ab") as target:
            # Another process may have brought it between the look above and the lock.
            if expected and path.is_file() and sha256_of(path) == expected:
                part.unlink()
                return path
            _receive(url, target, on_progress)
            target.flush()
            os.fsync(target.fileno())
            found = sha256_of(part)
            if expected and found != expected:
                part.unlink()
                _version(part).unlink(missing_ok=True)
                raise ModelError(
                    f"'{url}' with sha256 {found}",
                    expected=f"sha256 {expected}",
                    fix="fetch it again; if that repeats, the file on the server is another one: "
                    "do not use it",
                )
            os.replace(part, path)
        if not sha256 and not record.is_file():
            record.write_text(f"{found}  {path.name}\n")
            _LOGGER.warning(
                "%s: nobody has published its digest; sha256 %s is held from now on", path, found
            )
        _version(part).unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, urllib.error.URLError | ConnectionError | TimeoutError):
            raise _offline(url, path, error) from error
        raise ModelError(
            f"'{path}' that cannot be written ({error})",
            expected="a writable folder with room",
            fix="set YOLOX_TRT_CACHE to another folder",
        ) from error
    return path


def _receive(
    url: str, target: IO[bytes], on_progress: Callable[[str, int, int], None] | None
) -> None:
    """Append what is missing of a file to `target`; connections that break are made again."""
    name = urllib.parse.unquote(url.rpartition("/")[2])
    for attempt in range(1, _ATTEMPTS + 1):
        before = target.seek(0, os.SEEK_END)
        try:
            if _receive_once(url, target, name, on_progress):
                return
            found: Exception = ConnectionError("the connection ended before the file did")
        except urllib.error.HTTPError as error:
            # A server that is there and says no will say it again.
            if error.code < 500:
                raise
            found = error
        except (OSError, http.client.HTTPException) as error:
            found = error
        target.flush()
        progressed = target.seek(0, os.SEEK_END) > before
        if attempt == _ATTEMPTS or (not progressed and _is_unreachable(found)):
            if isinstance(found, OSError):
                raise found
            raise ConnectionError(str(found)) from found
        _LOGGER.info("%s: %s; going on from where it broke off", url, found)
        time.sleep(0.0 if progressed else 0.5 * attempt)


def _receive_once(
    url: str,
    target: IO[bytes],
    name: str,
    on_progress: Callable[[str, int, int], None] | None,
) -> bool:
    """Receive over one connection; return whether the file is whole."""
    part = Path(target.name)
    have = target.seek(0, os.SEEK_END)
    version = _version(part)
    known = version.read_text() if version.is_file() else ""
    request = urllib.request.Request(url, headers={"User-Agent": "yolox_trt"})
    if have and known:
        request.add_header("Range", f"bytes={have}-")
        # Only if the server still has the file that the first part came from.
        request.add_header("If-Range", known)
    elif have:
        target.truncate(0)
        have = 0
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return True
        if error.code == 416:
            target.truncate(0)
            version.unlink(missing_ok=True)
            return False
        raise
    with response:
        if response.status != 206 and have:
            target.truncate(0)
            have = 0
        tag = response.headers.get("ETag", "")
        # A weak ETag must not be used for ranges (RFC 9110, 13.1.5).
        strong = tag if tag and not tag.startswith("W/") else ""
        version.write_text(strong or response.headers.get("Last-Modified", ""))
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else 0
        while chunk := response.read(_CHUNK):
            target.write(chunk)
            have += len(chunk)
            if on_progress is not None:
                on_progress(name, have, total)
    return not total or have == total


def _version(part: Path) -> Path:
    """Return the file that holds the server's ETag or date of a partial download."""
    return part.with_name(part.name + ".version")


def _recorded(record: Path) -> str:
    try:
        return record.read_text().split()[0]
    except (OSError, IndexError):
        return ""


def _locked(part: Path) -> FileLock:
    """Lock a partial file, which no other process writes then."""
    lock = try_lock(part)
    if lock is None:
        raise ModelError(
            f"'{part}' that another process is writing",
            expected="one download at a time",
            fix="wait for it to end",
        )
    return lock


def _is_unreachable(error: Exception) -> bool:
    """Whether there is no way to the server at all (no name, no route, nobody listens)."""
    return isinstance(error, urllib.error.URLError) and not isinstance(
        error, urllib.error.HTTPError
    )


def _offline(url: str, path: Path, error: Exception) -> ModelError:
    host = urllib.parse.urlsplit(url).hostname
    if isinstance(error, urllib.error.HTTPError):
        return ModelError(
            f"'{url}': {host} answered {error.code} {error.reason}",
            expected="the file",
            fix=f"download it by other means to {path}",
        )
    reason = getattr(error, "reason", error)
    return ModelError(
        f"'{url}' that cannot be reached ({reason})",
        expected=f"a connection to {host}",
        fix=f"download it on another machine, and copy it to {path}; what has come so far is kept",
    )
