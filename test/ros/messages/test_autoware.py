# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Labels of ~/objects."""

from __future__ import annotations

import pytest

from yolox_trt.core import ConfigurationError
from yolox_trt.ros.messages.autoware import AUTOWARE_LABELS, label_table


def test_autoware_labels() -> None:
    names = ("person", "car", "zebra", "pizza", "Truck")
    table = label_table(names, {"pizza": "hazard"})
    assert [next(k for k, v in AUTOWARE_LABELS.items() if v == label) for label in table] == [
        "PEDESTRIAN",
        "CAR",
        "ANIMAL",
        "HAZARD",
        "TRUCK",
    ]


def test_autoware_labels_are_those_of_the_message() -> None:
    messages = pytest.importorskip("autoware_perception_msgs.msg")
    for name, label in AUTOWARE_LABELS.items():
        assert getattr(messages.ObjectClassification, name) == label


@pytest.mark.parametrize("remap", [{"zebra": "CAR"}, {"person": "ZEBRA"}])
def test_classes_and_labels_that_do_not_exist_are_refused(remap: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"zebra|ZEBRA.*PEDESTRIAN"):
        label_table(("person",), remap)
