# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""EngineCache: built engines in a folder, found again by their fingerprint."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from yolox_trt.core.documents import parse_json
from yolox_trt.core.errors import FILE_ERRORS, EngineError, YoloxTrtError
from yolox_trt.core.files import cache_folder, make_plain_folder, read_trusted, write_trusted
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.option import parse_path
from yolox_trt.core.output_paths import json_text
from yolox_trt.engines.cache_pruning import (
    BUILD_LOCK,
    REQUESTS,
    RUNTIME_CACHE,
    USE_LOCK,
    CacheLimits,
    prune,
)
from yolox_trt.engines.engine_file import (
    BuiltEngine,
    EngineFile,
    read_engine,
    sidecar_path,
    write_engine,
    writing_to,
)
from yolox_trt.engines.file_lock import FileLock, try_lock, wait_for_lock
from yolox_trt.engines.fingerprint import Fingerprint, model_sha256
from yolox_trt.engines.trt_api import ProgressCallback

_log = logging.getLogger("yolox_trt.engine_cache")

_LEASE_POLL_S = 0.01
_LEASE_WAIT_S = 5.0


@dataclass(frozen=True)
class CacheEntry:
    """An engine that the cache found or had built.

    Attributes:
        file: the engine and what its sidecar says.
        built: whether it was built by this call.
        reason: why it was built ("not in the cache", ...), or "found".
        lease: while it is held, no process removes the engine; None where the cache is read-only.
            It is released by close(), or with its last reference.
    """

    file: EngineFile
    built: bool
    reason: str
    lease: FileLock | None = None


