# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Processes of this package run its own files, wherever they are started."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

from yolox_trt.ros.module_command import module_command

PACKAGE = Path(__file__).resolve().parents[2] / "yolox_trt"


def test_files_of_the_current_folder_are_not_run(tmp_path: Path) -> None:
    """It may be a shared folder, or an archive from somewhere."""
    for name in ("numpy", "json", "runpy", "yolox_trt", "tool"):
        (tmp_path / f"{name}.py").write_text("print('of the current folder')")
    other = tmp_path / "modules"
    other.mkdir()
    (other / "tool.py").write_text("import json, sys; print(__name__, json.dumps(sys.argv[1:]))")
    environment = {**os.environ, "PYTHONPATH": str(other)}
    environment.pop("PYTHONSAFEPATH", None)
    run = subprocess.run(
        module_command("tool", "a b", 5),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == '__main__ ["a b", "5"]\n'


def test_a_process_has_the_package_of_its_parent(tmp_path: Path) -> None:
    """Also where another one is installed, or found before."""
    (tmp_path / "yolox_trt").mkdir()
    (tmp_path / "yolox_trt" / "__init__.py").write_text("print('another one')")
    (tmp_path / "tool.py").write_text("import yolox_trt.core.limits as m; print(m.__file__)")
    run = subprocess.run(
        module_command("tool"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == f"{PACKAGE / 'core' / 'limits.py'}\n"


def test_no_process_is_started_in_another_way() -> None:
    """`python -m` looks for modules in the current folder first."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List):
                texts = [each.value for each in node.elts if isinstance(each, ast.Constant)]
                assert "-m" not in texts, f"{file}:{node.lineno}"
