# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt bench NAME`: benchmarks, one module each.

A module of this package becomes the benchmark of its name (underscores as hyphens) if it has

    SUMMARY: str                                   # one line for the help
    def add_arguments(parser) -> None
    def run(args) -> int | None                    # exit status

Only `SUMMARY` is read (from the source, without an import) until the benchmark is asked for, so a
benchmark that needs a GPU shows up everywhere and says what it lacks when it runs.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolox_trt.core.errors import YoloxTrtError

_REGISTERED: dict[str, tuple[str, str]] = {}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `bench`."""
    parser = subparsers.add_parser(
        "bench",
        help="benchmarks: " + ", ".join(sorted(find())),
        description="Run a benchmark and print its table; without a name, all that this machine "
        "can run, with their defaults.",
    )
    parser.set_defaults(run=_run_all)
    benches = parser.add_subparsers(title="benchmarks", metavar="NAME")
    for name, (module, summary) in sorted(find().items()):
        bench = benches.add_parser(
            name, help=summary, description=summary, add_help=False, prefix_chars="\0"
        )
        bench.add_argument("arguments", nargs=argparse.REMAINDER)
        bench.set_defaults(run=_runner(name, module))


def register(name: str, module: str, summary: str) -> None:
    """Add a benchmark of a room above this one, before the parser is made.

    Args:
        name: name on the command line.
        module: dotted name of the module, with add_arguments and run.
        summary: one line for the help.
    """
    _REGISTERED[name] = (module, summary)


def find() -> dict[str, tuple[str, str]]:
    """Return the benchmarks: name -> (module, summary)."""
    found = dict(_REGISTERED)
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        summary = _summary(path)
        if summary is not None:
            found[path.stem.replace("_", "-")] = (f"{__name__}.{path.stem}", summary)
    return found


def _summary(path: Path) -> str | None:
    """Read the constant SUMMARY of a module's source."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign):
            targets: Sequence[ast.expr] = [node.target]
        elif isinstance(node, ast.Assign):
            targets = node.targets
        else:
            continue
        named = any(isinstance(t, ast.Name) and t.id == "SUMMARY" for t in targets)
        if named and node.value is not None:
            return str(ast.literal_eval(node.value))
    return None


def _runner(name: str, module_name: str) -> Any:
    return lambda args: _run(name, module_name, args.arguments)


def _run(name: str, module_name: str, arguments: Sequence[str]) -> int:
    module = importlib.import_module(module_name)
    parser = argparse.ArgumentParser(
        prog=f"{Path(sys.argv[0]).name} bench {name}", description=module.__doc__
    )
    module.add_arguments(parser)
    status: int | None = module.run(parser.parse_args(arguments))
    return status or 0


def _run_all(args: argparse.Namespace) -> int:
    """Run every benchmark with its defaults; one that cannot run says why, and the next begins."""
    status = 0
    for name, (module_name, summary) in sorted(find().items()):
        print(f"## bench {name}: {summary}\n", flush=True)
        try:
            status = max(status, _run(name, module_name, ()))
        except (YoloxTrtError, ImportError) as error:
            print(f"not run: {error}", flush=True)
        except SystemExit:
            print("not run: it needs arguments", flush=True)
        print(flush=True)
    return status
