# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds of single classes: how they are written, and which class they mean."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from yolox_trt.core import ConfigurationError, PostprocessOptions
from yolox_trt.core.option import options_of, parse_pairs
from yolox_trt.core.postprocess_options import parse_class_thresholds

DECLARED = options_of(PostprocessOptions)["score_threshold"]


def spec(*names: str, count: int = 0) -> Any:
    return SimpleNamespace(class_names=names, num_classes=count or len(names))


def test_pairs_are_separated_by_the_last_colon_or_equals_sign() -> None:
    entries = ["person:0.5", "a:b:CAR", " traffic light = 0.25 ", "", "  "]
    expected = {"person": "0.5", "a:b": "CAR", "traffic light": "0.25"}
    assert parse_pairs(entries) == expected


@pytest.mark.parametrize("entry", ["car", "car:", ":0.5", " : "])
def test_half_a_pair_is_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{entry}'; expected name:value"):
        parse_pairs(["person:0.5", entry])


@pytest.mark.parametrize("text", ["1.5", "-0.1", "much", "nan"])
def test_thresholds_are_from_0_to_1(text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'car:{text}'; expected a threshold from 0 to 1"):
        parse_class_thresholds([f"car:{text}"])


def test_classes_are_found_by_name_or_number() -> None:
    thresholds = parse_class_thresholds(["traffic light:0.5", " 2 = 0.25 "])
    options = PostprocessOptions(nms_threshold=0.6, class_thresholds={0: 0.9})
    found = options.with_classes(thresholds, spec("car", "traffic light", "bus"), DECLARED)
    expected = PostprocessOptions(nms_threshold=0.6, class_thresholds={1: 0.5, 2: 0.25})
    assert found == expected


@pytest.mark.parametrize(
    ("name", "model", "known"),
    [
        ("zebra", spec("car", "traffic light", "bus"), "car, traffic light, bus"),
        ("zebra", spec(*(f"class{number}" for number in range(80))), "class9.*and 68 more"),
        ("3", spec(count=3), "0, 1, 2"),
        ("9" * 5000, spec(count=3), "0, 1, 2"),
    ],
)
def test_a_class_that_the_model_does_not_have_is_refused(name: str, model: Any, known: str) -> None:
    with pytest.raises(ConfigurationError, match=f"for class '{name[:99]}.*{known}") as error:
        PostprocessOptions().with_classes({name: 0.5}, model, DECLARED)
    assert error.value.text(lambda option: "--class-score").startswith("--class-score for class")
