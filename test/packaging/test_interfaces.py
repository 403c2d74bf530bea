# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The message packages: what other nodes see of them is what the public definitions give."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rclpy.node import Node

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: run `make venv`")

#: Type hash (REP-2011) of the vision_msgs 4 release, as `ros2 topic info -v` prints it.
DETECTION_2D_ARRAY = "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"

PACKAGES = (
    "vision_msgs",
    "composition_interfaces",
    "autoware_internal_debug_msgs",
    "autoware_perception_msgs",
    "tier4_perception_msgs",
    "foxglove_msgs",
    "ffmpeg_image_transport_msgs",
)
OPTIONAL = PACKAGES[2:]


@pytest.fixture
def node() -> Iterator[Node]:
    """A node with a context of its own."""
    context = rclpy.Context()
    rclpy.init(context=context)
    made = rclpy.create_node("interfaces_test", context=context)
    yield made
    made.destroy_node()
    rclpy.shutdown(context=context)


def built_hash(package: str, message: str) -> str:
    """Read the hash that the generator wrote when the package was built."""
    index = pytest.importorskip("ament_index_python")
    share = Path(index.get_package_share_directory(package))
    description = json.loads((share / "msg" / f"{message}.json").read_text())
    hashes = {entry["type_name"]: entry["hash_string"] for entry in description["type_hashes"]}
    return str(hashes[f"{package}/msg/{message}"])


def test_detection_2d_array_was_built_with_the_released_type_hash() -> None:
    assert built_hash("vision_msgs", "Detection2DArray") == DETECTION_2D_ARRAY


@pytest.mark.ros
def test_detection_2d_array_is_announced_with_the_released_type_hash(node: Node) -> None:
    """What Fast DDS tells the other side, from the compiled type support."""
    if not hasattr(rclpy, "type_hash"):
        pytest.skip("this ROS distribution announces no type hashes (before Jazzy)")
    message = importlib.import_module("vision_msgs.msg").Detection2DArray
    publisher = node.create_publisher(message, "~/detections", 1)
    end = time.monotonic() + 10.0
    while not (found := node.get_publishers_info_by_topic(publisher.topic_name)):
        assert time.monotonic() < end, "the publisher was not announced in 10 s"
        time.sleep(0.05)
    assert str(found[0].topic_type_hash) == DETECTION_2D_ARRAY


def defined_types(package: str, repository: Path) -> dict[Path, Any]:
    """Import each message and service that a package of interfaces/ defines: its file -> its type.

    Skips the test where the package is one of Autoware's and is not installed.
    """
    folder = repository / "interfaces" / package
    defined = sorted(path for kind in ("msg", "srv") for path in folder.glob(f"{kind}/*.{kind}"))
    assert defined
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        if package not in OPTIONAL:
            raise
        pytest.skip(f"{package} is not installed: run `make venv AUTOWARE=1`")
    return {
        path.relative_to(folder): getattr(
            importlib.import_module(f"{package}.{path.parent.name}"), path.stem
        )
        for path in defined
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_every_defined_type_can_be_made(package: str, repository: Path) -> None:
    listed = (repository / "interfaces" / package / "CMakeLists.txt").read_text()
    for path, defined in defined_types(package, repository).items():
        assert f'"{path}"' in listed
        (defined.Request if path.suffix == ".srv" else defined)()


@pytest.mark.ros
@pytest.mark.parametrize("package", PACKAGES)
def test_the_middleware_takes_every_type_without_a_word(
    package: str, repository: Path, node: Node, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where a type support is missing, ROS 2's C libraries write to stderr."""
    for path, defined in defined_types(package, repository).items():
        name = f"~/{path.stem.lower()}"
        if path.suffix == ".srv":
            node.create_service(defined, name, lambda request, response: response)
        else:
            node.create_publisher(defined, name, 1)
    assert capfd.readouterr().err == ""


@pytest.mark.ros
def test_objects_with_features_survive_serialization() -> None:
    messages = pytest.importorskip(
        "tier4_perception_msgs.msg", reason="not built: run `make venv AUTOWARE=1`"
    )
    serialization = importlib.import_module("rclpy.serialization")
    objects = messages.DetectedObjectsWithFeature()
    one = messages.DetectedObjectWithFeature()
    one.object.existence_probability = 0.75
    one.feature.roi.x_offset, one.feature.roi.width = 12, 34
    objects.feature_objects.append(one)
    data = serialization.serialize_message(objects)
    assert serialization.deserialize_message(data, messages.DetectedObjectsWithFeature) == objects


def test_colcon_keeps_out_of_interfaces(repository: Path) -> None:
    """A ROS distribution's own packages must win in a workspace."""
    assert (repository / "interfaces" / "COLCON_IGNORE").is_file()
