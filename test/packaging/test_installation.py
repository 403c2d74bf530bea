# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Where ROS and the commands look, the package is: after pip, and after colcon."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

EXECUTABLES = ("multi_camera", "yolox_trt")
SHARED_FOLDERS = ("launch", "config", "models")


def shared_files(folder: Path) -> set[str]:
    """Name the files that belong under share/yolox_trt, relative to their root."""
    return {
        str(path.relative_to(folder))
        for name in SHARED_FOLDERS
        for path in (folder / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def run(command: list[str], **keywords: object) -> str:
    """Run a command and give its output; the output is in the error too."""
    process = subprocess.run(  # type: ignore[call-overload]
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **keywords
    )
    assert process.returncode == 0, process.stdout
    return str(process.stdout)


def test_the_ament_index_knows_the_package(repository: Path) -> None:
    index = pytest.importorskip("ament_index_python", reason="ROS 2 is not installed")
    share = Path(index.get_package_share_directory("yolox_trt"))
    assert (share / "package.xml").read_text() == (repository / "package.xml").read_text()
    assert shared_files(share) >= shared_files(repository), "run `make venv`"


def start_without_a_model(*executable: str, **keywords: object) -> str:
    """Start multi_camera with a model that does not exist; give its one line of error."""
    command = [*executable, "--ros-args", "-p", "model:=/nowhere/none.onnx"]
    process = subprocess.run(  # type: ignore[call-overload]
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, **keywords
    )
    assert process.returncode != 0
    return str(process.stdout)


def test_ros2_run_finds_the_executables() -> None:
    """As ros2run does: executable files in <prefix>/lib/<package>."""
    index = pytest.importorskip("ament_index_python", reason="ROS 2 is not installed")
    folder = Path(index.get_package_prefix("yolox_trt"), "lib", "yolox_trt")
    assert all(os.access(folder / name, os.X_OK) for name in EXECUTABLES)
    assert "yolox_trt" in run([str(folder / "yolox_trt"), "--version"], timeout=60)
    assert "/nowhere/none.onnx" in start_without_a_model(str(folder / "multi_camera"))


IGNORED = shutil.ignore_patterns(
    ".*", "__pycache__", "build", "install", "log", "*.egg-info", "demo_output"
)


def test_three_lines_of_python_from_a_fresh_installation(repository: Path, tmp_path: Path) -> None:
    """`pip install .` into a new environment, which borrows this one's packages but for itself."""
    shutil.copytree(repository, tmp_path / "source", ignore=IGNORED)
    run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], timeout=60)
    python = str(tmp_path / "venv" / "bin" / "python")
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    options = ("--no-build-isolation", "--no-compile")
    run([*pip, *options, str(tmp_path / "source")], timeout=100)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "AMENT_PREFIX_PATH", "YOLOX_TRT_MODEL")
    }
    program = (
        "import numpy, sys, yolox_trt\n"
        "detector = yolox_trt.Detector()\n"
        "for box in detector(numpy.zeros((48, 64, 3), numpy.uint8)): print(box)\n"
        "print(yolox_trt.__file__, 'rclpy' in sys.modules, detector.names[0])"
    )
    output = run([python, "-c", program], cwd=tmp_path, env=environment, timeout=100)
    assert output.split() == [str(site / "yolox_trt" / "__init__.py"), "False", "person"]


@pytest.fixture(scope="module")
def workspace(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A colcon workspace with a copy of what git would hand out, built and installed."""
    if shutil.which("colcon", path=Path(sys.executable).parent.as_posix()) is None:
        pytest.skip("colcon is not installed: run `make venv PROFILE=test`")
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copytree(repository, folder / "src" / "yolox_trt", ignore=IGNORED)
    colcon = str(Path(sys.executable).with_name("colcon"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    listed = run([colcon, "list", "--names-only"], cwd=folder, env=environment)
    assert listed.split() == ["yolox_trt"], "colcon must not see interfaces/"
    run([colcon, "build", "--event-handlers", "console_direct+"], cwd=folder, env=environment)
    return folder


@pytest.mark.timeout(240)
def test_colcon_installs_code_data_and_executables(workspace: Path, repository: Path) -> None:
    prefix = workspace / "install" / "yolox_trt"
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / "yolox_trt"
    assert marker.is_file()
    assert shared_files(prefix / "share" / "yolox_trt") == shared_files(repository)
    for executable in EXECUTABLES:
        text = (prefix / "lib" / "yolox_trt" / executable).read_text()
        assert "entry" in text or "sys.exit" in text, "the forwarders are for pip alone"
    (kernels,) = prefix.glob("lib/python3*/site-packages/yolox_trt/kernels")
    sources = {p.relative_to(repository / "yolox_trt/kernels")
               for p in (repository / "yolox_trt/kernels").rglob("*.cu*")}  # fmt: skip
    assert sources == {p.relative_to(kernels) for p in kernels.rglob("*.cu*")}


@pytest.mark.timeout(240)
def test_a_sourced_workspace_goes_before_the_environment(workspace: Path) -> None:
    pytest.importorskip("ament_index_python", reason="ROS 2 is not installed")
    code = (
        "import yolox_trt, ament_index_python as i; print(yolox_trt.__file__); "
        "print(i.get_package_prefix('yolox_trt')); print(i.get_package_prefix('rclpy'))"
    )
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    sourced = ["sh", "-c", '. install/setup.sh && exec "$0" "$@"']
    lines = run([*sourced, "python", "-c", code], cwd=workspace, env=environment).splitlines()
    assert lines[0].startswith(str(workspace / "install"))
    assert lines[1] == str(workspace / "install" / "yolox_trt")
    assert lines[2] != lines[1]
    script = workspace / "install" / "yolox_trt" / "lib" / "yolox_trt" / "multi_camera"
    found = run([*sourced, "sh", "-c", "command -v yolox_trt"], cwd=workspace, env=environment)
    assert found.strip() == str(script.with_name("yolox_trt"))
    output = start_without_a_model(*sourced, str(script), cwd=workspace, env=environment)
    assert "/nowhere/none.onnx" in output
