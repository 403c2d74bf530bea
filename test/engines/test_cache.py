# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The engine cache: found, stale, corrupt, foreign, built by two at once."""

from __future__ import annotations

import dataclasses
import json
import os
import textwrap
import threading
from pathlib import Path

import pytest
from support.engine_files import EXAMPLE, SPEC, start_python

from yolox_trt.core.errors import EngineError
from yolox_trt.engines import engine_file
from yolox_trt.engines.cache import EngineCache
from yolox_trt.engines.cache_pruning import RUNTIME_CACHE
from yolox_trt.engines.engine_file import BuiltEngine, read_engine, sidecar_path, write_engine
from yolox_trt.engines.file_lock import try_lock
from yolox_trt.engines.fingerprint import file_sha256


class Builder:
    """Counts its builds, which end when `go_on` is set."""

    def __init__(self, engine: bytes = b"engine") -> None:
        self.engine, self.builds = engine, 0
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self) -> BuiltEngine:
        self.builds += 1
        self.go_on.wait(30.0)
        return BuiltEngine(self.engine, SPEC, {"layers": 3})


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def test_builds_once_and_finds_again(cache: EngineCache) -> None:
    build = Builder()
    first = cache.get_or_build(EXAMPLE, build, name="yolox s/plus")
    again = EngineCache(cache.folder).get_or_build(EXAMPLE, build, name="yolox s/plus")
    assert build.builds == 1
    assert (first.built, first.reason) == (True, "not in the cache")
    assert (again.built, again.reason) == (False, "found")
    assert again.file.path.read_bytes() == b"engine"
    assert again.file.path.name.startswith("yolox_s_plus.dla0.int8.b1.")
    assert again.file.fingerprint == EXAMPLE
    assert again.file.spec == SPEC
    assert again.file.details["layers"] == 3
    assert again.file.details["build_seconds"] >= 0
    assert not list(cache.folder.glob(".*.part"))


def test_a_group_that_may_write_new_files_cannot_write_engines(
    cache: EngineCache, tmp_path: Path
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"model")
    fingerprint = dataclasses.replace(EXAMPLE, onnx_sha256=file_sha256(tmp_path / "m.onnx"))
    former = os.umask(0o002)
    try:
        entry = cache.get_or_build(fingerprint, Builder(), name="m")
        cache.remember("ab" * 32, fingerprint, name="m", external_files=())
    finally:
        os.umask(former)
    assert read_engine(entry.file.path).fingerprint == fingerprint
    own = fingerprint.onnx_sha256
    found = cache.find_requested("ab" * 32, name="m", model=tmp_path / "m.onnx", own=own)
    assert found is not None and found.file.path == entry.file.path


def test_another_fingerprint_is_another_engine(cache: EngineCache) -> None:
    build = Builder()
    cache.get_or_build(EXAMPLE, build, name="m")
    other = dataclasses.replace(EXAMPLE, tensorrt_version="10.3.0.26")
    cache.get_or_build(other, build, name="m")
    assert build.builds == 2
    assert len(list(cache.folder.glob("*.engine"))) == 2


