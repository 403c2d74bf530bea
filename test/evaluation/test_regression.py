# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What differs from an expectation is named, once, and within the tolerances nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from yolox_trt.core import ConfigurationError
from yolox_trt.evaluation.options import ToleranceOptions
from yolox_trt.evaluation.regression import (
    Found,
    compare,
    junit_suite,
    read_expectation,
    write_expectation,
    write_junit,
)

CAR: Found = ("car", 0.9, 10.0, 20.0, 110.0, 120.0)
MAN: Found = ("person", 0.4, 200.0, 20.0, 220.0, 80.0)


def changed(detection: Found, **changes: Any) -> Found:
    name, score, x1, y1, x2, y2 = detection
    shift = changes.get("shift", 0.0)
    return (
        changes.get("name", name),
        changes.get("score", score),
        *(x1 + shift, y1, x2 + shift, y2),
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([MAN, CAR], []),
        ([changed(CAR, shift=2.0, score=0.86), MAN], []),
        ([changed(CAR, shift=20.0), MAN], [("box", "car 0.90 at [10, 20, 110, 120] has moved")]),
        ([changed(CAR, score=0.8), MAN], [("score", "has the score 0.80 now")]),
        ([changed(CAR, name="bus"), MAN], [("class", "is a bus 0.90 now")]),
        ([CAR], [("lost", "lost person 0.40")]),
        ([CAR, MAN, changed(MAN, shift=300.0)], [("found", "new: person 0.40 at [500,")]),
        ([changed(CAR, shift=60.0), MAN], [("lost", "lost car"), ("found", "new: car")]),
        # Two boxes of one place: each finds the one of its class.
        ([changed(CAR, name="bus"), CAR, MAN], [("found", "new: bus")]),
        ([CAR, CAR, MAN], [("found", "new: car")]),
    ],
)
def test_changes_of_an_image(found: list[Found], expected: list[tuple[str, str]]) -> None:
    changes = compare({"front": {5: [CAR, MAN]}}, {"front": {5: found}}, ToleranceOptions())
    assert [change.kind for change in changes] == [kind for kind, _ in expected]
    for change, (_, text) in zip(changes, expected, strict=True):
        assert text in change.text
        assert (change.camera, change.stamp_ns) == ("front", 5)


def test_low_scores_may_come_and_go() -> None:
    tolerances = ToleranceOptions(min_score=0.5)
    assert compare({"a": {1: [CAR, MAN]}}, {"a": {1: [CAR]}}, tolerances) == []
    assert len(compare({"a": {1: [CAR, MAN]}}, {"a": {1: [MAN]}}, tolerances)) == 1


def test_images_without_a_result_and_new_ones() -> None:
    changes = compare(
        {"a": {1: [], 2: []}}, {"a": {2: [], 3: []}, "b": {1: [CAR]}}, ToleranceOptions()
    )
    assert [(c.camera, c.stamp_ns, c.kind) for c in changes] == [
        ("a", 1, "missing"),
        ("a", 3, "new"),
        ("b", 1, "new"),
    ]


def test_an_expectation_is_read_as_it_was_written(tmp_path: Path) -> None:
    results = {"rear": {10**18 + 1: [CAR, MAN], 7: []}, "front": {}}
    path = tmp_path / "drive.json"
    write_expectation(path, results, {})
    assert read_expectation(path) == results
    assert path.read_text().count("stamp_ns") == len(
        [line for line in path.read_text().splitlines() if "stamp_ns" in line]
    )
    for text in ("[]", "{", '{"cameras": {"a": [{"stamp_ns": 1, "detections": [["car", 1]]}]}}'):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=r"drive\.json' that cannot be read"):
            read_expectation(path)


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "drive.json"
    for stamp, edge in (("1", "9" * 400), ("1", '"nan"'), ("1", '"1e999"'), ("1e300", "1")):
        box = f'["car", 0.5, 0, 0, 1, {edge}]'
        image = f'{{"stamp_ns": {stamp}, "detections": [{box}]}}'
        path.write_text(f'{{"cameras": {{"front": [{image}]}}}}')
        with pytest.raises(ConfigurationError, match="a JSON file that --update has written"):
            read_expectation(path)


def test_junit_has_a_case_for_each_camera(tmp_path: Path) -> None:
    found: dict[str, dict[int, list[Found]]] = {"front": {1: [CAR]}, "rear": {1: []}}
    changes = compare({"front": {1: [CAR]}, "rear": {1: [MAN]}}, found, ToleranceOptions())
    write_junit(tmp_path / "r.xml", junit_suite(found, changes, "drive"))
    suite = ElementTree.parse(tmp_path / "r.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    front, rear = suite
    assert front.get("name") == "front"
    assert front.find("failure") is None
    failure = rear.find("failure")
    assert failure is not None
    assert failure.get("message") == "1 changes"
    assert "rear at 0.000: lost person 0.40" in (failure.text or "")


def test_junit_is_xml_whatever_the_names_are(tmp_path: Path) -> None:
    expected = {"front\0": {1: [("car\x1b", *CAR[1:])]}}
    changes = compare(expected, {}, ToleranceOptions())
    suites = junit_suite(expected, changes, "a"), junit_suite({}, (), "b", error="no \x07")
    write_junit(tmp_path / "r.xml", *suites)
    case, failed = ElementTree.parse(tmp_path / "r.xml").getroot()
    assert case[0].get("name") == r"front\x00"
    assert failed[0][0].get("message") == r"no \x07"
