# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Commands in the documents, in help texts and in error messages have the options they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from yolox_trt.cli import main as cli
from yolox_trt.cli.command import arguments_of
from yolox_trt.cli.commands import COMMANDS

GENERAL = {"--help", "--json", "--verbose", "-v", "-vv", "--traceback", "-h"}
NAMES = sorted((command.name for command in COMMANDS), key=len, reverse=True)
#: A command with what follows it, up to the end of the span of code, the text or the line.
COMMAND = re.compile(rf"yolox_trt ({'|'.join(NAMES)})\b([^`\"\n|;#,)]*)")
FLAGS = {
    command.name: GENERAL.union(*(argument.flags for argument in arguments_of(command)))
    for command in COMMANDS
}


def sources(repository: Path) -> list[Path]:
    folders = [(repository, "*.md"), (repository / "docs", "**/*.md")]
    folders += [(repository / "examples", "**/*.md"), (repository / "yolox_trt", "**/*.py")]
    return [path for folder, pattern in folders for path in sorted(folder.glob(pattern))]


def test_every_command_that_is_written_down_has_its_options(repository: Path) -> None:
    wrong, seen = [], set()
    for path in sources(repository):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for name, rest in COMMAND.findall(text):
            seen.add(name)
            for flag in re.findall(r"(?<!\S)-{1,2}[a-z][\w-]*", rest):
                if flag not in FLAGS[name]:
                    wrong.append(f"{path.relative_to(repository)}: {name} {flag}")
    assert not wrong, "\n".join(wrong)
    assert len(seen) > 15


@pytest.mark.parametrize("document", ["README.md", "docs/detection.md", "docs/compiler.md"])
def test_whole_command_lines_can_be_parsed(document: str, repository: Path) -> None:
    text = (repository / document).read_text()
    lines = re.findall(r"^(?:    |\.venv/bin/)yolox_trt ([^#\n|>]+)", text, re.M)
    assert lines
    parser = cli.make_parser()
    for line in lines:
        words = line.replace("[", "").replace("]", "").split()
        if "..." not in words:
            cli.parse(parser, words)
