# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt doctor` beside a camera that publishes, and beside one that does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from support.ros import Client, RosProcess, image_message

from yolox_trt.core.check import Status
from yolox_trt.ros.tools import doctor

Start = Callable[..., RosProcess]


@pytest.mark.parametrize("distribution", ["", "jazzy"])
def test_what_is_missing_is_told_with_its_use_and_a_command_that_works(
    domain: int, monkeypatch: pytest.MonkeyPatch, distribution: str
) -> None:
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    if distribution:
        monkeypatch.setenv("ROS_DISTRO", distribution)
    monkeypatch.setattr(doctor, "is_installed", lambda package: False)
    checks = {check.name: check for check in doctor.middleware()}
    assert checks["vision_msgs"].status is Status.FAIL
    bridge = checks["cv_bridge"]
    assert bridge.status is checks["tier4_perception_msgs"].status is Status.NOTE
    assert bridge.found.startswith("not installed: for images in encodings")
    # apt has it for a distribution; beside the wheels from PyPI there is none.
    assert bool(bridge.fix) is bool(distribution)


def test_cameras_are_described(start: Start, client: Client, tmp_path: Path) -> None:
    publisher = client.publisher(Image, "/front/image_raw")
    client.publisher(CompressedImage, "/rear/compressed")
    image = image_message(np.zeros((48, 64, 3), np.uint8))
    document = tmp_path / "checks.json"
    words = ["doctor", "--seconds", "2", "--json", str(document)]
    process = start(["-m", "yolox_trt.cli", *words])

    def publish() -> bool:
        image.header.stamp = client.node.get_clock().now().to_msg()
        publisher.publish(image)
        client.spin_for(0.1)
        return process.process.poll() is not None

    client.spin_until(publish, timeout=60.0, what="the doctor's end")
    checks = {check["name"]: check for check in json.loads(document.read_text())}
    assert "/front/image_raw" in checks, checks
    front = checks["/front/image_raw"]
    assert front["status"] == "pass", front
    assert "reliable, bgr8 64x48" in front["found"]
    assert checks["/rear/compressed"]["status"] == "note"
    assert "no image in 2 s" in checks["/rear/compressed"]["found"]
    assert checks["vision_msgs"]["status"] == "pass"
