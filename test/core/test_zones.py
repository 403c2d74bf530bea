# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Zones: which detections count."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import from_plain
from yolox_trt.core.zones import Zones, inside, parse_polygons

LEFT, MIDDLE = "0,0 50,0 50,100 0,100", "40,0 60,0 60,100 40,100"


def boxes(*centres: float) -> Detections:
    """Boxes 10 wide, from y 20 to 60, each with its number as its class."""
    rows = [(x - 5, 20, x + 5, 60) for x in centres]
    scores = np.linspace(0.9, 0.5, len(rows), dtype=np.float32)
    return Detections(np.array(rows, np.float32), scores, np.arange(len(rows), dtype=np.int32))


def kept(detections: Detections, **zones: object) -> list[int]:
    return from_plain(Zones, zones).select(detections).class_ids.tolist()


def test_include_and_exclude() -> None:
    some = boxes(20, 45, 55, 80)
    assert kept(some) == [0, 1, 2, 3]
    assert kept(some, include_zones=[LEFT]) == [0, 1]
    assert kept(some, exclude_zones=[MIDDLE]) == [0, 3]
    assert kept(some, include_zones=[LEFT, "70,0 90,0 90,100 70,100"]) == [0, 1, 3]
    assert kept(some, include_zones=[LEFT], exclude_zones=[MIDDLE]) == [0]
    assert kept(Detections.empty(), include_zones=[LEFT]) == []


def test_the_point_of_a_box_that_must_be_inside() -> None:
    upper = ["0,0 100,0 100,50 0,50"]
    assert kept(boxes(20), include_zones=upper) == []
    assert kept(boxes(20), include_zones=upper, zone_anchor="centre") == [0]


@pytest.mark.parametrize("last", [1279, 1280])
def test_a_box_that_the_lower_edge_of_the_image_cuts_counts(last: int) -> None:
    cut = Detections(
        np.array([[0, 900, 40, 1280]], np.float32),
        np.array([0.9], np.float32),
        np.zeros(1, np.int32),
    )
    zone = [f"0,700 1920,700 1920,{last} 0,{last}"]
    assert kept(cut, include_zones=zone) == [0]
    assert kept(cut, exclude_zones=zone) == []


def test_edges_and_corners_are_inside() -> None:
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], np.float32)
    points = np.array([[0, 0], [10, 10], [5, 0], [10, 5], [5, 10], [0, 5], [11, 0], [5, -1]])
    assert inside(points.T.astype(np.float32), square).tolist() == [True] * 6 + [False] * 2


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=3, max_size=8),
    st.lists(st.tuples(st.floats(0, 40), st.floats(0, 40)), min_size=1, max_size=20),
)
def test_as_opencv_fills_polygons(corners: list, points: list) -> None:
    """Away from the edges a point is inside where fillPoly paints, ten times as large."""
    polygon, where = np.array(corners, np.float32), np.array(points, np.float32).T
    canvas, edge = np.zeros((2, 420, 420), np.uint8)
    scaled = (polygon * 10).astype(np.int32)
    cv2.fillPoly(canvas, [scaled], 1)
    cv2.polylines(edge, [scaled], True, 1, 3)
    x, y = np.rint(where * 10).astype(int)
    clear = edge[y, x] == 0
    np.testing.assert_array_equal(inside(where, polygon)[clear], canvas[y, x][clear] == 1)


def test_a_zone_beside_the_image_is_refused() -> None:
    zones = from_plain(Zones, {"exclude_zones": ["-50,0 50,0 0,50", "700,0 900,0 900,300"]})
    zones.check_inside(480, 800)
    with pytest.raises(ConfigurationError, match=r"exclude_zones` from 700,0 .*the 640x480 image"):
        zones.check_inside(480, 640)


def test_wrong_polygons_are_refused() -> None:
    (polygon,) = parse_polygons([" 0,0  10.5,0 10,-20 "])
    assert polygon.tolist() == [[0, 0], [10.5, 0], [10, -20]]
    np.testing.assert_array_equal(parse_polygons(["0 , 0\n10.5,0 10, -20"]), [polygon])
    for text in ("", "0,0 1,1", "0,0 5,5 10,10", "0 0 5 5 9 0", "0,0 a,5 9,0", "0,0,1,1,2,5"):
        with pytest.raises(ConfigurationError, match=r"three corners .*set `include_zones`"):
            from_plain(Zones, {"include_zones": [text]})


def test_a_long_text_is_read_in_one_go() -> None:
    started = time.thread_time()
    with pytest.raises(ConfigurationError):
        parse_polygons(["1,1" + " " * 100_000 + "x"])
    assert time.thread_time() - started < 1.0


def test_more_corners_than_a_camera_needs_are_refused_before_they_are_read() -> None:
    text = " ".join(f"{k},{k * k}" for k in range(500))
    assert [len(each) for each in parse_polygons([text, text])] == [500, 500]
    began = time.thread_time()
    with pytest.raises(ConfigurationError, match=r"with 500000 corners; expected 1000 at most"):
        parse_polygons([text] * 1000)
    assert time.thread_time() - began < 0.3
