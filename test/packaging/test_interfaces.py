# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The message packages: what other nodes see of them is what the public definitions give."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: run `make venv`")

#: Type hash (REP-2011) of the vision_msgs 4 release, as `ros2 topic info -v` prints it.
DETECTION_2D_ARRAY = "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"


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
def test_detection_2d_array_is_announced_with_the_released_type_hash() -> None:
    """What Fast DDS tells the other side, from the compiled type support."""
    message = importlib.import_module("vision_msgs.msg").Detection2DArray
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("type_hash_test", context=context)
    try:
        if not hasattr(rclpy, "type_hash"):
            pytest.skip("this ROS distribution announces no type hashes (before Jazzy)")
        publisher = node.create_publisher(message, "~/detections", 1)
        end = time.monotonic() + 10.0
        while not (found := node.get_publishers_info_by_topic(publisher.topic_name)):
            assert time.monotonic() < end, "the publisher was not announced in 10 s"
            time.sleep(0.05)
        assert str(found[0].topic_type_hash) == DETECTION_2D_ARRAY
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.mark.parametrize(
    ("package", "optional"),
    [
        ("vision_msgs", False),
        ("composition_interfaces", False),
        ("autoware_perception_msgs", True),
        ("tier4_perception_msgs", True),
    ],
)
def test_every_defined_type_can_be_made(package: str, optional: bool, repository: Path) -> None:
    folder = repository / "interfaces" / package
    defined = sorted(path for kind in ("msg", "srv") for path in folder.glob(f"{kind}/*.{kind}"))
    assert defined
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        if not optional:
            raise
        pytest.skip(f"{package} is not installed: run `make venv AUTOWARE=1`")
    listed = (folder / "CMakeLists.txt").read_text()
    for path in defined:
        assert f'"{path.relative_to(folder)}"' in listed
        made = getattr(importlib.import_module(f"{package}.{path.parent.name}"), path.stem)
        (made.Request if path.suffix == ".srv" else made)()


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
