# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The command `yolox_trt`: each room's cli.py adds its own subcommands.

A room's module `cli` has add_parsers(subparsers); each parser sets `run`, a function that takes
the parsed arguments and returns an exit status (None is 0). A YoloxTrtError becomes one line on
stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from yolox_trt import __version__
from yolox_trt.core.errors import MissingDependencyError, YoloxTrtError
from yolox_trt.core.optional import INSTALL_COMMANDS, missing_requirement

#: Rooms with commands, in the order of the help, and the commands that each one brings. The names
#: stand here so that a room which cannot be imported still shows its commands, and each of them
#: says what is missing when it is used.
ROOMS: dict[str, tuple[str, ...]] = {
    "yolox_trt.cli.commands.ros": ("demo", "up", "replay", "publish", "parameters"),
    "yolox_trt.cli.commands.evaluation": ("detect", "evaluate", "compare", "bench"),
    "yolox_trt.cli.commands.models": ("models", "cache"),
    "yolox_trt.cli.commands.compiler": (
        "optimize",
        "dla-check",
        "inspect",
        "calibrate",
        "quantize",
        "translate",
        "build",
    ),
    "yolox_trt.cli.commands.planning": ("plan", "soak"),
    "yolox_trt.cli.commands.training": ("train", "distill", "export"),
}


def make_parser(rooms: dict[str, tuple[str, ...]] | None = None) -> argparse.ArgumentParser:
    """Make the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="yolox_trt", description="Multi-camera YOLOX detection on GPU, DLA and CPU."
    )
    parser.add_argument("--version", action="version", version=f"yolox_trt {__version__}")
    parser.add_argument(
        "--verbose", "-v", action="count", default=0, help="log more (-vv: debug messages)"
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole traceback of an error"
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, commands in (ROOMS if rooms is None else rooms).items():
        try:
            importlib.import_module(name).add_parsers(subparsers)
        except ImportError as error:
            rest = [command for command in commands if command not in subparsers.choices]
            _add_missing(subparsers, rest, name, error)
    for command in ("detect", "calibrate", "quantize", "compare"):
        if command in subparsers.choices:
            # Bags belong to the room of ROS, which the rooms below must not know.
            subparsers.choices[command].set_defaults(open_bag=_open_bag)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes sys.argv.

    Returns:
        Exit status: 0, 1 where a command found something wrong (each command's help says what),
        2 for an error that it names, 130 after Ctrl-C.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    level = {0: logging.WARNING, 1: logging.INFO}.get(args.verbose, logging.DEBUG)
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    try:
        status: int | None = args.run(args)
        return status or 0
    except YoloxTrtError as error:
        if args.traceback:
            raise
        print(f"yolox_trt {args.command}: {_one_line(error)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        missing = missing_requirement(error)
        if args.traceback or missing is None:
            raise
        print(f"yolox_trt {args.command}: {_one_line(missing)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone: no traceback at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # A folder that cannot be written, a full disk: the message names the path.
        if args.traceback:
            raise
        print(
            f"yolox_trt {args.command}: {_one_line(error)}; fix: check the path, its permissions "
            "and the free space",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        return 130


def _add_missing(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    commands: Sequence[str],
    room: str,
    error: ImportError,
) -> None:
    """Show the commands of a room that cannot be imported; each one raises when it is used."""
    missing = (getattr(error, "name", None) or "").partition(".")[0]
    note = missing if missing and missing != "yolox_trt" else room
    for command in commands:
        parser = subparsers.add_parser(
            command, help=f"not available here: {note} is missing", add_help=False
        )
        # Options that nobody knows must not hide the real reason.
        parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
        parser.prefix_chars = "\0"
        parser.set_defaults(run=_raiser(command, missing, error))


def _raiser(command: str, missing: str, error: ImportError) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        if isinstance(error, MissingDependencyError):
            raise error
        raise MissingDependencyError(
            f"`yolox_trt {command}` cannot start ({error})",
            expected="its packages to be installed",
            fix=INSTALL_COMMANDS.get(missing, "run `make venv`"),
        ) from error

    return run


def _open_bag(path: Path, topics: Sequence[str]) -> object:
    """Open a bag (yolox_trt.ros.tools.bag) for `yolox_trt detect`."""
    from yolox_trt.ros.tools import bag

    return bag.open_bag(path, topics)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
