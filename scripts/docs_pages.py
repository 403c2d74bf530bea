# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Hooks of mkdocs: the front page, a page for each command, the Python reference, and links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from yolox_trt.cli.command import arguments_of, describe, help_of, usage_of
from yolox_trt.cli.commands import COMMANDS, GROUPS

_REPOSITORY = Path(__file__).resolve().parents[1]
#: What a program that imports the package may use.
_PYTHON = (
    "yolox_trt.Detector",
    "yolox_trt.api.result.Result",
    "yolox_trt.api.result.Box",
    "yolox_trt.core.detections.Detections",
    "yolox_trt.core.errors.YoloxTrtError",
)


#: A page of docs/ that stands among the guides.
_GUIDE = "autoware.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation: the pages about parts, the commands, the decisions."""
    docs = Path(config.docs_dir)

    def pages(folder: Path) -> list[Any]:
        return [str(path.relative_to(docs)) for path in sorted(folder.glob("*.md"))]

    parts = [page for page in pages(docs) if page != _GUIDE]
    assert config.nav is not None
    config.nav += [
        {"Reference": [*parts, {"Python": "reference.md"}]},
        {"Commands": [{name: _page_of(name)} for name in _names()]},
        {"Decisions": pages(docs / "decisions")},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    front = (_REPOSITORY / "README.md").read_text().replace("](docs/", "](")
    made = {"index.md": front, "reference.md": _reference()}
    made |= {_page_of(name): _command_page(name) for name in _names()}
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to what is no page of the site lead into the repository."""
    folder = Path(page.file.src_uri).parent
    root = "." if page.file.src_uri == "index.md" else "docs"

    def link(match: re.Match[str]) -> str:
        target = match[1].partition("#")[0]
        if re.match(r"\w+:|#|$", target) or (Path(config.docs_dir) / folder / target).is_file():
            return match[0]
        path = (_REPOSITORY / root / folder / target).resolve().relative_to(_REPOSITORY)
        kind = "tree" if (_REPOSITORY / path).is_dir() else "blob"
        return f"]({config.repo_url}/{kind}/main/{path})"

    return re.sub(r"\]\(([^)\s]+)\)", link, markdown)


def _names() -> list[str]:
    """Return each command, or group of commands, once."""
    return list(dict.fromkeys(command.name.split()[0] for command in COMMANDS))


def _page_of(name: str) -> str:
    return f"commands/{name}.md"


def _command_page(name: str) -> str:
    """Return the page of a command or of a group, made of its options."""
    commands = [command for command in COMMANDS if command.name.split()[0] == name]
    parts = [f"# yolox_trt {name}"]
    if name in GROUPS:
        parts.append(GROUPS[name])
    for command in commands:
        _, description, examples = describe(command)
        if name in GROUPS:
            parts.append(f"## yolox_trt {command.name}")
        usage = " ".join(usage_of(command).split())
        parts += [description, f"```text\n{usage}\n```"]
        rows = [
            f"| `{', '.join(argument.flags)}` | {_in_cell(help_of(argument.option))} |"
            for argument in arguments_of(command)
        ]
        if rows:
            parts.append("\n".join(["| option | |", "|---|---|", *rows]))
        lines = re.findall(r"^ +(yolox_trt .*)$", examples, re.M)
        if lines:
            parts.append("Examples:\n\n```sh\n" + "\n".join(lines) + "\n```")
    return "\n\n".join(parts) + "\n"


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|")


def _reference() -> str:
    return "# Python reference\n\n" + "\n\n".join(f"::: {name}" for name in _PYTHON) + "\n"
