# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Commands in documents, helps and errors have the options they name; those of pages work."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import cv2
import onnx
import pytest
from support.bags import write_bag
from support.yolox_graphs import build_yolox

from yolox_trt.cli import main as cli
from yolox_trt.cli.command import arguments_of
from yolox_trt.cli.commands import COMMANDS
from yolox_trt.core.labels import load_class_names
from yolox_trt.ros.nodes.autoware_parameters import DEPRECATED_ALIASES
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS, EXECUTOR_OPTIONS
from yolox_trt.ros.tools.launch_arguments import (
    argument_values,
    default_values,
    process_settings,
    read_config,
)

GENERAL = {"--help", "--json", "--verbose", "-v", "-vv", "--traceback", "-h"}
NAMES = sorted((command.name for command in COMMANDS), key=len, reverse=True)
#: A command with what follows it, up to the end of the span of code, the text or the line.
COMMAND = re.compile(rf"yolox_trt ({'|'.join(NAMES)})\b([^`\"\n|;#,)]*)")
FLAGS = {
    command.name: GENERAL.union(*(argument.flags for argument in arguments_of(command)))
    for command in COMMANDS
}


def sources(repository: Path) -> list[Path]:
    folders = [(repository, "*.md"), (repository / "docs", "**/*.md")]
    folders += [(repository / "examples", "**/*.md"), (repository / "yolox_trt", "**/*.py")]
    return [path for folder, pattern in folders for path in sorted(folder.glob(pattern))]


def test_every_command_that_is_written_down_has_its_options(repository: Path) -> None:
    wrong, seen = [], set()
    for path in sources(repository):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for name, rest in COMMAND.findall(text):
            seen.add(name)
            for flag in re.findall(r"(?<!\S)-{1,2}[a-z][\w-]*", rest):
                if flag not in FLAGS[name]:
                    wrong.append(f"{path.relative_to(repository)}: {name} {flag}")
    assert not wrong, "\n".join(wrong)
    assert len(seen) > 15


#: Examples whose commands are run by `make test-slow` alone (test/packaging/test_examples.py).
RUN_SELDOM = ("03_four_cameras", "04_quantize", "05_dla_surgery", "06_plan")
#: Programs that stand for themselves in code blocks, and what running them takes.
PROGRAMS = {
    "ros2": "a ROS distribution",
    "colcon": "a ROS distribution; test_installation.py runs colcon",
    "rosdep": "a ROS distribution",
    "apt": "changes the machine",
    "pip": "changes the machine; test_installation.py installs the package",
    "git": "the network",
    "cd": "the user's folders",
    "export": "the user's shell",
    ".": "the user's shell",
    "docker": "docker; test_docker.py lints the files",
    "python": "another repository, Megvii's",
    "make": "test/packaging runs what the targets run",
}
#: Begin of a command's words -> why the command is parsed here and not run.
NOT_RUN = {
    "up": "goes on until Ctrl-C: test/ros/tools/test_up.py",
    "publish": "a camera: test/ros/tools/test_sources.py",
    "replay": "goes on with ROS: test/ros/tools/test_sources.py",
    "regress": "goes on with ROS: test/ros/tools/test_regress.py",
    "dashboard": "goes on until Ctrl-C: test/ros/dashboard",
    "doctor": "looks at this machine: test/doctor",
    "build": "TensorRT on a GPU, or a DLA: test/cli/test_build_command.py",
    "plan": "examples/06_plan",
    "train": "PyTorch, and a data set: test/cli/test_training_commands.py",
    "distill": "PyTorch, and a teacher: test/cli/test_training_commands.py",
    "qat": "PyTorch, and a data set: test/training",
    "export": "PyTorch, and weights: test/cli/test_training_commands.py",
    "batch detect": "a folder of drives, and Ray: test/batch",
    "bench workers": "a GPU, and a model of random weights: test_bench_commands.py",
    "batch query": "what batch detect wrote: test/batch",
    "compare": "lasts: test/evaluation/test_compare.py",
    "translate run/qat.onnx": "what qat wrote: test/training",
    "translate qat.onnx": "what qat wrote: test/training",
    "detect images --model model.engine": "a DLA: test/engines/cudla",
    "models fetch": "the network: test/cli/test_model_commands.py",
    "evaluate MODEL --bdd100k": "BDD100K's labels: test/evaluation/test_dataset.py",
    "evaluate MODEL --segmentation": "a segmentation head: test/cli/test_model_commands.py",
    "detect FOLDER --model MODEL --masks": "a segmentation head: test_detect_command.py",
    "detect rtsp:": "a camera: test_detect_command.py",
    "detect a.jpg https:": "the network: test_detect_command.py",
}


def pages(repository: Path) -> list[Path]:
    return [
        repository / "README.md",
        repository / "docker" / "README.md",
        *sorted((repository / "docs").rglob("*.md")),
    ]


def code_blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page: fenced ones of a language, and indented ones."""
    text = page.read_text(encoding="utf-8")
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    indented = re.findall(r"^(?: {4}.*\n)+", outside, re.M)
    fenced = re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    return [*fenced, *map(textwrap.dedent, indented)]


def written_commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command in the code blocks of a page."""
    fenced = re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    for block in code_blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            first = line.partition(" ")[0]
            if block not in fenced and first not in ("yolox_trt", *PROGRAMS):
                continue  # an indented block may hold anything else
            for command in re.sub(r'^eval "\$\((.*)\)"', r"\1", line).split("&&"):
                if words := shlex.split(command, comments=True):
                    yield words[1:] if words[0] == "sudo" else words


