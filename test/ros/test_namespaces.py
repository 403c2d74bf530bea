# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Parameter files and the namespace of the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from rcl_interfaces.srv import GetParameters
from support.ros import REPOSITORY, Client, RosProcess, write_parameters

from yolox_trt.ros.tools.launch_arguments import read_parameter_file, unreached_sections

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]
SECTION = {"ros__parameters": {"priority": 1}}


@pytest.mark.parametrize("namespace", ["", "car", "/car/", "a/b"])
def test_the_shipped_file_reaches_every_namespace(namespace: str) -> None:
    shipped = read_parameter_file(REPOSITORY / "config" / "multi_camera.yaml")
    assert unreached_sections(shipped, namespace) == []


@pytest.mark.parametrize(
    ("name", "reached", "unreached"),
    [
        ("front", [""], ["car", "a/b"]),
        ("/front", [""], ["car"]),
        ("/car/front", ["car", "/car"], ["", "a/b"]),
        ("/*/front", ["car"], ["", "a/b"]),
        ("/**/front", ["", "car", "a/b"], []),
        ("/a/**/front", ["a", "a/b"], ["", "car"]),
        ("/**", ["", "car"], []),
    ],
)
def test_sections_that_no_node_finds_are_named(
    name: str, reached: list[str], unreached: list[str]
) -> None:
    for namespace in reached:
        assert unreached_sections({name: SECTION}, namespace) == []
    for namespace in unreached:
        (line,) = unreached_sections({name: SECTION}, namespace)
        prefix = f"/{namespace}" if namespace else ""
        assert f"expected {prefix}/front, or /**/front" in line


def test_a_section_within_a_namespace_is_found() -> None:
    sections = {"car": {"front": SECTION}}
    assert unreached_sections(sections, "car") == []
    assert "'/car/front'" in unreached_sections(sections, "")[0]


def test_the_shipped_file_in_a_namespace(start: Start, client: Client, small_model: Path) -> None:
    process = start(["-m", "yolox_trt.cli", "up", "--namespace", "car", f"model:={small_model}"])
    process.wait_for("active: front, rear, left, right")
    request = GetParameters.Request(names=["priority", "score_threshold", "nms_threshold"])
    values = client.call(GetParameters, "/car/front/get_parameters", request).values
    # The camera's own section goes before the one of all nodes.
    assert values[0].integer_value == 10
    assert [value.double_value for value in values[1:]] == [0.25, 0.45]
    assert "reaches no node" not in process.output


def test_up_names_sections_that_a_namespace_leaves_out(
    start: Start, client: Client, small_model: Path, tmp_path: Path
) -> None:
    path = write_parameters(tmp_path / "cameras.yaml", {"multi_camera": {"cameras": ["front"]}})
    given = ["--namespace", "car", "--config", str(path), f"model:={small_model}"]
    process = start(["-m", "yolox_trt.cli", "up", *given])
    process.wait_for("section '/multi_camera' of the parameter file reaches no node")
    assert "fix: the section's name" in process.output
