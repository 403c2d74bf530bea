# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Expectation: the detections of a recorded drive, kept in a file, against those of today."""

from __future__ import annotations

import json
import math
import operator
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from yolox_trt.core.detections import iou_matrix
from yolox_trt.core.documents import read_json
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError
from yolox_trt.core.files import write_atomically
from yolox_trt.core.limits import printable
from yolox_trt.evaluation.options import ToleranceOptions

#: A detection: class name, score, x1 y1 x2 y2 in source pixels.
Found = tuple[str, float, float, float, float, float]
#: Camera -> stamp of an image in nanoseconds -> what was found in it.
Results = Mapping[str, Mapping[int, Sequence[Found]]]

#: Least IoU of two boxes that are taken for the same object.
_SAME = 0.5


@dataclass(frozen=True)
class Change:
    """A difference from the expectation.

    Attributes:
        camera: where it is.
        stamp_ns: of the image, nanoseconds.
        kind: missing or new (image), lost or found (detection), class, box, score.
        text: what it is, in words.
    """

    camera: str
    stamp_ns: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.camera} at {self.stamp_ns / 1e9:.3f}: {self.text}"


def compare(expected: Results, found: Results, tolerances: ToleranceOptions) -> list[Change]:
    """Return what differs, in the order of cameras and stamps."""
    changes = []
    for camera in sorted({*expected, *found}):
        before, now = expected.get(camera, {}), found.get(camera, {})
        for stamp in sorted({*before, *now}):
            if stamp not in now:
                texts = [("missing", "no result")]
            elif stamp not in before:
                texts = [("new", "an image that is not in the expectation")]
            else:
                texts = _compare_image(before[stamp], now[stamp], tolerances)
            changes += [Change(camera, stamp, kind, text) for kind, text in texts]
    return changes


def _compare_image(
    expected: Sequence[Found], found: Sequence[Found], tolerances: ToleranceOptions
) -> list[tuple[str, str]]:
    changes = []
    pairs = _pairs(expected, found)
    for before, now, iou in pairs:
        if before[0] != now[0]:
            changes.append(("class", f"{_text(before)} is a {now[0]} {now[1]:.2f} now"))
        elif iou < tolerances.iou:
            changes.append(("box", f"{_text(before)} has moved to {_box(now)}, IoU {iou:.3f}"))
        elif abs(before[1] - now[1]) > tolerances.score_tolerance:
            changes.append(("score", f"{_text(before)} has the score {now[1]:.2f} now"))
    for kind, word, index, every in (("lost", "lost", 0, expected), ("found", "new:", 1, found)):
        paired = [pair[index] for pair in pairs]
        for each in every:
            if each in paired:
                paired.remove(each)
            elif each[1] >= tolerances.min_score:
                changes.append((kind, f"{word} {_text(each)}"))
    return changes


def _pairs(expected: Sequence[Found], found: Sequence[Found]) -> list[tuple[Found, Found, float]]:
    """Return boxes of the same object: those of one class first, and with the largest IoU."""
    boxes, others = (
        np.array([each[2:] for each in every], np.float32).reshape(-1, 4)
        for every in (expected, found)
    )
    overlaps = iou_matrix(boxes, others)
    candidates = sorted(
        zip(*np.nonzero(overlaps >= _SAME), strict=True),
        key=lambda at: (expected[at[0]][0] == found[at[1]][0], overlaps[at]),
        reverse=True,
    )
    pairs, taken, others_taken = [], set(), set()
    for before, now in candidates:
        if before not in taken and now not in others_taken:
            taken.add(before)
            others_taken.add(now)
            pairs.append((expected[before], found[now], float(overlaps[before, now])))
    return pairs


def _text(detection: Found) -> str:
    return f"{detection[0]} {detection[1]:.2f} at {_box(detection)}"


def _box(detection: Found) -> str:
    return "[" + ", ".join(f"{edge:.0f}" for edge in detection[2:]) + "]"


def read_expectation(path: Path) -> Results:
    """Read an expectation.

    Raises:
        ConfigurationError: no file, or no expectation.
    """
    with ConfigurationError.instead_of(
        FILE_ERRORS,
        f"expectation '{path}' that cannot be read",
        expected="a JSON file that --update has written",
        fix="check the path, or write it with --update",
    ):
        cameras = read_json(path)["cameras"]
        return results_of(cameras)


def results_of(cameras: Mapping[str, Any]) -> Results:
    """Return the results that the `cameras` of an expectation's document stand for.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, OverflowError: it is another document.
    """
    return {
        str(camera): {
            operator.index(image["stamp_ns"]): [
                (str(name), _finite(score), _finite(x1), _finite(y1), _finite(x2), _finite(y2))
                for name, score, x1, y1, x2, y2 in image["detections"]
            ]
            for image in images
        }
        for camera, images in cameras.items()
    }


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r:.40}, which is no finite number")
    return number


def write_expectation(path: Path, results: Results, origin: Mapping[str, Any]) -> None:
    """Write an expectation; see expectation_text."""
    write_atomically(path, expectation_text(results, origin).encode())


def expectation_text(results: Results, origin: Mapping[str, Any]) -> str:
    """Return an expectation: an image a line, scores to 4 digits, edges to hundredths of a pixel.

    Args:
        results: what is expected.
        origin: what it was made from, for whoever reads the file.
    """
    cameras = []
    for camera, images in sorted(results.items()):
        lines = [
            json.dumps({"stamp_ns": stamp, "detections": [_rounded(each) for each in found]})
            for stamp, found in sorted(images.items())
        ]
        cameras.append(f"{json.dumps(camera)}: [\n" + ",\n".join(lines) + "\n]")
    head = json.dumps({**origin, "cameras": {}}).removesuffix("}}")
    text = f"{head}\n" + ",\n".join(cameras) + "\n}}\n"
    return text


def _rounded(detection: Found) -> list[Any]:
    name, score, *edges = detection
    return [name, round(score, 4), *(round(edge, 2) for edge in edges)]


def write_junit(path: Path, *suites: ElementTree.Element) -> None:
    """Write a JUnit report of one suite, or of several; see junit_suite."""
    root = suites[0]
    if len(suites) != 1:
        root = ElementTree.Element("testsuites")
        root.extend(suites)
    ElementTree.indent(root)
    write_atomically(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def junit_suite(
    results: Results, changes: Sequence[Change], name: str, *, error: str = ""
) -> ElementTree.Element:
    """Return a JUnit suite: a test case for each camera.

    Args:
        results: has the cameras.
        changes: of all of them.
        name: of the suite.
        error: why there are no results, if so.
    """
    by_camera: dict[str, list[Change]] = defaultdict(list)
    for change in changes:
        by_camera[change.camera].append(change)
    cameras = sorted({*results, *by_camera})
    suite = ElementTree.Element(
        "testsuite", name=name, tests=str(len(cameras)), failures=str(len(by_camera)), errors="0"
    )
    if error:
        suite.set("tests", "1")
        suite.set("errors", "1")
        case = ElementTree.SubElement(suite, "testcase", classname=name, name="bag")
        ElementTree.SubElement(case, "error", message=printable(error))
        return suite
    for camera in cameras:
        # XML has no control characters, which a name in an expectation may have.
        title = printable(camera)
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=title)
        if own := by_camera.get(camera):
            failure = ElementTree.SubElement(case, "failure", message=f"{len(own)} changes")
            failure.text = "\n".join(printable(str(each)) for each in own)
    return suite
