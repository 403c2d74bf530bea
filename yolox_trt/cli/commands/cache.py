# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt cache list`, `cache prune` and `cache clear`: built TensorRT engines."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.files import cache_folder
from yolox_trt.core.option import Kind, option, options_of, path_option

if TYPE_CHECKING:
    from yolox_trt.engines.cache_pruning import CachedEngine

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class _CacheCommand(Command, has_json=True):
    cache: Path | None = path_option(
        metavar="FOLDER",
        help="Folder of the engines (default: $YOLOX_TRT_CACHE/engines, else "
        "~/.cache/yolox_trt/engines).",
    )

    @property
    def folder(self) -> Path:
        """The folder; the default one may be missing until the first build, a named one not."""
        if self.cache is not None and not self.cache.is_dir():
            making = f"; `yolox_trt build MODEL --cache {self.cache}` would make it"
            raise ConfigurationError(
                f"no folder '{self.cache}'",
                expected="a folder of engines",
                fix=("give another ", options_of(type(self))["cache"], ", or leave it out", making),
            )
        return self.cache or cache_folder("engines")

    def show(self, output: Output, engines: list[CachedEngine], total: str) -> None:
        """Print the engines, and how many there are."""
        rows = [_row(entry) for entry in engines]
        headings = ("engine", "device", "precision", "batch", "TensorRT", "MiB", "used", "state")
        if rows:
            output.table("", headings, rows)
        size = sum(entry.size for entry in engines) / _MIB
        output.print(f"{len(engines)} {total}, {size:.1f} MiB")
        output.json(
            [
                {"path": entry.path, "bytes": entry.size, "used_at": entry.used_at}
                | dict(zip(headings[1:], row[1:], strict=True))
                for entry, row in zip(engines, rows, strict=True)
            ]
        )


@dataclass(frozen=True, kw_only=True)
class CacheList(_CacheCommand, name="cache list"):
    """List the engines in the cache, the one used last first."""

    def run(self, output: Output) -> int:
        from yolox_trt.engines.cache_pruning import list_engines

        folder = self.folder
        output.print(f"Engines; cache: {folder}")
        self.show(output, list_engines(folder), "engines")
        return 0


@dataclass(frozen=True, kw_only=True)
class _RemovingCommand(_CacheCommand):
    dry_run: bool = option(False, help="Only say what would go.")

    def report(self, output: Output, removed: list[CachedEngine]) -> None:
        """Print what went, or would go."""
        self.show(output, removed, "would go" if self.dry_run else "removed")


@dataclass(frozen=True, kw_only=True)
class CachePrune(_RemovingCommand, name="cache prune"):
    """Remove the engines that are over the cache's limits, those used longest ago first.

    Each build does the same afterwards. An engine that a process runs or builds stays.
    """

    max_gib: float | None = option(
        None,
        kind=Kind.DOUBLE,
        minimum=0.0,
        unit="GiB",
        help="Of all engines together; 0 for no limit. Default: $YOLOX_TRT_CACHE_GIB, else 4.",
    )
    max_days: float | None = option(
        None,
        kind=Kind.DOUBLE,
        minimum=0.0,
        unit="days",
        help="Since the last use; 0 for no limit. Default: $YOLOX_TRT_CACHE_DAYS, else 365.",
    )

    def run(self, output: Output) -> int:
        from yolox_trt.engines.cache_pruning import CacheLimits, prune

        limits = CacheLimits.of(self.max_gib, self.max_days)
        self.report(output, prune(self.folder, limits, dry_run=self.dry_run))
        return 0


@dataclass(frozen=True, kw_only=True)
class CacheClear(_RemovingCommand, name="cache clear"):
    """Remove every engine that no process runs or builds."""

    def run(self, output: Output) -> int:
        from yolox_trt.engines.cache_pruning import clear, list_engines

        folder = self.folder
        removed = clear(folder, dry_run=self.dry_run)
        self.report(output, removed)
        if kept := len(list_engines(folder)) - (len(removed) if self.dry_run else 0):
            output.print(f"{kept} stay: in use, or no right to remove them")
        return 0


def _row(entry: CachedEngine) -> tuple[str, ...]:
    about: tuple[str, ...] = ("unknown", "", "", "")
    if (made := entry.fingerprint) is not None:
        smallest, _, largest = made.batch
        batch = str(largest) if smallest == largest else f"{smallest} to {largest}"
        about = (made.device, made.precision, batch, f"{made.flavour} {made.tensorrt_version}")
    state = "in use" if entry.in_use else entry.problem
    size = f"{entry.size / _MIB:.1f}"
    return (entry.path.name, *about, size, _ago(entry.used_at), state or "-")


def _ago(at: float) -> str:
    seconds = max(time.time() - at, 0.0)
    for size, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name} ago"
    return "now"