def corrupt_engine(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def truncate_engine(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def remove_sidecar(path: Path) -> None:
    sidecar_path(path).unlink()


def truncate_sidecar(path: Path) -> None:
    text = sidecar_path(path).read_text()
    sidecar_path(path).write_text(text[: len(text) // 2])


def stale_sidecar(path: Path) -> None:
    values = json.loads(sidecar_path(path).read_text())
    values["fingerprint"]["tensorrt_version"] = "8.4.1"
    sidecar_path(path).write_text(json.dumps(values))


def other_format(path: Path) -> None:
    values = json.loads(sidecar_path(path).read_text())
    values["format"] = 99
    sidecar_path(path).write_text(json.dumps(values))


def list_sidecar(path: Path) -> None:
    sidecar_path(path).write_text("[1, 2]")


def endless_sidecar(path: Path) -> None:
    """One that nothing could read into memory; it takes no place on the disk."""
    os.truncate(sidecar_path(path), 1 << 40)


def no_engine(path: Path) -> None:
    path.unlink()


def foreign_engine(path: Path) -> None:
    """An engine of a crash between the two writes, or one that was copied over it."""
    path.write_bytes(b"another engine")


DAMAGES = [
    corrupt_engine,
    truncate_engine,
    remove_sidecar,
    truncate_sidecar,
    stale_sidecar,
    other_format,
    list_sidecar,
    endless_sidecar,
    no_engine,
    foreign_engine,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_engines_are_built_again_and_never_returned(cache: EngineCache, damage) -> None:  # type: ignore[no-untyped-def]
    path = cache.get_or_build(EXAMPLE, Builder(), name="m").file.path
    damage(path)
    with pytest.raises(EngineError):
        cache.find(EXAMPLE, name="m")
    build = Builder(b"built anew")
    entry = cache.get_or_build(EXAMPLE, build, name="m")
    assert build.builds == 1
    assert entry.built
    assert entry.reason
    assert entry.file.data == b"built anew"
    assert cache.find(EXAMPLE, name="m").data == b"built anew"


def test_a_failed_build_leaves_nothing_to_use(cache: EngineCache) -> None:
    path = cache.get_or_build(EXAMPLE, Builder(), name="m").file.path
    corrupt_engine(path)

    def fail() -> BuiltEngine:
        raise EngineError("no memory")

    with pytest.raises(EngineError, match="no memory"):
        cache.get_or_build(EXAMPLE, fail, name="m")
    with pytest.raises(EngineError):
        cache.find(EXAMPLE, name="m")
    assert cache.get_or_build(EXAMPLE, Builder(), name="m").built  # the lock is free


def test_rebuild_builds_although_it_is_there(cache: EngineCache) -> None:
    cache.get_or_build(EXAMPLE, Builder(), name="m")
    build = Builder(b"2")
    entry = cache.get_or_build(EXAMPLE, build, name="m", rebuild="TensorRT refused it")
    assert entry.built
    assert entry.reason == "TensorRT refused it"
    assert entry.file.data == b"2"


def test_a_rebuild_that_fails_leaves_what_is_there(cache: EngineCache) -> None:
    first = cache.get_or_build(EXAMPLE, Builder(), name="m").file
    compiled = first.path.with_name(first.path.name + RUNTIME_CACHE)
    compiled.write_bytes(b"kernels of the first engine")

    def fail() -> BuiltEngine:
        raise EngineError("no memory")

    with pytest.raises(EngineError, match="no memory"):
        cache.get_or_build(EXAMPLE, fail, name="m", rebuild="TensorRT refused it")
    assert compiled.is_file()
    assert not (found := cache.get_or_build(EXAMPLE, Builder(b"2"), name="m")).built
    assert found.file.data == first.data
    cache.get_or_build(EXAMPLE, Builder(b"2"), name="m", rebuild="TensorRT refused it")
    assert not compiled.exists()


def test_read_only_cache_serves_and_refuses(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.get_or_build(EXAMPLE, Builder(), name="m")

    open_file = os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            raise PermissionError(13, "Permission denied")
        return open_file(path, flags, *rest)

    # Not by chmod: root may write everywhere.
    monkeypatch.setattr(os, "open", refuse)
    assert not cache.get_or_build(EXAMPLE, Builder(), name="m").built
    with pytest.raises(EngineError, match=r"cannot be written \(Permission denied.*another folder"):
        cache.get_or_build(EXAMPLE, Builder(), name="other")


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match=r"cannot be written.*another folder"):
        EngineCache(tmp_path / "file" / "engines").get_or_build(EXAMPLE, Builder(), name="m")


def test_a_write_that_breaks_off_leaves_no_engine(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineError, match="No space left"):
        cache.get_or_build(EXAMPLE, Builder(), name="m")
    monkeypatch.undo()
    assert [p.suffix for p in cache.folder.iterdir()] == [".lock"]


def test_threads_build_once(cache: EngineCache) -> None:
    build = Builder()
    build.go_on.clear()
    entries = []

    def note(fraction: float, phase: str) -> None:
        if "waiting for another process" in phase:
            build.go_on.set()

    def work() -> None:
        entries.append(cache.get_or_build(EXAMPLE, build, name="m", on_progress=note))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert build.builds == 1
    assert sorted(entry.built for entry in entries) == [False, False, False, True]
    assert build.go_on.is_set(), "the others said that they wait"


WORKER = textwrap.dedent(
    """
    import sys, time
    sys.path[:0] = sys.argv[2:]
    from support.engine_files import EXAMPLE, SPEC
    from yolox_trt.engines.engine_file import BuiltEngine
    from yolox_trt.engines.cache import EngineCache

    def build():
        print("building", flush=True)
        sys.stdin.readline()            # until the test lets it go on
        return BuiltEngine(b"engine", SPEC)

    entry = EngineCache(sys.argv[1]).get_or_build(
        EXAMPLE, build, name="m", on_progress=lambda fraction, phase: print(phase, flush=True)
    )
    print("built" if entry.built else "found", entry.file.data.decode(), flush=True)
    """
)


def test_two_processes_build_once(cache: EngineCache) -> None:
    first = start_python(WORKER, cache.folder)
    assert first.stdout is not None
    assert first.stdout.readline().strip() == "building"
    second = start_python(WORKER, cache.folder)
    assert second.stdout is not None
    assert "waiting for another process" in second.stdout.readline()
    first_out, _ = first.communicate("go\n", timeout=30)
    second_out, _ = second.communicate(timeout=30)
    assert first_out.split() == ["built", "engine"]
    assert second_out.splitlines()[-1] == "found engine"
    assert "building" not in second_out


def test_a_builder_that_is_killed_does_not_block_the_next(cache: EngineCache) -> None:
    first = start_python(WORKER, cache.folder)
    assert first.stdout is not None
    assert first.stdout.readline().strip() == "building"
    first.kill()
    first.wait()
    first.stdout.close()
    assert first.stdin is not None
    first.stdin.close()
    entry = cache.get_or_build(EXAMPLE, Builder(), name="m")
    assert entry.built


def test_engine_and_sidecar_of_two_builds_do_not_mix(tmp_path: Path) -> None:
    write_engine(tmp_path / "a.engine", BuiltEngine(b"a", SPEC), EXAMPLE)
    write_engine(tmp_path / "b.engine", BuiltEngine(b"b", SPEC), EXAMPLE)
    sidecar_path(tmp_path / "b.engine").replace(sidecar_path(tmp_path / "a.engine"))
    with pytest.raises(EngineError, match="not of one build"):
        read_engine(tmp_path / "a.engine")


def test_a_file_that_changes_under_the_writer_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksum is that of the engine that was built, not of what the disk gives back."""
    write = engine_file.write_trusted

    def write_badly(path: Path, data: bytes) -> None:
        write(path, b"damaged" if path.suffix == ".engine" else data)

    monkeypatch.setattr(engine_file, "write_trusted", write_badly)
    write_engine(tmp_path / "a.engine", BuiltEngine(b"engine", SPEC), EXAMPLE)
    with pytest.raises(EngineError, match="damaged"):
        read_engine(tmp_path / "a.engine")


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("YOLOX_TRT_CACHE", str(tmp_path))
    assert EngineCache().folder == tmp_path / "engines"
    monkeypatch.delenv("YOLOX_TRT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert EngineCache().folder == tmp_path / "xdg" / "yolox_trt" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert EngineCache().folder == Path.home() / ".cache" / "yolox_trt" / "engines"


def test_what_on_progress_raises_is_no_fault_of_the_folder(cache: EngineCache) -> None:
    def on_progress(fraction: float, phase: str) -> None:
        raise BrokenPipeError("nobody reads")

    path = cache.path_of(EXAMPLE, name="m")
    path.parent.mkdir(parents=True, exist_ok=True)
    other = try_lock(path.with_name(path.name + ".lock"))
    assert other is not None
    with other, pytest.raises(BrokenPipeError, match="nobody reads"):
        cache.get_or_build(EXAMPLE, lambda: pytest.fail("built"), name="m", on_progress=on_progress)


def belongs_to_another(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root gives files away")
    os.chown(path, 65534, 65534)


def others_write(path: Path) -> None:
    path.chmod(0o666)


def is_a_link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("suspect", [belongs_to_another, others_write, is_a_link])
@pytest.mark.parametrize("part", [Path, sidecar_path])
def test_what_others_may_have_written_is_built_again(  # type: ignore[no-untyped-def]
    cache: EngineCache, suspect, part
) -> None:
    path = cache.get_or_build(EXAMPLE, Builder(), name="m").file.path
    suspect(part(path))
    with pytest.raises(EngineError, match=r"not be trusted .*chmod go-w"):
        read_engine(path)
    entry = cache.get_or_build(EXAMPLE, Builder(b"anew"), name="m")
    assert entry.built
    assert "not be trusted" in entry.reason
    assert cache.find(EXAMPLE, name="m").data == b"anew"


def test_what_was_checked_is_what_is_loaded(cache: EngineCache) -> None:
    cache.get_or_build(EXAMPLE, Builder(), name="m")
    file = cache.find(EXAMPLE, name="m")
    file.path.write_bytes(b"swapped after the check")
    assert file.data == b"engine"


def test_a_lock_that_is_a_link_makes_no_file_elsewhere(cache: EngineCache) -> None:
    cache.folder.mkdir()
    elsewhere = cache.folder.parent / "elsewhere"
    path = cache.path_of(EXAMPLE, name="m")
    path.with_name(path.name + ".lock").symlink_to(elsewhere)
    with pytest.raises(EngineError, match="another folder with `engine_cache`"):
        cache.get_or_build(EXAMPLE, Builder(), name="m")
    assert not elsewhere.exists()


def test_notes_of_requests_are_not_written_through_a_link(cache: EngineCache) -> None:
    elsewhere = cache.folder.parent / "elsewhere"
    elsewhere.mkdir()
    cache.folder.mkdir()
    (cache.folder / "requests").symlink_to(elsewhere)
    cache.remember("ab" * 32, EXAMPLE, name="m", external_files=())
    assert not list(elsewhere.iterdir())
