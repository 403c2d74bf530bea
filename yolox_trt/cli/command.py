# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Command: one subcommand of `yolox_trt`, whose arguments are the options of a dataclass.

    @dataclass(frozen=True, kw_only=True)
    class Build(Command, name="build", has_json=True):
        \"\"\"Build a TensorRT engine.\"\"\"

        model: Path = option(parse=Path, flag="MODEL", help="ONNX file.")
        build: BuildOptions = nested(BuildOptions)

        def run(self, output: Output) -> int: ...

The docstring is the help, its first paragraph the line in the list of commands; command lines
under "Examples:" end the help. The module of a
command imports nothing that is slow or optional: `run` does.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import re
import shutil
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

from yolox_trt.cli.output import STANDARD_OUTPUT, Output
from yolox_trt.core.errors import ConfigurationError, YoloxTrtError, python_name
from yolox_trt.core.option import Kind, Option, nested_of, options_of, parse_path
from yolox_trt.core.output_paths import OutputFile, file_key, prepare_outputs

T = TypeVar("T")
_ARRAYS = (Kind.STRING_ARRAY, Kind.INTEGER_ARRAY)
#: What every command with `has_json` takes besides its own options.
JSON = Option(
    name="json",
    kind=Kind.STRING,
    default=None,
    flag="--json",
    implied=STANDARD_OUTPUT,
    parse=OutputFile(".json"),
    help="Write the results as JSON to this file; without a file, or with -, to the standard "
    "output, which then shows nothing else.",
)


@dataclass(frozen=True, kw_only=True)
class Command(ABC):
    """Base of all commands. A subclass is a frozen dataclass of options and groups of options.

    Its attributes are keywords of a subclass; but for the name, subclasses inherit them.

    Attributes:
        name: what the user types; "models list" is the command `list` of the group `models`.
        needs: optional packages without which it cannot run.
        has_json: whether it takes --json, because its `run` calls `output.json`.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    has_json: ClassVar[bool] = False

    def __init_subclass__(
        cls, name: str = "", needs: tuple[str, ...] = (), has_json: bool = False
    ) -> None:
        super().__init_subclass__()
        cls.name, cls.needs, cls.has_json = name, needs or cls.needs, has_json or cls.has_json

    @abstractmethod
    def run(self, output: Output) -> int:
        """Do the work; return the exit status."""

    def found_files(self) -> Iterator[tuple[Option, Path]]:
        """Yield the files that are read without being named, and the options that lead to them."""
        yield from ()

    def folder_files(self) -> Iterator[tuple[Option, Path]]:
        """Yield the files that are written into a folder, and the option that names it."""
        yield from ()

    def prepare_outputs(self, given: Mapping[str, Any]) -> None:
        """Make the folders of all files that will be written, or refuse them, before the work.

        Args:
            given: what was typed of each argument, by Argument.destination, and of --json.

        Raises:
            ConfigurationError: see output_paths.prepare_outputs; or the command would write over
                what it reads or writes besides.
        """
        read: list[tuple[Option, Path]] = []
        written: list[tuple[Option, Path]] = []
        for argument in arguments_of(type(self)):
            value: Any = self
            for name in argument.path:
                value = getattr(value, name)
            # An option that reads its file at once keeps nothing of the path but what was typed.
            texts = () if argument.is_written else _existing(given.get(argument.destination))
            paths = [*_paths_in(value), *texts]
            (written if argument.is_written else read).extend((argument.declared, p) for p in paths)
        written += self.folder_files()
        if given.get(JSON.name, STANDARD_OUTPUT) not in (None, STANDARD_OUTPUT):
            written.append((JSON, JSON.typed(given[JSON.name])))
        if any(path.exists() for _, path in written):  # else there is nothing to lose
            read += [(option, file) for option, path in read for file in _external_files(path)]
            read += self.found_files()
        taken: dict[object, Option] = {}
        for option, path in read:
            taken.setdefault(file_key(path), option)
        for option, path in written:
            if (key := file_key(path)) in taken:
                raise ConfigurationError(
                    (f"'{path}' as ", taken[key], " and as ", option),
                    expected="a file of its own to write",
                    fix=("give another ", option),
                )
            taken[key] = option
            prepare_outputs(path)


def _paths_in(value: Any) -> Iterator[Path]:
    """Yield a path, or those in a list."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _paths_in(each)


def _existing(typed: Any) -> Iterator[Path]:
    """Yield the files of which an argument's words are the paths."""
    for text in typed if isinstance(typed, list) else [typed]:
        with contextlib.suppress(ConfigurationError):
            if isinstance(text, str) and (path := parse_path(text)).is_file():
                yield path


