# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The commands in the READMEs of examples/ work, and write what the READMEs say."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("skimage", reason="scikit-image carries the photographs")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
#: Folder -> optional modules without which it cannot run, files that it writes.
FOLDERS: dict[str, tuple[set[str], set[str]]] = {
    "01_detect_images": (set(), {"detections/coffee.png", "detections.json"}),
    "02_evaluate": ({"pycocotools"}, {"metrics.json"}),
    "03_four_cameras": ({"rclpy"}, {"demo_output"}),
    "04_quantize": ({"onnx"}, {"int8.onnx", "float.onnx", "int8.cache", "detections/coffee.png"}),
    "05_dla_surgery": ({"onnx"}, {"wide.onnx"}),
    "06_plan": ({"matplotlib"}, {"plan.png", "plan.json"}),
    "07_python": (set(), set()),
    "08_camera_drivers": ({"ros2launch"}, set()),
    "09_own_detector": ({"onnx"}, {"spots.onnx", "detections.json", "detections/coffee.png"}),
}
#: Those whose commands `make test` runs in other modules: test/ros/tools/test_demo.py,
#: test/cli/test_int8_commands.py, test_model_commands.py and test/planning/test_plan.py.
RUN_ELSEWHERE = {"03_four_cameras", "04_quantize", "05_dla_surgery", "06_plan"}


@pytest.fixture(scope="module")
def tree(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the examples beside the shipped models; put `yolox_trt` and `python` into bin/."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(EXAMPLES, root / "examples")
    (root / "models").symlink_to(repository / "models")
    (root / "bin").mkdir()
    for name, module in (("python", ""), ("yolox_trt", "-m yolox_trt.cli ")):
        script = root / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        script.chmod(0o755)
    return root


def run_readme(tree: Path, name: str, repository: Path) -> str:
    """Run the commands of a README in one shell; return what they printed."""
    folder = tree / "examples" / name
    blocks = re.findall(r"^```sh\n(.*?)^```$", (folder / "README.md").read_text(), re.M | re.S)
    assert blocks
    environment = {
        **os.environ,
        "PATH": f"{tree / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{repository}:{os.environ.get('PYTHONPATH', '')}",
    }
    process = subprocess.run(
        ["sh", "-ec", "\n".join(blocks)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


def test_every_example_is_tested_and_listed() -> None:
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()} - {"__pycache__"}
    listed = set(re.findall(r"\]\((\w+)\)", (EXAMPLES / "README.md").read_text()))
    assert folders == set(FOLDERS) == listed


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in RUN_ELSEWHERE else name
        for name in FOLDERS
    ],
)
def test_commands(name: str, tree: Path, repository: Path) -> None:
    needed, written = FOLDERS[name]
    missing = sorted(module for module in needed if importlib.util.find_spec(module) is None)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    output = run_readme(tree, name, repository)
    folder = tree / "examples" / name
    assert not [path for path in written if not (folder / path).exists()], output
    if name == "01_detect_images":
        found = json.loads((folder / "detections.json").read_text())
        assert {"person", "cup", "motorcycle"} <= {entry["category_name"] for entry in found}
    if name == "07_python":
        assert re.search(r"coffee\.png: cup 0\.\d\d at ", output), output
