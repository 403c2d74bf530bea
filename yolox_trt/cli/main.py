# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The command `yolox_trt`.

A YoloxTrtError becomes one line on stderr, in which options have the names of the command line,
and exit status 2.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import itertools
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from yolox_trt import __version__
from yolox_trt.cli.command import (
    JSON,
    Command,
    Parser,
    UsageError,
    add_argument,
    add_arguments,
    arguments_of,
    describe,
    make_command,
    name_in,
    usage_of,
)
from yolox_trt.cli.commands import COMMANDS, GROUPS
from yolox_trt.cli.interrupts import interruptible
from yolox_trt.cli.output import STANDARD_OUTPUT, Output
from yolox_trt.cli.streams import lasting_streams, reader_gone
from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.limits import LineFormatter, clean_text
from yolox_trt.core.optional import missing_requirement, require

_FIRST_STEPS = """first steps:

  yolox_trt detect IMAGE     what is in a picture, without ROS
  yolox_trt demo             four cameras through ROS, without a camera
  yolox_trt doctor           what this computer can do, and what is missing
  yolox_trt COMMAND --help   what a command does, and its options
"""
_ROS_ARGS = "--ros-args"
#: Set by the function that `yolox_trt completion` gives to a shell.
_COMPLETION = "_ARGCOMPLETE"


@functools.cache
def make_parser() -> Parser:
    """Make the parser of the whole command line, once: to parse does not change it."""
    parser = Parser(
        prog="yolox_trt",
        description="Multi-camera YOLOX detection on GPU, DLA and CPU.",
        epilog=_FIRST_STEPS,
    )
    parser.add_argument("--version", action="version", version=f"yolox_trt {__version__}")
    _add_general(parser)
    subparsers = {"": parser.add_subparsers(title="commands", metavar="COMMAND")}
    for command in COMMANDS:
        group, _, name = command.name.rpartition(" ")
        if group not in subparsers:
            inner = subparsers[""].add_parser(group, help=GROUPS[group], description=GROUPS[group])
            subparsers[group] = inner.add_subparsers(
                title="commands", metavar="COMMAND", required=True
            )
        summary, description, examples = describe(command)
        leaf = subparsers[group].add_parser(
            name,
            help=summary.replace("%", "%%"),
            usage=usage_of(command),
            description=description,
            epilog=examples,
        )
        add_arguments(leaf, command)
        general = leaf.add_argument_group("general")
        if command.has_json:
            add_argument(general, JSON, JSON.name)
        _add_general(general)
        leaf.set_defaults(command=command)
    return parser


