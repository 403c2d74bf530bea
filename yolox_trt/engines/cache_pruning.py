# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What is in an engine cache, and its removal: by age and size, never what is in use."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yolox_trt.core.documents import parse_json, read_json
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError, YoloxTrtError
from yolox_trt.core.files import read_trusted
from yolox_trt.core.limits import LIMITS
from yolox_trt.engines.engine_file import sidecar_path
from yolox_trt.engines.file_lock import FileLock, try_lock
from yolox_trt.engines.fingerprint import Fingerprint

_log = logging.getLogger("yolox_trt.engine_cache")

ENGINE_SUFFIX = ".engine"
#: Suffix of the file whose lock a builder holds alone.
BUILD_LOCK = ".lock"
#: Suffix of the file whose lock every user of an engine shares; its time is that of the last use.
USE_LOCK = ".use"
RUNTIME_CACHE = ".runtime_cache"
#: Folder of the files that say which engine answers a request.
REQUESTS = "requests"
_GIB = 1 << 30
_DAY_S = 86400.0
#: Largest limit in GiB, or days: 2^63 bytes.
_MOST = 1 << 33
#: Temporary files and copies of loaded models are left alone this long: they may be in use.
_YOUNG_S = _DAY_S

#: Environment variables that set the limits; 0 is no limit.
SIZE_VARIABLE = "YOLOX_TRT_CACHE_GIB"
AGE_VARIABLE = "YOLOX_TRT_CACHE_DAYS"


@dataclass(frozen=True)
class CacheLimits:
    """How much an engine cache may hold.

    Attributes:
        max_bytes: of all engines together; None for no limit.
        max_age_s: since an engine's last use, in seconds; None for no limit. The default is a year:
            a vehicle that stood for a winter shall not build all its engines again because one
            of them has to be.
    """

    max_bytes: int | None = 4 * _GIB
    max_age_s: float | None = 365 * _DAY_S

    @classmethod
    def of(cls, gib: float | None = None, days: float | None = None) -> CacheLimits:
        """Return limits of a size in GiB and an age in days; 0 is no limit, None the default.

        The default is that of the environment, where it has one.

        Raises:
            ConfigurationError: a negative number, or an environment variable that is none.
        """
        gib = _number(SIZE_VARIABLE) if gib is None else gib
        days = _number(AGE_VARIABLE) if days is None else days
        for value in (gib, days):
            if value is not None and not 0 <= value <= _MOST:
                raise ConfigurationError(
                    f"cache limit {value}",
                    expected=f"0 (no limit) or more, up to {_MOST}",
                    fix=f"set {SIZE_VARIABLE} and {AGE_VARIABLE}, or give other limits",
                )
        return cls(
            cls.max_bytes if gib is None else int(gib * _GIB) or None,
            cls.max_age_s if days is None else days * _DAY_S or None,
        )


@dataclass(frozen=True)
class CachedEngine:
    """An engine in a cache.

    Attributes:
        path: the engine; it may be missing where `problem` says so.
        size: bytes of all its files.
        used_at: time of its last use, in seconds since the epoch.
        in_use: whether a process runs it or builds it.
        fingerprint: what it was built from and for, if its sidecar can be read.
        problem: why it will not be used; empty where nothing is wrong at first sight.
    """

    path: Path
    size: int
    used_at: float
    in_use: bool
    fingerprint: Fingerprint | None
    problem: str = ""


def list_engines(folder: Path) -> list[CachedEngine]:
    """Return a cache's engines, the one used last first. Their checksums are not read."""
    return sorted(
        (_describe(path) for path in _engine_paths(folder)), key=lambda entry: -entry.used_at
    )


def prune(
    folder: Path, limits: CacheLimits | None = None, *, dry_run: bool = False
) -> list[CachedEngine]:
    """Remove engines that were not used for long, then those used longest ago until all fit.

    What a process runs or builds stays, and so does an engine whose files cannot be removed. Each
    engine goes as a whole: its sidecar first, without which it is never run. What builds that were
    broken off left behind goes too, a day later.

    Args:
        folder: the cache's.
        limits: CacheLimits.of() when None.
        dry_run: remove nothing.

    Returns:
        The engines that were removed (or would be).
    """
    limits = CacheLimits.of() if limits is None else limits
    everything = limits.max_bytes == 0
    engines = list_engines(folder)
    total = sum(entry.size for entry in engines)
    now = time.time()
    removed = []
    for entry in reversed(engines):
        old = limits.max_age_s is not None and now - entry.used_at > limits.max_age_s
        large = everything or (limits.max_bytes is not None and total > limits.max_bytes)
        broken = bool(entry.problem) and now - entry.used_at > _YOUNG_S
        if (old or large or broken) and (
            not entry.in_use if dry_run else remove_engine(entry.path)
        ):
            total -= entry.size
            removed.append(entry)
    if not dry_run:
        # What stays may be under construction, from a model and into a file that look left over.
        emptied = everything and len(removed) == len(engines)
        _remove_leftovers(folder, float("inf") if emptied else now)
    return removed