def _external_files(model: Path) -> Iterator[Path]:
    """Yield the files in which an ONNX model keeps weights; what is wrong is told by its reader."""
    if model.suffix.lower() == ".onnx" and model.is_file():
        from yolox_trt.engines.fingerprint import external_files

        with contextlib.suppress(YoloxTrtError):
            yield from (model.parent / name for name in external_files(model))


@dataclass(frozen=True)
class Argument:
    """An option as an argument of one command.

    Attributes:
        path: names of the fields that lead to it.
        option: the option with the default that it has in this command.
        declared: the option as its dataclass declares it, which errors hold.
    """

    path: tuple[str, ...]
    option: Option
    declared: Option

    @property
    def destination(self) -> str:
        """Its name among the parsed arguments."""
        return ".".join(self.path)

    @property
    def is_written(self) -> bool:
        """Whether it names a file that the command writes."""
        return isinstance(self.option.parse, OutputFile)

    @property
    def takes_many_words(self) -> bool:
        """Whether it is positional, and takes as many words as there are."""
        return self.option.kind in _ARRAYS and not self.flags[0].startswith("-")

    @property
    def flags(self) -> list[str]:
        """What the user types, the long form first; one word in capitals if it is positional."""
        return _flags(self.option)


def arguments_of(group: type[Any]) -> Iterator[Argument]:
    """Yield every option of a dataclass and of the groups in it."""
    declared, groups = options_of(group), nested_of(group)
    for field in dataclasses.fields(group):
        if field.name in declared:
            option = declared[field.name]
            yield Argument((field.name,), option, option)
        elif field.name in groups:
            nested = groups[field.name]
            for inner in arguments_of(nested.type):
                name = inner.path[0]
                if name in nested.without:
                    continue
                option = inner.option
                if len(inner.path) == 1 and name in nested.defaults:
                    option = dataclasses.replace(option, default=nested.defaults[name])
                yield Argument((field.name, *inner.path), option, inner.declared)


def name_in(command: type[Command] | None, option: Option) -> str:
    """Name an option as the user of this command does, for YoloxTrtError.text."""
    same_name = ""
    for argument in () if command is None else arguments_of(command):
        if argument.declared is option:
            return argument.flags[0]
        if argument.declared.name == option.name:
            same_name = same_name or argument.flags[0]
    return same_name or option.flag.partition(" ")[0] or python_name(option)


def add_arguments(parser: argparse.ArgumentParser, command: type[Command]) -> None:
    """Add the arguments of a command to its parser, each to the section of its group."""
    sections: dict[str, argparse._ActionsContainer] = {"": parser}
    for argument in arguments_of(command):
        section = argument.option.group
        if section not in sections:
            sections[section] = parser.add_argument_group(section)
        add_argument(sections[section], argument.option, argument.destination)


def make_command(command: type[T], arguments: Mapping[str, Any], path: tuple[str, ...] = ()) -> T:
    """Make the instance of a command from its parsed arguments.

    Args:
        command: the command; a group of its options in the inner calls.
        arguments: text of each argument that was given, by Argument.destination.
        path: names of the fields that lead to the group.

    Raises:
        ConfigurationError: a wrong value, or values that exclude each other.
    """
    values: dict[str, Any] = {}
    for name, option in options_of(command).items():
        destination = ".".join((*path, name))
        if destination in arguments:
            values[name] = option.typed(_plain(option, arguments[destination]))
    for name, nested in nested_of(command).items():
        prefix = (*path, name)
        given = {".".join((*prefix, key)): value for key, value in nested.defaults.items()}
        values[name] = make_command(nested.type, {**given, **arguments}, prefix)
    return command(**values)


def _flags(option: Option) -> list[str]:
    if option.flag:
        return option.flag.split()
    prefix = "--no-" if option.default is True else "--"
    return [prefix + option.name.replace("_", "-")]


def add_argument(section: argparse._ActionsContainer, option: Option, destination: str) -> None:
    """Add an option to a section of a parser."""
    flags = _flags(option)
    settings: dict[str, Any] = {
        "default": argparse.SUPPRESS,
        "help": help_of(option).replace("%", "%%"),
    }
    many = option.kind in _ARRAYS
    if option.kind is Kind.BOOL:
        settings |= {"action": "store_const", "const": not option.default}
    else:
        settings["metavar"] = option.metavar or _metavar(option)
    if not flags[0].startswith("-"):
        settings["metavar"] = option.metavar or flags[0]
        if many:
            settings["nargs"] = "+" if option.required else "*"
        elif not option.required:
            settings["nargs"] = "?"
        _completed(section.add_argument(destination, **settings), option)
        return
    if many:
        settings["action"] = "append"
    elif option.implied is not None:
        settings |= {"nargs": "?", "const": option.implied}
    action = section.add_argument(*flags, dest=destination, required=option.required, **settings)
    _completed(action, option)


