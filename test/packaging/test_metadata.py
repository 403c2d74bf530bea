# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What the package says of itself agrees with what it is."""

from __future__ import annotations

import ast
import configparser
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

import yolox_trt
from yolox_trt.core.optional import INSTALL_COMMANDS

#: Module -> requirement of setup.cfg, where the names differ.
REQUIREMENT_OF_MODULE = {
    "upath": "universal_pathlib",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "cupy": "cupy-cuda12x",
    "cupyx": "cupy-cuda12x",
    "edgefirst": "edgefirst-tracker",
    "nvidia": "nvidia-nvimgcodec-cu12",
    "rerun": "rerun-sdk",
    "skimage": "scikit-image",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
    "yaml": "PyYAML",
}
#: Module -> rosdep key of package.xml, where the names differ.
ROSDEP_KEY_OF_MODULE = {"cv2": "python3-opencv", "yaml": "python3-yaml"}
#: On PyPI alone, or needed by the optional room training alone: docs/installation.md names them.
NO_ROSDEP_KEY = {
    "PIL", "PyNvVideoCodec", "av", "cupy", "cupyx", "duckdb", "edgefirst", "fsspec", "nvidia",
    "nvtx", "onnx", "onnxruntime", "pandas", "pyarrow", "pycocotools", "ray", "rerun", "rosbags",
    "skimage", "supervision", "tensorrt", "tensorrt_rtx", "torch", "torchvision", "upath",
}  # fmt: skip
#: Served by a workspace or a driver, in no index.
FROM_ELSEWHERE = {
    "autoware_internal_debug_msgs", "autoware_perception_msgs", "tier4_debug_msgs",
    "tier4_perception_msgs", "nvtx",
}  # fmt: skip
#: A module that only a ROS distribution has.
DISTRIBUTION_ONLY = {"cv_bridge", "launch", "launch_ros"}


def imported_modules(folder: Path) -> set[str]:
    """Collect the top-level names that the sources import, the lazy ones through require() too."""
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
            elif (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) in {"require", "optional.require"}
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                names.add(str(node.args[0].value).partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"yolox_trt", "__future__"}


def declared_requirements(repository: Path) -> set[str]:
    """Names in install_requires and in every extra of setup.cfg."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(repository / "setup.cfg")
    text = config["options"]["install_requires"] + "\n".join(
        config["options.extras_require"].values()
    )
    return {m.group(0) for line in text.splitlines() if (m := re.match(r"[\w.-]+", line.strip()))}


@pytest.fixture(scope="module")
def manifest(repository: Path) -> ElementTree.Element:
    """package.xml."""
    return ElementTree.parse(repository / "package.xml").getroot()


def test_every_import_is_a_requirement(repository: Path) -> None:
    declared = declared_requirements(repository)
    undeclared = {
        module
        for module in imported_modules(repository / "yolox_trt")
        if not {
            module,
            REQUIREMENT_OF_MODULE.get(module, module),
            f"ros-kilted-{module.replace('_', '-')}",
        }
        & declared
        and module not in FROM_ELSEWHERE | DISTRIBUTION_ONLY
        # Built from interfaces/, and no part of the wheels.
        and not (repository / "interfaces" / module).is_dir()
        # Comes with every other ROS package.
        and module not in {"ament_index_python", "builtin_interfaces"}
    }
    assert not undeclared, "name them in setup.cfg"


def test_every_import_has_a_rosdep_key(repository: Path, manifest: ElementTree.Element) -> None:
    keys = {element.text for element in manifest.iter("exec_depend")}
    undeclared = {
        module
        for module in imported_modules(repository / "yolox_trt")
        if not {module, f"python3-{module}", ROSDEP_KEY_OF_MODULE.get(module)} & keys
        and module not in NO_ROSDEP_KEY | FROM_ELSEWHERE | {"builtin_interfaces"}
    }
    assert not undeclared, "name their rosdep keys in package.xml"


def test_the_installation_page_names_what_rosdep_cannot_install(repository: Path) -> None:
    page = (repository / "docs" / "installation.md").read_text()
    for module in (
        "onnx",
        "onnxruntime",
        "rosbags",
        "edgefirst",
        "cupy",
        "tensorrt",
        "torch",
        "pycocotools",
    ):
        assert re.search(rf"\b{module}\b", page), module


def test_the_versions_agree(manifest: ElementTree.Element) -> None:
    assert manifest.findtext("version") == yolox_trt.__version__


def test_the_manifest_is_one_that_ros_tools_take(repository: Path) -> None:
    catkin = pytest.importorskip("catkin_pkg.package")
    warnings: list[str] = []
    package = catkin.parse_package(repository / "package.xml", warnings=warnings)
    assert warnings == []
    assert package.get_build_type() == "ament_python"
    assert package.name == "yolox_trt"


def test_the_install_command_of_every_optional_module_names_a_real_extra(
    repository: Path,
) -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(repository / "setup.cfg")
    extras = set(config["options.extras_require"])
    for command in INSTALL_COMMANDS.values():
        for named in re.findall(r"yolox_trt\[([\w,]+)\]", command):
            assert set(named.split(",")) <= extras, command


def test_pre_commit_runs_the_checks_of_make_lint(repository: Path) -> None:
    config = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text())
    hooks = {hook["entry"] for source in config["repos"] for hook in source["hooks"]}
    makefile = (repository / "Makefile").read_text()
    recipe = re.search(r"^lint:.*\n((?:\t.+\n)+)", makefile, re.M)
    assert recipe
    lint = {line.strip().removesuffix(" .") for line in recipe.group(1).splitlines()}
    # A hook is given the changed files instead of the folder.
    assert {
        entry.replace(".venv/bin", "$(BIN)").replace(" --force-exclude", "") for entry in hooks
    } == lint


def test_every_source_file_names_its_licence(repository: Path) -> None:
    wanted = (
        "SPDX-FileCopyrightText: The yolox_trt authors",
        "SPDX-License-Identifier: Apache-2.0",
    )
    suffixes = {".py", ".cu", ".cuh", ".msg", ".srv", ".cmake", ".sh"}
    folders = ("yolox_trt", "test", "scripts", "launch", "interfaces", "examples")
    bare = [
        str(path.relative_to(repository))
        for folder in folders
        for path in sorted((repository / folder).rglob("*"))
        if path.suffix in suffixes
        and path.stat().st_size
        and not all(line in "".join(path.open().readlines()[:4]) for line in wanted)
    ]
    assert bare == []
