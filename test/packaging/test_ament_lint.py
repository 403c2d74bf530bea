# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ament's linters, where a ROS distribution has them; `make lint` runs ruff everywhere.

What ament_copyright and ament_xmllint look at is held by test_metadata.py: the licence of each file
in SPDX form, and package.xml as catkin_pkg reads it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

CODE = ("yolox_trt", "launch", "scripts", "setup.py")


@pytest.mark.linter
def test_flake8(repository: Path) -> None:
    linter = pytest.importorskip("ament_flake8.main", reason="ament's linters are not installed")
    paths = [str(repository / name) for name in (*CODE, "test")]
    status, errors = linter.main_with_errors(
        argv=["--config", str(repository / "setup.cfg"), *paths]
    )
    assert status == 0, "\n".join(errors)


@pytest.mark.linter
def test_pep257(repository: Path) -> None:
    """Google's form. What is ignored, ruff checks as pyproject.toml says."""
    linter = pytest.importorskip("ament_pep257.main", reason="ament's linters are not installed")
    paths = [str(repository / name) for name in CODE]
    ignored = [f"D{number}" for number in (102, 103, 104, 105, 106, 107, 205, 300, 301, 402, 415)]
    status = linter.main(argv=["--convention", "google", "--add-ignore", *ignored, "--", *paths])
    assert status == 0
