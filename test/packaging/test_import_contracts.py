# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The import contracts of pyproject.toml hold, and each of them notices when it is broken."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="not installed: run `make venv PROFILE=test`")

LAYERS = "Rooms import downwards only"
TRAINING = "Training runs no engine and no executor"
ROS = "ROS is imported in the room ros only"
CUPY = "CuPy is imported in kernels, engines and detectors only"
TORCH = "PyTorch is imported in the room training only, and by benchmarks"


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A copy of the package and its settings that may be broken."""
    ignore = shutil.ignore_patterns("__pycache__", "*.cu")
    shutil.copytree(repository / "yolox_trt", tmp_path / "yolox_trt", ignore=ignore)
    shutil.copy(repository / "pyproject.toml", tmp_path)
    return tmp_path


def check(folder: Path) -> tuple[int, str]:
    """Run import-linter on the package that lies in a folder."""
    code = "from importlinter.cli import lint_imports_command as main; main()"
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return process.returncode, process.stdout


def test_the_package_keeps_its_contracts(copy: Path) -> None:
    status, output = check(copy)
    assert status == 0, output
    for contract in (LAYERS, TRAINING, ROS, CUPY, TORCH):
        assert f"{contract} KEPT" in output


#: Room, a statement that none of its modules may have, contract that forbids it.
BREACHES = [
    ("core", "import yolox_trt.kernels", LAYERS),
    ("kernels", "import yolox_trt.engines", LAYERS),
    ("graph", "import yolox_trt.engines", LAYERS),
    ("engines", "def later():\n    import yolox_trt.executor", LAYERS),
    ("compiler", "from yolox_trt import evaluation", LAYERS),
    ("executor", "import yolox_trt.ros", LAYERS),
    ("training", "import yolox_trt.evaluation", LAYERS),
    ("executor", "import yolox_trt.planning", LAYERS),
    ("training", "import yolox_trt.kernels", TRAINING),
    ("executor", "import rclpy", ROS),
    ("evaluation", "from vision_msgs.msg import Detection2DArray", ROS),
    ("ros", "import cupy", CUPY),
    ("compiler", "import cupy", CUPY),
    ("evaluation", "import torch", TORCH),
]


def test_a_broken_contract_is_noticed(copy: Path) -> None:
    """Break all of them at once: the report has a section for each contract, with its breaches."""
    for number, (room, statement, _) in enumerate(BREACHES):
        (copy / "yolox_trt" / room / f"offender{number}.py").write_text(f"{statement}\n")
    status, output = check(copy)
    assert status == 1, output
    sections = dict(re.findall(r"^([^\n]+)\n-+\n(.*?)(?=^[^\n]+\n-+\n|\Z)", output, re.M | re.S))
    for number, (room, _, contract) in enumerate(BREACHES):
        assert f"{contract} BROKEN" in output
        assert f"{room}.offender{number} ->" in sections[contract], output
