# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of the room engines: models list|fetch, cache list|prune|clear."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.optional import require
from yolox_trt.engines import cache_pruning, model_zoo
from yolox_trt.engines.cache import default_cache_folder
from yolox_trt.engines.cache_pruning import CachedEngine, CacheLimits
from yolox_trt.engines.download import file_digest

_MIB = 1 << 20
_GIB = 1 << 30
_DAY_S = 86400.0


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands `models` and `cache`."""
    _add_models(subparsers)
    _add_cache(subparsers)


def _add_models(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "models",
        help="list and fetch published models",
        description="Published YOLOX models by name, fetched into a cache folder and checked.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = commands.add_parser("list", help="list the models and what is in the cache")
    listing.set_defaults(run=_list)
    fetching = commands.add_parser("fetch", help="bring a model into the cache")
    fetching.add_argument("name", metavar="NAME", help="see `yolox_trt models list`")
    fetching.set_defaults(run=_fetch)
    for command in (listing, fetching):
        command.add_argument(
            "--cache",
            type=Path,
            metavar="DIR",
            help=f"(default: ${model_zoo.CACHE_VARIABLE}/models, else ~/.cache/yolox_trt/models)",
        )


def _add_cache(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "cache",
        help="list and remove built TensorRT engines",
        description="The engine cache. After each build the engines used longest ago are removed "
        "where it has grown over its limits; an engine that a process runs or builds stays.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = commands.add_parser("list", help="list the engines, the one used last first")
    listing.set_defaults(run=_cache_list)
    pruning = commands.add_parser("prune", help="remove what is over the limits")
    pruning.set_defaults(run=_cache_prune)
    default = CacheLimits()
    assert default.max_bytes is not None and default.max_age_s is not None
    pruning.add_argument(
        "--max-gib",
        type=float,
        metavar="GIB",
        help=f"of all engines together; 0: no limit (default: ${cache_pruning.SIZE_VARIABLE}, "
        f"else {default.max_bytes / _GIB:g})",
    )
    pruning.add_argument(
        "--max-days",
        type=float,
        metavar="DAYS",
        help=f"since the last use; 0: no limit (default: ${cache_pruning.AGE_VARIABLE}, else "
        f"{default.max_age_s / _DAY_S:g})",
    )
    clearing = commands.add_parser("clear", help="remove every engine that is not in use")
    clearing.set_defaults(run=_cache_clear)
    for command in (listing, pruning, clearing):
        command.add_argument(
            "--cache",
            type=Path,
            metavar="DIR",
            help="(default: $YOLOX_TRT_CACHE/engines, else ~/.cache/yolox_trt/engines)",
        )
    for command in (pruning, clearing):
        command.add_argument("--dry-run", action="store_true", help="only say what would go")


def _list(args: argparse.Namespace) -> int:
    table_module = require("rich.table")
    console = require("rich.console").Console()
    folder = args.cache or model_zoo.cache_folder()
    table = table_module.Table(title=f"Models; cache: {folder}")
    for title in ("name", "what", "licence", "sha256", "in the cache"):
        table.add_column(title)
    for model in model_zoo.MODELS.values():
        path = folder / model.name / model.onnx.name
        state = "-"
        if path.is_file():
            expected = model.onnx.sha256
            intact = not expected or file_digest(path) == expected
            state = "yes" if intact else "damaged"
        table.add_row(
            model.name, model.summary, model.licence, model.onnx.sha256[:12] or "unknown", state
        )
    console.print(table)
    return 0


def _fetch(args: argparse.Namespace) -> int:
    model = model_zoo.find(args.name)
    progress_module = require("rich.progress")
    console = require("rich.console").Console(stderr=True)
    columns = (
        progress_module.TextColumn("{task.description}"),
        progress_module.BarColumn(),
        progress_module.DownloadColumn(),
        progress_module.TransferSpeedColumn(),
        progress_module.TimeRemainingColumn(),
    )
    tasks: dict[str, int] = {}
    with progress_module.Progress(*columns, console=console) as progress:

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total or None)
            progress.update(tasks[name], completed=done, total=total or None)

        paths = model_zoo.fetch(model, folder=args.cache, on_progress=show)
    for path in paths.values():
        print(path)
    return 0


def _cache_list(args: argparse.Namespace) -> int:
    folder = _cache_folder(args)
    engines = cache_pruning.list_engines(folder)
    print(f"Engines; cache: {folder}")
    for entry in engines:
        # The name has a line of its own: in a table of 80 columns it would be broken into many.
        print(entry.path.name)
        about = ["unknown"]
        if (made := entry.fingerprint) is not None:
            smallest, _, largest = made.batch
            batch = str(largest) if smallest == largest else f"{smallest} to {largest}"
            about = [made.device, made.precision, f"batch {batch}"]
            about.append(f"{made.flavour} {made.tensorrt_version}")
        about += [f"{entry.size / _MIB:.1f} MiB", f"used {_ago(entry.used_at)}"]
        state = "in use" if entry.in_use else entry.problem
        print("    " + ", ".join([*about, *([state] if state else [])]))
    total = sum(entry.size for entry in engines)
    print(f"{len(engines)} engines, {total / _MIB:.1f} MiB")
    return 0


def _cache_folder(args: argparse.Namespace) -> Path:
    """Return the folder; the default one may be missing until the first build, a named one not."""
    folder: Path = args.cache or default_cache_folder()
    if args.cache is not None and not folder.is_dir():
        raise ConfigurationError(
            f"no folder '{folder}'",
            expected="a folder of engines",
            fix="give another --cache, or leave it out; `yolox_trt build MODEL --cache "
            f"{folder}` would make it",
        )
    return folder


def _cache_prune(args: argparse.Namespace) -> int:
    limits = CacheLimits.of(args.max_gib, args.max_days)
    folder = _cache_folder(args)
    return _report_removed(cache_pruning.prune(folder, limits, dry_run=args.dry_run), args)


def _cache_clear(args: argparse.Namespace) -> int:
    folder = _cache_folder(args)
    removed = cache_pruning.clear(folder, dry_run=args.dry_run)
    status = _report_removed(removed, args)
    if kept := len(cache_pruning.list_engines(folder)) - (len(removed) if args.dry_run else 0):
        print(f"{kept} stay: in use, or no right to remove them")
    return status


def _report_removed(removed: list[CachedEngine], args: argparse.Namespace) -> int:
    for entry in removed:
        print(entry.path)
    total = sum(entry.size for entry in removed)
    print(f"{len(removed)} {'would go' if args.dry_run else 'removed'}, {total / _MIB:.1f} MiB")
    return 0


def _ago(at: float) -> str:
    seconds = max(time.time() - at, 0.0)
    for size, name in ((_DAY_S, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name} ago"
    return "now"
