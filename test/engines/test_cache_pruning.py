# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The engine cache stays within its limits, and what is in use stays in it."""

from __future__ import annotations

import os
import textwrap
import time
from pathlib import Path

import pytest
from support.engine_files import SPEC, start_python, version

from yolox_trt.cli import main as cli
from yolox_trt.core.errors import ConfigurationError, EngineError
from yolox_trt.engines import cache as cache_module
from yolox_trt.engines import cache_pruning
from yolox_trt.engines.cache import CacheEntry, EngineCache
from yolox_trt.engines.cache_pruning import CacheLimits, clear, list_engines, prune, remove_engine
from yolox_trt.engines.engine_file import BuiltEngine, sidecar_path
from yolox_trt.engines.file_lock import try_lock

DAY_S = 86400.0
NO_LIMITS = CacheLimits(None, None)


def put(cache: EngineCache, number: int, *, days: float = 0.0, size: int = 1000) -> CacheEntry:
    """Build an engine that was used some days ago."""
    entry = cache.get_or_build(
        version(number), lambda: BuiltEngine(b"e" * size, SPEC), name=f"m{number}"
    )
    release(entry)
    age(entry.file.path, days)
    return entry


def release(entry: CacheEntry) -> None:
    assert entry.lease is not None
    entry.lease.close()


def age(path: Path, days: float) -> None:
    then = time.time() - days * DAY_S
    for file in path.parent.glob(path.name + "*"):
        os.utime(file, (then, then))


def names(folder: Path) -> list[str]:
    return [entry.path.name.partition(".")[0] for entry in list_engines(folder)]


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return limited(tmp_path / "engines", NO_LIMITS)


def limited(folder: Path, limits: CacheLimits) -> EngineCache:
    cache = EngineCache(folder)
    cache.limits = limits
    return cache


def test_the_engine_used_last_is_listed_first(cache: EngineCache) -> None:
    put(cache, 1, days=3)
    put(cache, 2, days=5)
    put(cache, 3, days=1)
    assert names(cache.folder) == ["m3", "m1", "m2"]
    release(cache.get_or_build(version(2), _no_build, name="m2"))
    assert names(cache.folder) == ["m2", "m3", "m1"]
    entry = list_engines(cache.folder)[0]
    assert entry.fingerprint == version(2)
    assert entry.size > 1000
    assert (entry.in_use, entry.problem) == (False, "")
    assert time.time() - entry.used_at < 60


def _no_build() -> BuiltEngine:
    raise AssertionError("it is in the cache")


def test_age(cache: EngineCache) -> None:
    for number, days in ((1, 3), (2, 5), (3, 1)):
        put(cache, number, days=days)
    assert [e.path.name[:2] for e in prune(cache.folder, CacheLimits(None, 2 * DAY_S))] == [
        "m2",
        "m1",
    ]
    assert names(cache.folder) == ["m3"]


def test_size_takes_the_one_used_longest_ago(cache: EngineCache) -> None:
    for number, days in ((1, 3), (2, 5), (3, 1)):
        put(cache, number, days=days, size=100_000)
    limits = CacheLimits(250_000, None)
    assert [e.path.name[:2] for e in prune(cache.folder, limits, dry_run=True)] == ["m2"]
    assert len(names(cache.folder)) == 3
    prune(cache.folder, limits)
    assert names(cache.folder) == ["m3", "m1"]
    assert not prune(cache.folder, limits)


def test_an_engine_goes_with_all_its_files(cache: EngineCache) -> None:
    path = put(cache, 1).file.path
    path.with_name(path.name + ".runtime_cache").write_bytes(b"kernels")
    assert remove_engine(path)
    assert not list(cache.folder.iterdir())
    assert put(cache, 1).built


def test_a_build_makes_room(tmp_path: Path) -> None:
    cache = limited(tmp_path, CacheLimits(250_000, None))
    put(cache, 1, days=3, size=100_000)
    put(cache, 2, days=2, size=100_000)
    put(cache, 3, size=100_000)
    assert names(tmp_path) == ["m3", "m2"]
    # One that is larger than all the cache may hold stays all the same: it was asked for.
    put(cache, 4, size=300_000)
    assert names(tmp_path) == ["m4"]


def test_what_is_found_makes_no_room(tmp_path: Path) -> None:
    put(limited(tmp_path, NO_LIMITS), 1, days=400)
    put(limited(tmp_path, NO_LIMITS), 2, days=400)
    cache = EngineCache(tmp_path)
    release(cache.get_or_build(version(1), _no_build, name="m1"))
    assert len(names(tmp_path)) == 2
    put(cache, 3)
    assert sorted(names(tmp_path)) == ["m1", "m3"]


