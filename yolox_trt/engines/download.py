# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Download of a file: resumed where it broke off, checked by its digest, put in place at once."""

from __future__ import annotations

import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO

from yolox_trt.core.errors import ModelError, YoloxTrtError
from yolox_trt.core.files import sha256_of
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.engines.file_lock import FileLock, try_lock

_LOGGER = logging.getLogger(__name__)

_CHUNK = 1 << 18
#: Connections that may break before a download is given up.
_ATTEMPTS = 4
_TIMEOUT_S = 30.0
#: Bytes of a record of a digest that are read: the digest and a file's name.
_RECORD_BYTES = 1024


def download(
    url: str, path: Path, *, sha256: str = "", on_progress: Progress = no_progress
) -> Path:
    """Bring a file from the web, unless it is there already.

    The bytes arrive in `path` + ".part"; the file appears under its own name only when it is whole
    and its digest is right. Where the digest is known, it guards what comes in parts: a connection
    that breaks is resumed (HTTP Range), by a later call too. Where no digest is known, that of the
    first download is written beside it (".sha256") and holds from then on.

    Args:
        url: http or https address.
        path: where to.
        sha256: digest in hexadecimal, "" where unknown.
        on_progress: told the file's name, and how many of its bytes are there.

    Returns:
        The path.

    Raises:
        ModelError: no connection, a refusal of the server, a wrong digest or a damaged record of
            it, or no place on disk.
    """
    record = path.with_name(path.name + ".sha256")
    expected = sha256 or _recorded(record)
    if _is_intact(path, expected):
        return path
    if path.is_file():
        _LOGGER.warning("%s is damaged or has no known digest: it is fetched again", path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part), part.open("ab") as target:
            # Another process may have brought it between the look above and the lock, and with
            # it the digest that holds from now on.
            expected = sha256 or _recorded(record)
            if _is_intact(path, expected):
                part.unlink()
                return path
            _receive(url, target, resumable=bool(expected), on_progress=on_progress)
            target.flush()
            os.fsync(target.fileno())
            found = sha256_of(part)
            if expected and found != expected:
                part.unlink()
                raise ModelError(
                    f"'{url}' with sha256 {found}",
                    expected=f"sha256 {expected}",
                    fix="fetch it again; if that repeats, the file on the server is another one: "
                    "do not use it",
                )
            if not expected:
                record.write_text(f"{found}  {path.name}\n")
                _LOGGER.warning(
                    "%s: nobody has published its digest; sha256 %s is held from now on",
                    *(path, found),
                )
            os.replace(part, path)
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise _offline(url, path, error) from error
    except OSError as error:
        raise ModelError(
            f"'{path}' that cannot be written ({error})",
            expected="a writable folder with room",
            fix="set YOLOX_TRT_CACHE to another folder",
        ) from error
    return path


def _receive(url: str, target: IO[bytes], *, resumable: bool, on_progress: Progress) -> None:
    """Append what is missing of a file to `target`; connections that break are made again."""
    name = urllib.parse.unquote(url.rpartition("/")[2])
    for attempt in range(1, _ATTEMPTS + 1):
        if not resumable:
            target.truncate(0)
        have = before = target.seek(0, os.SEEK_END)
        request = urllib.request.Request(url, headers={"User-Agent": "yolox_trt"})
        if have:
            request.add_header("Range", f"bytes={have}-")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
                if have and response.status != 206:  # a server that sends whole files only
                    target.truncate(0)
                    have = 0
                length = response.headers.get("Content-Length") or ""
                total = have + int(length) if length.isdecimal() else None
                while chunk := response.read(_CHUNK):
                    if max(have, total or 0) > LIMITS.download_bytes:
                        raise ModelError(
                            f"'{url}' of more than {LIMITS.download_bytes} bytes",
                            expected="a model",
                            fix="check the address",
                        )
                    target.write(chunk)
                    have += len(chunk)
                    on_progress(name, have, total)
            if total in (None, have):
                return
            found: OSError = ConnectionError("the connection ended before the file did")
        except urllib.error.HTTPError as error:
            if error.code == 416:  # all of it is there, or too much: the digest tells
                return
            # A server that is there and says no will say it again.
            if error.code < 500:
                raise
            found = error
        except OSError as error:
            found = error
        except YoloxTrtError:
            raise
        # ValueError: a redirection to no address, a length of more digits than Python reads.
        except (http.client.HTTPException, ValueError) as error:
            found = ConnectionError(str(error))
        progressed = have > before
        # No name, no route, nobody listens: that will not change soon.
        unreachable = type(found) is urllib.error.URLError
        if attempt == _ATTEMPTS or (unreachable and not progressed):
            raise found
        _LOGGER.info("%s: %s; going on from where it broke off", url, found)
        time.sleep(0.0 if progressed else 0.5 * attempt)


def _is_intact(path: Path, expected: str) -> bool:
    return bool(expected) and path.is_file() and sha256_of(path) == expected


def _recorded(record: Path) -> str:
    """Return the digest that a first download has left, "" where there is none."""
    try:
        with record.open("rb") as file:
            words = file.read(_RECORD_BYTES).split()
    except OSError:
        return ""
    if words and not re.fullmatch(rb"[0-9a-fA-F]{64}", words[0]):
        raise ModelError(
            f"'{record}' without a digest",
            expected="a sha256 in hexadecimal, as the first download wrote it",
            fix="remove it if you trust the address: the next download writes it anew",
        )
    return words[0].decode().lower() if words else ""


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


def _offline(url: str, path: Path, error: OSError) -> ModelError:
    host = urllib.parse.urlsplit(url).hostname
    if isinstance(error, urllib.error.HTTPError):
        return ModelError(
            f"'{url}': {host} answered {error.code} {error.reason}",
            expected="the file",
            fix=f"download it by other means to {path}",
        )
    return ModelError(
        f"'{url}' that cannot be reached ({getattr(error, 'reason', error)})",
        expected=f"a connection to {host}",
        fix=f"download it on another machine, and copy it to {path}; what has come so far is kept",
    )
