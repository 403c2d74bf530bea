# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of masks, field by field, read as Autoware reads them, and their CSV files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sensor_msgs")

from std_msgs.msg import Header

from yolox_trt.core import ConfigurationError, Detections, Frame, HeadLayout, ModelSpec
from yolox_trt.core.mask import NO_CLASS, Mask
from yolox_trt.core.model_spec import SegmentationHead
from yolox_trt.core.option import options_of
from yolox_trt.kernels.draw import class_color
from yolox_trt.ros.messages.masks import MaskMessages, color_table
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS, CameraParameters

HEAD = SegmentationHead("mask", 3, 4, 16, 24)
SPEC = ModelSpec(
    *("images", 64, 96, None, 3, HeadLayout.UNDECODED, ("output",), ()),
    class_names=("CAR", "PEDESTRIAN", "DEBRIS"),
    segmentation=HEAD,
)
COLORS = """id,name,r,g,b
0, road, 1, 2, 3

2, car, 255, 0, 9 # a comment
1,sky,0,0,255
"""
REMAP = "name,id\nCAR,2\nPEDESTRIAN,1\nDEBRIS,-1\n"


def parameters(**changes: Any) -> CameraParameters:
    assert changes.keys() <= options_of(CameraParameters).keys()
    plain = {name: option.default for name, option in CAMERA_OPTIONS.items()} | changes
    return CameraParameters.of("front", plain)


def classes() -> np.ndarray:
    found = np.zeros((6, 10), np.uint8)
    found[2:, 4:] = 1
    found[5, 9] = NO_CLASS
    return found


def detections(*boxes: tuple[int, float, list[float]]) -> Detections:
    ids, scores, edges = zip(*boxes, strict=True)
    return Detections(
        np.array(edges, np.float32),
        np.array(scores, np.float32),
        np.array(ids, np.int32),
        mask=Mask.encode(classes()),
    )


def decode_as_autoware(data: bytes, rows: int, columns: int) -> np.ndarray:
    """What perception_utils' decoder does: (uint8, int) again and again, row after row."""
    flat = []
    for value, length in struct.iter_unpack("<Bi", data):
        flat += [value] * length
    assert len(flat) == rows * columns
    return np.array(flat, np.uint8).reshape(rows, columns)


def test_the_mask_is_what_autoware_decodes() -> None:
    header = Header(frame_id="lens")
    header.stamp.sec, header.stamp.nanosec = 7, 8
    pixels = np.zeros((6, 10, 3), np.uint8)
    frame = Frame.from_array(pixels, frame_id="lens", stamp_ns=7 * 10**9 + 8)
    messages = MaskMessages(SPEC, parameters())
    for turned in (classes(), classes()[::-1], np.zeros((3, 2), np.uint8)):
        message = messages.build(frame, Mask.encode(turned))
        rows, columns = turned.shape
        assert (message.height, message.width, message.step) == (rows, columns, columns)
        assert (message.encoding, message.is_bigendian) == ("mono8", 0)
        assert message.header == header
        found = decode_as_autoware(bytes(message.data), rows, columns)
        np.testing.assert_array_equal(found, turned)
    color = messages.build_color(frame, Mask.encode(classes()))
    assert (color.height, color.width, color.step, color.encoding) == (6, 10, 30, "bgr8")
    pixels = np.frombuffer(color.data, np.uint8).reshape(6, 10, 3)
    assert tuple(pixels[0, 0]) == class_color(0) and tuple(pixels[3, 5]) == class_color(1)
    assert not pixels[5, 9].any()  # no class


def test_boxes_are_painted_over_the_mask(tmp_path: Path) -> None:
    remap = tmp_path / "remap.csv"
    remap.write_text(REMAP)
    given = {"mask_remap_path": str(remap), "mask_overlap_score": 0.5}
    found = detections(
        (0, 0.9, [1.7, 0.2, 5.6, 3.9]),  # 1..4 x 0..2: edges are cut off
        (1, 0.6, [3.0, 1.0, 8.0, 4.0]),  # later, so over the first
        (0, 0.4, [0.0, 0.0, 10.0, 6.0]),  # below the score
        (2, 0.9, [0.0, 0.0, 10.0, 6.0]),  # -1
    )
    expected = classes()
    expected[0:3, 1:4] = 2
    expected[1:4, 3:8] = 1
    mask = MaskMessages(SPEC, parameters(**given)).overlapped(found)
    np.testing.assert_array_equal(mask.decode(), expected)
    # Classes that are not published are not painted either, as in Autoware.
    mask = MaskMessages(SPEC, parameters(**given), dropped=[0, 1]).overlapped(found)
    assert mask is found.mask
    for off in ({"mask_overlap": False}, {"mask_remap_path": ""}):
        assert MaskMessages(SPEC, parameters(**given | off)).overlapped(found) is found.mask


def test_colours_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "colors.csv"
    path.write_text(COLORS)
    table = color_table(HEAD, str(path))
    assert table[:3].tolist() == [[3, 2, 1], [255, 0, 0], [9, 0, 255]]
    assert not table[3:].any()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (COLORS.replace("2, car", "3, car"), r"with 3 colours \(of 0, 1, 3\); expected 3, one"),
        (COLORS + "3,tree,1,1,1\n", r"with 4 colours \(of 0, 1, 2, 3\); expected 3, one"),
        ("id,name,r,g,b\n0,road,1,2,3\n", r"with 1 colour \(of 0\); expected 3"),
        (COLORS + "1,more,1,1,1\n", r"line 6 of CSV file .*each class once"),
        (COLORS.replace("255, 0, 9", "256, 0, 9"), r"line 4 .*blue from 0 to 255"),
        (COLORS.replace("1, 2, 3", "1, 2"), r"line 2 of CSV file '.*colors.csv'; expected id,name"),
    ],
)
def test_colours_that_do_not_fit_the_head(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "colors.csv"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=match):
        MaskMessages(SPEC, parameters(mask_color_path=str(path)))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (REMAP.replace("CAR,2", "CAR,3"), r"line 2 of CSV file .*from 0 to 2, or -1"),
        (REMAP.replace("DEBRIS,-1\n", ""), r"no line for the model's class 'DEBRIS'"),
    ],
)
def test_a_remap_that_does_not_fit(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "remap.csv"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=match):
        MaskMessages(SPEC, parameters(mask_remap_path=str(path)))