def test_an_engine_in_use_stays(cache: EngineCache) -> None:
    put(cache, 1, days=9)
    leases = [cache.get_or_build(version(1), _no_build, name="m1").lease for _ in range(2)]
    age(cache.path_of(version(1), name="m1"), 9)
    assert list_engines(cache.folder)[0].in_use
    assert not clear(cache.folder)
    assert not clear(cache.folder, dry_run=True)
    for lease in leases:
        assert lease is not None
        assert not prune(cache.folder, CacheLimits(1, 1.0))
        lease.close()
        lease.close()
    assert len(prune(cache.folder, CacheLimits(1, 1.0))) == 1


def test_an_engine_that_is_being_built_stays(cache: EngineCache) -> None:
    seen = []

    def build() -> BuiltEngine:
        seen.extend(list_engines(cache.folder))
        # A build reads its model from here, and writes its engine into such a file.
        files = [cache.folder / "models" / "m.onnx", cache.folder / ".m1.engine.x.part"]
        files[0].parent.mkdir()
        for file in files:
            file.touch()
        assert not clear(cache.folder)
        assert all(file.is_file() for file in files)
        return BuiltEngine(b"engine", SPEC)

    cache.get_or_build(version(1), build, name="m1")
    assert [entry.in_use for entry in seen] == [True]


WORKER = textwrap.dedent(
    """
    import sys
    from support.engine_files import version
    from yolox_trt.engines.cache import EngineCache

    entry = EngineCache(sys.argv[1]).get_or_build(version(1), None, name="m1")
    print("running", flush=True)
    sys.stdin.readline()
    """
)


def test_an_engine_of_another_process_stays_until_it_dies(cache: EngineCache) -> None:
    put(cache, 1)
    with start_python(WORKER, cache.folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "running"
        assert not clear(cache.folder)
        process.kill()
    assert len(clear(cache.folder)) == 1


def test_a_lock_of_a_removed_file_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opened the file before it was removed must not take its lock for the new file's."""
    path = tmp_path / "lock"
    real, opened = os.open, []

    def open_and_replace(name: Path, *arguments: int) -> int:
        descriptor = real(name, *arguments)
        opened.append(descriptor)
        if len(opened) == 1:
            path.unlink()
            path.write_text("another file")
        return descriptor

    monkeypatch.setattr("yolox_trt.engines.file_lock.os.open", open_and_replace)
    lock = try_lock(path)
    monkeypatch.undo()
    assert len(opened) == 2
    assert lock is not None
    assert try_lock(path) is None
    lock.close()
    again = try_lock(path)
    assert again is not None


def test_a_look_at_the_cache_does_not_cost_a_lease(cache: EngineCache) -> None:
    """A reader may hold the lock for a moment; who wants the engine waits for it."""
    import threading

    path = put(cache, 1).file.path
    lock = try_lock(path.with_name(path.name + ".use"))
    assert lock is not None
    threading.Timer(0.1, lock.close).start()
    assert cache.get_or_build(version(1), _no_build, name="m1").lease is not None


def test_read_only_caches_give_no_lease(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache, 1)

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache_module, "try_lock", refuse)
    assert cache.get_or_build(version(1), _no_build, name="m1").lease is None
    monkeypatch.setattr(cache_pruning, "try_lock", refuse)
    assert [entry.in_use for entry in list_engines(cache.folder)] == [True]
    assert not clear(cache.folder)