class EngineCache:
    """A folder of engines, each named by its model, device, precision, batch and fingerprint.

    An engine is used only if its sidecar's fingerprint equals the wanted one, the file has the
    checksum that the sidecar names, and both belong to this user or root and cannot be written by
    anybody else. Everything else is rebuilt. No link is followed. Processes and threads that
    want the same engine wait for the first of them, which builds it. After a build the engines
    used longest ago make room where the cache has grown over its limits.

    Args:
        folder: made when something is written; the user's when None.

    Attributes:
        limits: CacheLimits.of(), which the environment may set.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = parse_path(str(folder)) if folder else cache_folder("engines")
        self.limits = CacheLimits.of()

    def path_of(self, fingerprint: Fingerprint, *, name: str) -> Path:
        """Return where an engine is or would be."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", name) or "model"
        batch = fingerprint.batch[2]
        return self.folder / (
            f"{stem}.{fingerprint.device}.{fingerprint.precision}.b{batch}"
            f".{fingerprint.key[:16]}.engine"
        )

    def find(self, fingerprint: Fingerprint, *, name: str) -> EngineFile:
        """Return a usable engine.

        Raises:
            EngineError: there is none; the text tells why.
        """
        path = self.path_of(fingerprint, name=name)
        if not path.exists():
            raise EngineError("not in the cache")
        file = read_engine(path)
        differences = fingerprint.differences(file.fingerprint)
        if differences:
            raise EngineError(f"it is of another build ({', '.join(differences)})")
        return file

    def find_requested(
        self, request: str, *, name: str, model: Path, own: str
    ) -> CacheEntry | None:
        """Return the engine that a request was answered with before, without opening the model.

        Args:
            request: key of the request, as `remember` was told.
            name: the model's name.
            model: the ONNX file; what it keeps in other files must be as it was.
            own: SHA-256 of the ONNX file alone.
        """
        try:
            known = parse_json(
                read_trusted(self._request_path(request), LIMITS.json_bytes).decode()
            )
            fingerprint = Fingerprint.from_dict(known["fingerprint"])
            if fingerprint.onnx_sha256 != model_sha256(model, known["external_files"], own=own):
                return None
            return self._found(fingerprint, name)
        except (*FILE_ERRORS, YoloxTrtError):
            return None  # not asked before, or the engine is no longer there

    def remember(
        self, request: str, fingerprint: Fingerprint, *, name: str, external_files: Sequence[str]
    ) -> None:
        """Note which engine answers a request, for find_requested; a read-only cache does not."""
        path = self._request_path(request)
        with contextlib.suppress(OSError):
            make_plain_folder(path.parent)
            engine = self.path_of(fingerprint, name=name).name
            answer = {
                "engine": engine,
                "fingerprint": fingerprint.to_dict(),
                "external_files": list(external_files),
            }
            write_trusted(path, json_text(answer).encode())

    def _request_path(self, request: str) -> Path:
        return self.folder / REQUESTS / f"{request[:32]}.json"

    def get_or_build(
        self,
        fingerprint: Fingerprint,
        build: Callable[[], BuiltEngine],
        *,
        name: str,
        on_progress: ProgressCallback | None = None,
        rebuild: str = "",
    ) -> CacheEntry:
        """Return the engine with this fingerprint, building it if need be.

        Args:
            fingerprint: what is wanted.
            build: builds it; called with the engine's lock held.
            name: the model's name, for the file's name.
            on_progress: on_progress(fraction, phase), called while another process builds too.
            rebuild: a reason to build although the engine is there, such as that TensorRT
                refused it; empty for none.

        Raises:
            EngineError: the build failed, or the folder cannot be written.
        """
        if not rebuild:
            # Without the lock, so that a read-only cache serves what it has.
            with contextlib.suppress(EngineError):
                return self._found(fingerprint, name)
        entry = self._build(fingerprint, build, name, on_progress, rebuild)
        if entry.built:
            for removed in prune(self.folder, self.limits):
                _log.info("%s is removed from the cache to make room", removed.path.name)
        return entry

    def _found(self, fingerprint: Fingerprint, name: str) -> CacheEntry:
        path = self.path_of(fingerprint, name=name)
        # First the lease, then the look: what is found stays.
        lease = self._lease(path) if path.exists() else None
        return CacheEntry(self.find(fingerprint, name=name), False, "found", lease)

    @staticmethod
    def _lease(path: Path) -> FileLock | None:
        """Take the lease of an engine, and note its use."""
        until = time.monotonic() + _LEASE_WAIT_S
        while True:
            try:
                lease = try_lock(path.with_name(path.name + USE_LOCK), shared=True)
            except OSError:
                return None  # a read-only cache, from which nobody can remove anything
            if lease is not None:
                lease.touch()
                return lease
            # Somebody looks whether it is in use, or removes it: both are quick.
            if time.monotonic() > until:
                return None
            time.sleep(_LEASE_POLL_S)

    def _build(
        self,
        fingerprint: Fingerprint,
        build: Callable[[], BuiltEngine],
        name: str,
        on_progress: ProgressCallback | None,
        rebuild: str,
    ) -> CacheEntry:
        path = self.path_of(fingerprint, name=name)
        before = _stamp(sidecar_path(path))
        with self._locked(path, on_progress):
            reason = rebuild
            # What another process built meanwhile is not the engine that was refused.
            if not rebuild or _stamp(sidecar_path(path)) != before:
                try:
                    return self._found(fingerprint, name)
                except EngineError as error:
                    reason = reason or error.found
            _log.info("building %s: %s", path.name, reason)
            started = time.monotonic()
            built = build()
            times = {
                "built_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "build_seconds": round(time.monotonic() - started, 3),
            }
            built = dataclasses.replace(built, details={**built.details, **times})
            with writing_to(self.folder):  # what the former engine's runtime compiled
                path.with_name(path.name + RUNTIME_CACHE).unlink(missing_ok=True)
            file = write_engine(path, built, fingerprint)
            return CacheEntry(file, True, reason, self._lease(path))

    def _locked(self, path: Path, on_progress: ProgressCallback | None) -> FileLock:
        """Return the engine's lock, waiting for another process or thread that builds it.

        The kernel releases a lock when its process dies, so no lock outlives its owner.
        """
        logged = False

        def on_wait() -> None:
            nonlocal logged
            if not logged:
                _log.info("waiting for another process that builds %s", path.name)
                logged = True
            if on_progress is not None:
                on_progress(0.0, "waiting for another process that builds this engine")

        with writing_to(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = try_lock(path.with_name(path.name + BUILD_LOCK))
        # Not within the block above: what on_progress raises is no fault of the folder.
        return lock or wait_for_lock(path.with_name(path.name + BUILD_LOCK), on_wait=on_wait)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from the one that replaced it."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
