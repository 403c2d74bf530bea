# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The site of docs/ can be built, and every link in it leads somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from yolox_trt.cli.commands import COMMANDS


def test_the_site_has_a_page_for_each_command_and_no_broken_link(
    repository: Path, tmp_path: Path
) -> None:
    pytest.importorskip("mkdocs", reason="needs `make venv PROFILE=test`")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", str(tmp_path)],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    for command in COMMANDS:
        page = (tmp_path / "commands" / f"{command.name.split()[0]}.html").read_text()
        assert f"yolox_trt {command.name}" in page
    assert "xyxy" in (tmp_path / "reference.html").read_text()
    assert "fonts.googleapis" not in (tmp_path / "index.html").read_text()
