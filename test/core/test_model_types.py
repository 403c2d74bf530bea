# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Names of kinds of detector, and detectors that register themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolox_trt.core import ConfigurationError
from yolox_trt.core.anchors import efficientdet_anchors
from yolox_trt.core.model_types import (
    CustomDetector,
    Found,
    OutputShape,
    custom_detectors,
    parse_model_type,
    register,
)

MODULE = """
from yolox_trt.core.model_types import CustomDetector, register

@register
class Own(CustomDetector):
    name = "own"
    def num_classes(self, outputs, size):
        return 3
    def decode(self, outputs, size):
        raise NotImplementedError
"""


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what a test registers, and look for modules in its folder."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [*custom_detectors()]:
        custom_detectors().pop(name)  # type: ignore[attr-defined]
    for module in ("own_file", "broken_file", "empty_file", "needy_file"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize(
    ("text", "name"),
    [("auto", "auto"), ("yolov8", "yolov8"), ("YOLO11", "yolov8"), ("yolov7", "yolov5"),
     ("yolo26", "yolov10"), ("D-FINE", "rtdetr"), ("efficientdet", "efficientdet")],
)  # fmt: skip
def test_names(text: str, name: str) -> None:
    assert parse_model_type(text) == name


def test_a_module_registers_a_detector(tmp_path: Path) -> None:
    (tmp_path / "own_file.py").write_text(MODULE)
    assert parse_model_type("own_file") == "own"
    assert parse_model_type("own_file") == "own"  # imported already
    assert parse_model_type("own") == "own"
    assert custom_detectors()["own"].num_classes((), (64, 64)) == 3


@pytest.mark.parametrize(
    ("text", "source", "told"),
    [
        ("yolov12", None, "did you mean yolo12"),
        ("no/such", None, "model type 'no/such'; expected one of auto"),
        ("missing_file", None, "PYTHONPATH"),
        ("needy_file", "import no_such_thing", "'needy_file', which misses no_such_thing"),
        ("broken_file", "1 / 0", r"cannot be imported \(division by zero\)"),
        ("empty_file", "", "registers 0 detectors"),
    ],
)
def test_what_is_none_is_told(tmp_path: Path, text: str, source: str | None, told: str) -> None:
    if source is not None:
        (tmp_path / f"{text}.py").write_text(source)
    with pytest.raises(ConfigurationError, match=told):
        parse_model_type(text)


def test_a_known_name_cannot_be_taken() -> None:
    class Other(CustomDetector):
        name = "yolo11"

        def num_classes(
            self, outputs: tuple[OutputShape, ...], size: tuple[int, int]
        ) -> int | None:
            return None

        def decode(self, outputs: Mapping[str, Any], size: tuple[int, int]) -> Found:
            raise NotImplementedError

    with pytest.raises(ConfigurationError, match="another name than"):
        register(Other)


def test_anchors_of_efficientdet() -> None:
    anchors = efficientdet_anchors(512, 512)
    assert anchors.shape == (49104, 4)  # as EfficientDet-D0 has, arXiv 1911.09070
    np.testing.assert_allclose(anchors[0], [4, 4, 32, 32])
    np.testing.assert_allclose(anchors[1], [4, 4, 44.8, 22.4], rtol=1e-6)
    np.testing.assert_allclose(anchors[-9], [448, 448, 512, 512])