def parse(parser: Parser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line.

    Raises:
        UsageError: a word that its command does not know, or one that is missing.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _refuse_unknown_command(words)
    # What follows is in ROS's own language.
    split = words.index(_ROS_ARGS) if _ROS_ARGS in words else len(words)
    arguments, unknown = parser.parse_known_args(words[:split])
    command: type[Command] | None = getattr(arguments, "command", None)
    many = [each for each in arguments_of(command) if each.takes_many_words] if command else []
    if many and unknown:  # argparse takes such words in one row: those behind an option are left
        name, more = many[0].destination, [word for word in unknown if not word.startswith("-")]
        setattr(arguments, name, [*getattr(arguments, name, ()), *more])
        unknown = [word for word in unknown if word.startswith("-")]
    known = [flag for each in arguments_of(command) for flag in each.flags] if command else []
    if _ROS_ARGS in known:
        arguments.ros_args = words[split + 1 :]
    else:
        unknown += words[split:]
    if unknown:
        # `--size` is rather `--input-size` than another word of as many letters.
        word = unknown[0].partition("=")[0].removeprefix("-")
        close = [flag for flag in known if flag.endswith(word)] if word.startswith("-") else []
        close = close or difflib.get_close_matches(unknown[0], known, n=1)
        raise UsageError(
            f"unknown argument {unknown[0]}",
            fix=f"did you mean {close[0]}?" if close else "",
            program=f"yolox_trt {command.name}" if command else "yolox_trt",
        )
    return arguments


def _refuse_unknown_command(words: Sequence[str]) -> None:
    """Name the commands that are like one that is none; argparse would list all there are."""
    given = list(itertools.takewhile(lambda word: not word.startswith("-"), words))[:2]
    names = [command.name.split() for command in COMMANDS]
    for depth, word in enumerate(given):
        known = [name[depth] for name in names if name[:depth] == given[:depth] and name[depth:]]
        if known and word not in known:
            program = " ".join(["yolox_trt", *given[:depth]])
            close = difflib.get_close_matches(word, known, n=1)
            raise UsageError(
                f"unknown command {word}",
                fix=f"did you mean {program} {close[0]}?" if close else "",
                program=program,
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes sys.argv.

    Returns:
        Exit status: 0, 1 where a command found something wrong (each command's help says what),
        2 for an error that it names, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 141
        where the reader of --json - went away before its end. What else is printed may be lost: the
        work is done.
    """
    try:
        with lasting_streams(), interruptible():
            return _main(argv)
    except KeyboardInterrupt as interrupt:
        return 128 + getattr(interrupt, "number", signal.SIGINT)


def _main(argv: Sequence[str] | None) -> int:
    parser = make_parser()
    if _COMPLETION in os.environ:  # the shell asks, and nothing is run
        require("argcomplete", purpose="completing words in a shell").autocomplete(parser)
    command: type[Command] | None = None
    program, traceback = "yolox_trt", False
    try:
        arguments = parse(parser, argv)
        traceback = getattr(arguments, "traceback", False)
        if not hasattr(arguments, "command"):
            parser.print_help()
            return 0
        command, program = arguments.command, f"yolox_trt {arguments.command.name}"
        verbose = getattr(arguments, "verbose", 0)
        level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
        handler = logging.StreamHandler()
        handler.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=level, handlers=[handler])
        status = run(command, arguments)
        sys.stdout.flush()
        lost = getattr(arguments, JSON.name, None) == STANDARD_OUTPUT and reader_gone()
        return 128 + signal.SIGPIPE if lost else status
    except (YoloxTrtError, ModuleNotFoundError, OSError) as error:
        text = _explained(error, command)
        if traceback or text is None:
            raise
        program = error.program if isinstance(error, UsageError) else program
        print(f"{program}: {clean_text(' '.join(text.split()))}", file=sys.stderr)
        return 2


def _explained(error: Exception, command: type[Command] | None) -> str | None:
    """Return what to tell of an error; None for a defect of the package."""
    if isinstance(
        error, OSError
    ):  # a folder that cannot be written, a full disk: it names the path
        return f"{error}; fix: check the path, its permissions and the free space"
    if isinstance(error, ModuleNotFoundError):
        missing = missing_requirement(error)
        return None if missing is None else str(missing)
    assert isinstance(error, YoloxTrtError)
    return error.text(lambda option: name_in(command, option))


def run(command: type[Command], arguments: argparse.Namespace) -> int:
    """Run a command with its parsed arguments; return the exit status.

    Raises:
        YoloxTrtError: what the command refuses.
    """
    instance = make_command(command, vars(arguments))
    json: Path | str | None = getattr(arguments, JSON.name, None)
    if json is not None and json != STANDARD_OUTPUT:
        json = Path(JSON.typed(json))
    for package in command.needs:
        require(package, purpose=f"`yolox_trt {command.name}`")
    instance.prepare_outputs(vars(arguments))
    return instance.run(Output(json))


def _add_general(parser: argparse._ActionsContainer) -> None:
    """Add what every command takes, before its name and after it."""
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=argparse.SUPPRESS,
        help="log more (-vv: debug messages)",
    )
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the whole traceback of an error",
    )
