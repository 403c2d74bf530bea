# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Masks of a camera node, from the image topic to the topics of the masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from sensor_msgs.msg import Image
from support.ros import Client, RosProcess, image_message
from support.yolox_graphs import build_yolox

from yolox_trt.core import Frame, PostprocessOptions
from yolox_trt.core.device import Device
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]
PICTURE = np.kron(
    np.random.default_rng(2).integers(0, 256, (15, 20, 3)), np.ones((8, 8, 1))
).astype(np.uint8)
OPTIONS = PostprocessOptions(score_threshold=0.26, masks=True)
COLORS = "id,name,r,g,b\n0,road,1,2,3\n1,sky,4,5,6\n2,car,7,8,9\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "masks.onnx"
    options = {"num_classes": 3, "metadata": True, "mask_classes": 3}
    onnx.save(build_yolox(segmentation="argmax", **options), path)
    return path


def decoded(message: Image) -> np.ndarray:
    runs = np.frombuffer(message.data, np.dtype([("value", "u1"), ("length", "<i4")]))
    flat = np.repeat(runs["value"], runs["length"])
    return flat.reshape(message.height, message.width)


def test_masks_are_made_while_somebody_listens(
    start_cameras: Start, client: Client, model: Path, tmp_path: Path
) -> None:
    colors, remap = tmp_path / "colors.csv", tmp_path / "remap.csv"
    colors.write_text(COLORS)
    remap.write_text("name,id\nclass0,2\nclass1,-1\nclass2,1\n")
    process = start_cameras(
        {
            "/**": {"score_threshold": 0.26, "qos_reliability": "reliable"},
            "multi_camera": {"cameras": ["front"], "model": str(model)},
            # Autoware's names, and its topics.
            "front": {
                "mask_topic": "/perception/mask0",
                "semantic_segmentation_color_map_path": str(colors),
                "roi_to_semantic_segmentation_remap_path": str(remap),
                "overlap_roi_score_threshold": 0.27,
            },
        }
    )
    # Listening to masks alone makes the camera run.
    masks = client.collect(Image, "/perception/mask0")
    publisher = client.publisher(Image, "/front/image_raw")
    client.spin_until(lambda: publisher.get_subscription_count() == 1)
    image = image_message(PICTURE, stamp_ns=5)
    client.publish_until(publisher, image, lambda: masks, what="a mask")
    options = DetectorOptions(model=model, device=Device("cpu"), threads=1)
    (found,) = create_detector(options).detect([Frame.from_array(PICTURE)], [OPTIONS])
    assert found.mask is not None
    expected, painted = found.mask.decode(), 0
    for (x1, y1, x2, y2), class_id, score in zip(
        found.boxes.tolist(), found.class_ids.tolist(), found.scores.tolist(), strict=True
    ):
        value = (2, -1, 1)[class_id]
        if value >= 0 and score >= 0.27:
            x, y = int(x1), int(y1)
            expected[y : y + int(y2 - y1), x : x + int(x2 - x1)] = value
            painted += 1
    assert painted > 0
    message = masks[0]
    assert (message.encoding, message.header.stamp.nanosec) == ("mono8", 5)
    assert message.header.frame_id == image.header.frame_id
    np.testing.assert_array_equal(decoded(message), expected)
    assert len(np.unique(expected)) > 1

    pictures = client.collect(Image, "/front/color_mask")
    client.publish_until(publisher, image, lambda: pictures, what="a mask in colours")
    shown = np.frombuffer(pictures[0].data, np.uint8).reshape(120, 160, 3)
    table = np.array([[3, 2, 1], [6, 5, 4], [9, 8, 7]])
    np.testing.assert_array_equal(shown, table[expected])
    assert process.stop()[0] == 0
