# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The import contracts of pyproject.toml hold, and each of them notices when it is broken."""

from __future__ import annotations

import itertools
import os
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
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def copy(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and its settings that may be broken."""
    folder = tmp_path_factory.mktemp("contracts")
    ignore = shutil.ignore_patterns("__pycache__", "*.cu")
    shutil.copytree(repository / "yolox_trt", folder / "yolox_trt", ignore=ignore)
    shutil.copy(repository / "pyproject.toml", folder)
    return folder


def check(folder: Path) -> tuple[int, str]:
    """Run import-linter on the package that lies in a folder.

    Its cache, in that folder, spares it from reading the whole package each time.
    """
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


@pytest.mark.parametrize(
    ("room", "statement", "contract"),
    [
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
    ],
)
def test_a_broken_contract_is_noticed(copy: Path, room: str, statement: str, contract: str) -> None:
    # The cache knows a file by its name and time: every case has a name of its own.
    offender = copy / "yolox_trt" / room / f"offender{next(NUMBERS)}.py"
    offender.write_text(f"{statement}\n")
    try:
        status, output = check(copy)
    finally:
        offender.unlink()
    assert status == 1, output
    assert f"{contract} BROKEN" in output
