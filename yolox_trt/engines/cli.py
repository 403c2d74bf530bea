# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of the room engines: models list, models fetch."""

from __future__ import annotations

import argparse
from pathlib import Path

from yolox_trt.core.optional import require
from yolox_trt.engines import model_zoo
from yolox_trt.engines.download import file_digest


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `models`."""
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
