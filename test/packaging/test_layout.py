# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""How the sources and their tests are laid out."""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def test_every_folder_of_tests_is_a_package() -> None:
    """Without __init__.py, two test modules of one name could not be collected in one run."""
    folders = {path.parent for path in HERE.rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]


def test_no_test_module_imports_another() -> None:
    """What they share is in test/support."""
    offenders = []
    for path in HERE.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = ["." * node.level + (node.module or "")]
            else:
                continue
            offenders += [
                f"{path.relative_to(HERE)}:{node.lineno} imports {module}"
                for module in modules
                if module.startswith((".", "test.", "test_"))
            ]
    assert offenders == []