def _completed(action: argparse.Action, option: Option) -> None:
    """Tell argcomplete the values: choices are checked by the option, argparse knows none."""
    if option.choices:
        setattr(action, "completer", lambda **_: option.choices)  # noqa: B010 (argparse has none)


def _metavar(option: Option) -> str:
    if option.choices:
        return "{" + ",".join(option.choices) + "}"
    if isinstance(option.parse, OutputFile):
        return "FILE" + (option.parse.suffixes[0] if len(option.parse.suffixes) == 1 else "")
    return {"s": "SECONDS", "ms": "MS", "Hz": "HZ", "min": "MINUTES"}.get(
        option.unit, "N" if option.kind is Kind.INTEGER else option.name.split("_")[-1].upper()
    )


def help_of(option: Option) -> str:
    """Return the option's help with its range and its default."""
    notes = []
    if option.range_text and not option.choices and option.range_text != "at least 1":
        notes.append(option.range_text)
    if option.kind in _ARRAYS and _flags(option)[0].startswith("-"):
        notes.append("may be given several times")
    if option.kind is not Kind.BOOL and option.default not in (None, "", []):
        notes.append(f"default: {_text(option.default)}")
    text = option.help.rstrip(".")
    if option.default is True:
        text = f"Switch off: {text[0].lower()}{text[1:]}"
    if notes:
        joined = "; ".join(notes)
        text = f"{text[:-1]}; {joined})" if text.endswith(")") else f"{text} ({joined})"
    return f"{text}."


def _text(default: Any) -> str:
    if isinstance(default, list):
        return " ".join(str(item) for item in default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def _plain(option: Option, given: Any) -> Any:
    """Return an argument's text in the type of the option's plain value."""
    convert = {Kind.INTEGER: int, Kind.INTEGER_ARRAY: int, Kind.DOUBLE: float}.get(option.kind)
    if convert is None or given is None:
        return given
    try:
        return [convert(item) for item in given] if isinstance(given, list) else convert(given)
    except ValueError:
        raise option.refusal(given) from None


class UsageError(ConfigurationError):
    """The words of a command line cannot be understood.

    Args:
        program: command that does not understand them.
    """

    def __init__(self, found: str, *, expected: str = "", fix: str = "", program: str = "") -> None:
        super().__init__(found, expected=expected, fix=fix or f"see `{program} --help`")
        self.program = program


class Parser(argparse.ArgumentParser):
    """A parser whose errors are the package's own, and whose help keeps paragraphs and examples."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage.

        Raises:
            UsageError: always.
        """
        raise UsageError(message, program=self.prog)


def _width() -> int:
    """Return the columns that a help may take."""
    return min(shutil.get_terminal_size().columns, 100) - 2


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=_width())

    def _format_usage(self, usage: str | None, *others: Any) -> str:
        if usage is not None:
            lines = textwrap.wrap(usage, self._width - len("usage: "), break_on_hyphens=False)
            usage = "\n  ".join(lines)
        return super()._format_usage(usage, *others)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Fill each paragraph of its own; leave indented ones (examples) as they are."""
        paragraphs = re.split(r"\n\s*\n", text)
        return "\n\n".join(
            part if part.startswith(" ") else textwrap.fill(" ".join(part.split()), width)
            for part in paragraphs
        )


def usage_of(command: type[Command]) -> str:
    """Return the command with what must be given, for the first line of its help."""
    flags, positional = [], []
    for argument in arguments_of(command):
        flag, option = argument.flags[0], argument.option
        if not flag.startswith("-"):
            word = flag + " ..." * (option.kind in _ARRAYS)
            positional.append(word if option.required else f"[{word}]")
        elif option.required:
            flags.append(f"{flag} {option.metavar or _metavar(option)}")
    return " ".join([f"yolox_trt {command.name} [OPTION ...]", *flags, *positional])


def describe(command: type[Command]) -> tuple[str, str, str]:
    """Return the first paragraph of a command's docstring, the whole of it, and its examples."""
    text = inspect.getdoc(command) or ""
    summary = " ".join(text.partition("\n\n")[0].split())
    description, _, examples = text.partition("\n\nExamples:\n")
    return (
        summary,
        description,
        f"examples:\n\n{textwrap.indent(textwrap.dedent(examples), '  ')}" if examples else "",
    )