def clear(folder: Path, *, dry_run: bool = False) -> list[CachedEngine]:
    """Remove every engine that is not in use; return them."""
    return prune(folder, CacheLimits(max_bytes=0), dry_run=dry_run)


def files_of(engine: Path) -> list[Path]:
    """Return an engine's files, the sidecar first: without it an engine is never run."""
    return [sidecar_path(engine), engine, engine.with_name(engine.name + RUNTIME_CACHE)]


def remove_engine(path: Path) -> bool:
    """Remove an engine and the files beside it; False where it is in use or cannot be removed."""
    locks = [path.with_name(path.name + suffix) for suffix in (BUILD_LOCK, USE_LOCK)]
    with contextlib.ExitStack() as held:
        try:
            for lock_path in locks:
                lock = try_lock(lock_path)
                if lock is None:
                    return False
                held.enter_context(lock)
            # The locks' files last: who waits for one of them looks whether it is still there.
            for file in (*files_of(path), *locks):
                file.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s is not removed: %s", path, error.strerror or error)
            return False
    return True


def _engine_paths(folder: Path) -> Iterator[Path]:
    """Yield the path of each engine of which any file is there."""
    seen = set()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for file in sorted(folder.iterdir()):
            name, dot, _ = file.name.rpartition(ENGINE_SUFFIX)
            if dot and not name.startswith("."):
                seen.add(folder / (name + dot))
    yield from sorted(seen)


def _describe(path: Path) -> CachedEngine:
    size = 0
    for file in files_of(path):
        with contextlib.suppress(OSError):  # missing, or removed by another process just now
            size += file.stat().st_size
    fingerprint, problem = None, ""
    if not path.is_file():
        problem = "no engine"
    else:
        try:
            values = parse_json(read_trusted(sidecar_path(path), LIMITS.json_bytes).decode())
            fingerprint = Fingerprint.from_dict(values["fingerprint"])
        except FileNotFoundError:
            problem = "no sidecar"
        except (*FILE_ERRORS, YoloxTrtError):
            problem = "sidecar cannot be read"
    return CachedEngine(path, size, _used_at(path), _in_use(path), fingerprint, problem)


def _used_at(path: Path) -> float:
    """Return the time of the last use; engines of older versions have that of their build."""
    times = []
    for suffix in (USE_LOCK, ".json", "", BUILD_LOCK):
        with contextlib.suppress(OSError):
            times.append(path.with_name(path.name + suffix).stat().st_mtime)
    return max(times, default=0.0)


def _in_use(path: Path) -> bool:
    for suffix in (BUILD_LOCK, USE_LOCK):
        try:
            lock: FileLock | None = try_lock(path.with_name(path.name + suffix), create=False)
        except FileNotFoundError:
            continue
        except OSError:
            return True  # nothing that this process could remove
        if lock is None:
            return True
        lock.close()
    return False


def _remove_leftovers(folder: Path, now: float) -> None:
    """Remove temporary files of writers that died, copies of models that were only loaded, and
    notes of requests whose engine is gone.
    """
    for file in folder.glob(f"{REQUESTS}/*.json"):
        try:
            kept = (folder / read_json(file)["engine"]).is_file()
        except FILE_ERRORS:
            kept = False
        if not kept:
            with contextlib.suppress(OSError):
                file.unlink()
    for pattern in (".*.part", "models/*.onnx", "models/.*.part", f"{REQUESTS}/.*.part"):
        for file in folder.glob(pattern):
            with contextlib.suppress(OSError):
                if now - file.stat().st_mtime > _YOUNG_S:
                    file.unlink()


def _number(variable: str) -> float | None:
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(
            f"${variable} = '{text}'",
            expected="a number; 0 for no limit",
            fix=f"set {variable}, or unset it",
        ) from None