def test_a_rebuild_that_waited_takes_only_what_is_new(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process held the lock, and left the engine that TensorRT refuses."""
    put(cache, 1)
    path = cache.path_of(version(1), name="m1")
    lock = try_lock(path.with_name(path.name + ".lock"))
    assert lock is not None
    monkeypatch.setattr(cache_module.time, "sleep", lambda seconds: lock.close())
    entry = cache.get_or_build(
        version(1), lambda: BuiltEngine(b"anew", SPEC), name="m1", rebuild="refused"
    )
    assert entry.built
    assert entry.file.data == b"anew"


def test_kernels_of_an_engine_go_when_it_is_built_again(cache: EngineCache) -> None:
    path = put(cache, 1).file.path
    kernels = path.with_name(path.name + ".runtime_cache")
    kernels.write_bytes(b"kernels of the engine that was refused")
    cache.get_or_build(version(1), lambda: BuiltEngine(b"2", SPEC), name="m1", rebuild="refused")
    assert not kernels.exists()


@pytest.mark.parametrize("damage", ["no sidecar", "sidecar cannot be read", "no engine"])
def test_remains_go_a_day_later(cache: EngineCache, damage: str) -> None:
    path = put(cache, 1).file.path
    if damage == "no sidecar":
        sidecar_path(path).unlink()
    elif damage == "no engine":
        path.unlink()
    else:
        sidecar_path(path).write_text("{")
    assert list_engines(cache.folder)[0].problem == damage
    assert not prune(cache.folder, NO_LIMITS)
    age(path, 1.1)
    assert len(prune(cache.folder, NO_LIMITS)) == 1
    assert not list(cache.folder.iterdir())


def test_leftovers_go_a_day_later(cache: EngineCache) -> None:
    put(cache, 1)
    (cache.folder / "models").mkdir()
    old = [cache.folder / ".m.engine.x1.part", cache.folder / "models" / "0123.onnx"]
    new = [cache.folder / ".m.engine.x2.part", cache.folder / "models" / "4567.onnx"]
    for file in old + new:
        file.write_bytes(b"x")
    for file in old:
        os.utime(file, (0, 0))
    prune(cache.folder, NO_LIMITS)
    assert [file.exists() for file in old + new] == [False, False, True, True]
    assert names(cache.folder) == ["m1"]


def test_no_cache(tmp_path: Path) -> None:
    assert not list_engines(tmp_path / "nowhere")
    assert not prune(tmp_path / "nowhere")
    assert not clear(tmp_path / "nowhere")


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("YOLOX_TRT_CACHE_GIB", raising=False)
    monkeypatch.delenv("YOLOX_TRT_CACHE_DAYS", raising=False)
    assert CacheLimits.of() == CacheLimits(4 << 30, 365 * DAY_S)
    assert CacheLimits.of(0.5, 2) == CacheLimits(1 << 29, 2 * DAY_S)
    assert CacheLimits.of(0, 0) == NO_LIMITS
    monkeypatch.setenv("YOLOX_TRT_CACHE_GIB", "1.5")
    monkeypatch.setenv("YOLOX_TRT_CACHE_DAYS", "0")
    assert EngineCache("x").limits == CacheLimits(3 << 29, None)
    assert CacheLimits.of(2) == CacheLimits(2 << 30, None)
    monkeypatch.setenv("YOLOX_TRT_CACHE_GIB", "large")
    with pytest.raises(ConfigurationError, match=r"\$YOLOX_TRT_CACHE_GIB = 'large'.*unset"):
        CacheLimits.of()
    for value in (-1.0, float("nan"), float("inf"), 1e308):
        with pytest.raises(ConfigurationError, match=r"cache limit .*0 \(no limit\) or more"):
            CacheLimits.of(value, 1.0)


def test_commands(cache: EngineCache, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: str) -> str:
        assert cli.main(["cache", *arguments, "--cache", str(cache.folder)]) == 0
        return capsys.readouterr().out

    for number, days in ((1, 3.0), (2, 500.0), (3, 0.1)):
        put(cache, number, days=days)
    held = cache.get_or_build(version(3), _no_build, name="m3")
    text = call("list")
    assert {entry.path.name for entry in list_engines(cache.folder)} <= set(text.split())
    assert "3 engines" in text and "dla0" in text and "in use" in text
    assert "1 would go" in call("prune", "--dry-run")
    assert "m2.dla0" in call("prune")
    assert "0 removed" in call("prune", "--max-days", "4")
    assert "1 removed" in call("prune", "--max-gib", "0.0000001")
    assert names(cache.folder) == ["m3"]
    assert "0 removed" in (text := call("clear")) and "1 stay: in use" in text
    release(held)
    assert "1 would go" in call("clear", "--dry-run")
    assert "1 removed" in call("clear")
    assert not list(cache.folder.iterdir())
    with pytest.raises(EngineError):
        cache.find(version(3), name="m3")


@pytest.mark.parametrize("command", ["list", "prune", "clear"])
def test_a_named_folder_that_is_missing_is_told(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["cache", command, "--cache", str(tmp_path / "nowhere")]) == 2
    assert "nowhere'; expected a folder of engines; fix: " in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_an_engine_that_is_removed_while_it_is_listed(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may build it again, or clear the cache."""
    put(cache, 1)
    stat = Path.stat

    def stat_once(path: Path, **options: bool) -> os.stat_result:
        found = stat(path, **options)  # type: ignore[arg-type]
        if path.suffix in (".json", ".engine"):
            path.unlink()
        return found

    monkeypatch.setattr(Path, "stat", stat_once)
    assert [entry.problem for entry in list_engines(cache.folder)] == ["no engine"]
