# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Links and paths in the documents lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path


def anchors(page: Path) -> set[str]:
    """Give the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def pages(repository: Path) -> list[Path]:
    """List the documents."""
    found = list(repository.glob("*.md"))
    for folder in ("docs", "docker", "examples", "models"):
        found += (repository / folder).rglob("*.md")
    return found


def test_every_file_that_is_named_exists(repository: Path) -> None:
    named = re.compile(
        r"`((?:config|launch|scripts|test|yolox_trt)/[\w./-]+\.(?:cu|py|xml|yaml))\b"
    )
    missing = [
        f"{page.relative_to(repository)}: {path}"
        for page in pages(repository)
        for path in named.findall(page.read_text())
        if "my_pass" not in path and not (repository / path).exists()
    ]
    assert missing == []


def test_every_link_leads_to_a_file_and_a_heading(repository: Path) -> None:
    broken, seen = [], 0
    for page in pages(repository):
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if re.match(r"\w+:", link):
                continue
            seen += 1
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{page.relative_to(repository)}: {link}")
    assert broken == []
    assert seen > 30