def of_yolox_trt(words: list[str]) -> list[str] | None:
    """Return the arguments of `yolox_trt`, None for another program."""
    return words[1:] if Path(words[0]).name == "yolox_trt" else None


def test_every_command_of_the_pages_is_one(repository: Path) -> None:
    """It can be parsed, its launch file is there, or it is a known program's."""
    parser, wrong, seen = cli.make_parser(), [], 0
    targets = re.findall(r"^([\w-]+):", (repository / "Makefile").read_text(), re.M)
    examples = [repository / "examples" / name / "README.md" for name in RUN_SELDOM]
    for page in [*pages(repository), *examples]:
        for words in written_commands(page):
            seen += 1
            place = f"{page.relative_to(repository)}: {shlex.join(words)}"
            try:
                if (arguments := of_yolox_trt(words)) is not None:
                    cli.parse(parser, arguments)
                    if arguments[0] == "up":
                        check_arguments([word for word in arguments if ":=" in word])
                elif words[:3] == ["ros2", "launch", "yolox_trt"]:
                    assert [*(repository / "launch").rglob(words[3])], (
                        "ros2 launch looks in all folders"
                    )
                    if words[3] == "multi_camera.launch.py":
                        check_arguments(words[4:])
                elif words[0] == "make":
                    assert words[1] in targets
                else:
                    assert words[0] in PROGRAMS
            except (Exception, SystemExit) as error:
                wrong.append(f"{place}: {error}")
    assert not wrong, "\n".join(wrong)
    assert seen > 100


def check_arguments(arguments: list[str]) -> None:
    """Read the arguments of the launch file; files that they name need not be there."""
    values = argument_values([word for word in arguments if not word.startswith("config:=")])
    assert process_settings({**default_values(), **values}, strict=True).warnings == ()


def test_every_parameter_file_of_the_pages_is_one(repository: Path, tmp_path: Path) -> None:
    seen = 0
    for page in pages(repository):
        for block in code_blocks(page, "yaml"):
            if "ros__parameters" in block:
                seen += 1
                path = tmp_path / "parameters.yaml"
                path.write_text(block)
                _, sections = read_config(str(path))
                for name, section in sections.items():
                    given = section["ros__parameters"]
                    known = EXECUTOR_OPTIONS if "multi_camera" in name else CAMERA_OPTIONS
                    if name == "/**":
                        known = EXECUTOR_OPTIONS | CAMERA_OPTIONS
                    for parameter, value in given.items():
                        parameter = DEPRECATED_ALIASES.get(parameter, (parameter,))[0]
                        assert parameter in known, f"{page.name}: {parameter}"
                        known[parameter].plain(value)
    assert seen >= 5


@pytest.fixture
def scratch(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the pages' commands read, under their names."""
    data = pytest.importorskip("skimage.data", reason="scikit-image carries the photographs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLOX_TRT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "models").symlink_to(repository / "models")
    model = build_yolox(
        depth=0, width=0.125, activation="relu6", stem="conv", spp="chained", head="raw_levels"
    )
    for name in ("MODEL", "model.onnx", "my.onnx"):
        onnx.save(model, name)  # a copy each: some commands write over what they read
    names = load_class_names(next((repository / "models").glob("*.txt")))
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in names))
    picture = cv2.cvtColor(data.coffee(), cv2.COLOR_RGB2BGR)
    for path in ("photo.jpg", "street.jpg", "FOLDER/a.jpg", "DIR/images/a.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(path, picture)
    box = {"id": 1, "image_id": 1, "category_id": 47, "bbox": [167, 15, 246, 278]}
    labels = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 400, "width": 600}],
        "annotations": [{**box, "area": 246 * 278, "iscrowd": 0}],
        "categories": [{"id": 47, "name": "cup"}],
    }
    (tmp_path / "DIR" / "instances_val.json").write_text(json.dumps(labels))
    video = cv2.VideoWriter("drive.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (600, 400))
    for _ in range(2):
        video.write(picture)
    video.release()
    write_bag(tmp_path / "BAG", count=1)
    return tmp_path


@pytest.mark.timeout(180)
def test_the_commands_of_the_pages_work(
    repository: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is run once, in the order of the pages: what one writes, another reads."""
    run: set[str] = set()
    left: set[str] = set()
    for page in pages(repository):
        for words in written_commands(page):
            if (arguments := of_yolox_trt(words)) is None:
                continue
            line = shlex.join(arguments)
            if reason := [begin for begin in NOT_RUN if f"{line} ".startswith(begin)]:
                left.update(reason)
            elif line not in run:
                run.add(line)
                status = cli.main(arguments)
                assert status == 0, f"{page.name}: {line}\n{capsys.readouterr().err}"
    assert len(run) > 25
    assert left == set(NOT_RUN), "a reason that no page needs"
    assert {"my_dla.onnx", "dla.cache", "int8.onnx", "out"} <= {p.name for p in scratch.iterdir()}
