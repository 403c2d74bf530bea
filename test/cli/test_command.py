# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A command is a dataclass of options: parser, help, instance and errors are made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from yolox_trt.cli.command import Command, Parser, add_arguments, make_command, name_in, usage_of
from yolox_trt.cli.output import Output
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import (
    Kind,
    OptionGroup,
    nested,
    option,
    options_of,
    parse_size,
    path_option,
)


@dataclass(frozen=True, kw_only=True)
class Thresholds(OptionGroup):
    score: float = option(0.3, minimum=0.0, maximum=1.0, help="Least score.")
    nms: float = option(0.45, flag="--iou", help="IoU.", group="boxes")
    kept_fixed: int = option(7, help="Not offered.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nms < self.score:
            declared = options_of(Thresholds)
            raise ConfigurationError(
                (declared["nms"], " under ", declared["score"]), fix=("raise ", declared["nms"])
            )


@dataclass(frozen=True, kw_only=True)
class Paint(Command, name="paint"):
    """Paint a picture.

    At 100 % of its size.
    """

    source: Path = option(parse=Path, flag="PICTURE", help="What to paint.")
    others: tuple[str, ...] = option([], kind=Kind.STRING_ARRAY, flag="MORE", help="And more.")
    output: Path = option(parse=Path, flag="--output -o", help="Where to.")
    size: tuple[int, int] | None = option(
        None, kind=Kind.STRING, parse=parse_size, metavar="HxW", help="Size."
    )
    colours: tuple[str, ...] = option(
        ["red"], choices=("red", "blue"), flag="--colour", help="Colours."
    )
    frame: bool = option(True, help="Paint a frame.")
    gold: float | None = option(None, kind=Kind.DOUBLE, implied=0.5, above=0.0, help="Gilding.")
    model: Path | None = path_option(help="Model.")
    thresholds: Thresholds = nested(Thresholds, without=("kept_fixed",), score=0.2)
    other: dict[str, int] = field(default_factory=dict)

    def run(self, output: Output) -> int:
        return 0


def parse(*words: str) -> Paint:
    parser = Parser(prog="yolox_trt paint")
    add_arguments(parser, Paint)
    return make_command(Paint, vars(parser.parse_args(list(words))))


def test_defaults_are_those_of_the_declaration_and_of_the_command() -> None:
    command = parse("a.png", "-o", "b.png")
    assert command == Paint(source=Path("a.png"), output=Path("b.png"))
    assert command.thresholds == Thresholds(score=0.2)
    assert command.colours == ("red",) and command.frame and command.other == {}


def test_values_are_typed() -> None:
    command = parse(
        "a.png", "m1", "m2", "--output", "b", "--size", "96x64", "--colour", "blue", "--colour",
        "red", "--no-frame", "--gold", "--iou", "1", "--score", "1",
    )  # fmt: skip
    assert command.others == ("m1", "m2") and command.size == (96, 64)
    assert command.colours == ("blue", "red") and not command.frame and command.gold == 0.5
    assert command.thresholds == Thresholds(score=1.0, nms=1.0)
    assert isinstance(command.thresholds.score, float)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--score", "2"], "--score = 2.0; expected a number, 0 to 1; fix: set --score"),
        (["--score", "x"], "--score = 'x'; expected a number, 0 to 1; fix: set --score"),
        (["--size", "96"], "size '96'; expected HxW, such as 608x960; fix: set --size"),
        (["--colour", "green"], "--colour = 'green'; expected red or blue; fix: set --colour"),
        (["--gold", "0"], "--gold = 0.0; expected a number, above 0; fix: set --gold"),
        (["--iou", "0.1"], "--iou under --score; fix: raise --iou"),
    ],
)
def test_errors_name_the_flags(words: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse("a.png", "-o", "b", *words)
    assert caught.value.text(lambda each: name_in(Paint, each)) == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.png"], "required: --output"),
        (["-o", "b"], "required: PICTURE"),
        (["a.png", "-o"], "expected one argument"),
        (["a.png", "-o", "b", "--kept-fixed", "1"], "unrecognized arguments: --kept-fixed 1"),
        (["a.png", "-o", "b", "--scor", "1"], "unrecognized"),
    ],
)
def test_words_that_are_missing_or_unknown(words: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{message}.*fix: see `yolox_trt paint --help`"):
        parse(*words)


def test_an_option_of_another_dataclass_has_the_flag_of_the_same_name() -> None:
    @dataclass(frozen=True)
    class Elsewhere:
        nms: float = option(0.1, help="The same.")
        unknown: int = option(1, help="None of the command's.")

    assert name_in(Paint, options_of(Elsewhere)["nms"]) == "--iou"
    assert name_in(Paint, options_of(Elsewhere)["unknown"]) == "`unknown`"
    assert name_in(None, options_of(Thresholds)["nms"]) == "--iou"


def test_the_help_shows_ranges_defaults_and_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    parser = Parser(usage=usage_of(Paint))
    add_arguments(parser, Paint)
    text = " ".join(parser.format_help().split())
    assert "usage: yolox_trt paint [OPTION ...] --output OUTPUT PICTURE [MORE ...]" in text
    assert "--score SCORE Least score (0 to 1; default: 0.2)." in text
    assert "boxes: --iou NMS IoU (default: 0.45)." in text
    assert "--no-frame Switch off: paint a frame." in text
    assert "--colour {red,blue} Colours (may be given several times; default: red)." in text
    assert "--gold [GOLD] Gilding (above 0)." in text


def test_two_options_with_one_flag_are_an_error_of_the_program() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Twice(Command, name="twice"):
        iou: float = option(0.1, help="The same flag.")
        thresholds: Thresholds = nested(Thresholds)

        def run(self, output: Output) -> int:
            return 0

    with pytest.raises(Exception, match="conflicting option string"):
        add_arguments(Parser(), Twice)
