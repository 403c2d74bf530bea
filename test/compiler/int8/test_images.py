# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration images: which files a source means, and inputs that may be read again."""

import operator
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.int8_graphs import RELU6

from yolox_trt.compiler.int8.images import CalibrationInputs, image_paths
from yolox_trt.core.errors import ConfigurationError, FrameError
from yolox_trt.graph.image_input import read_image_input


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose `images` hold four pictures, grey in steps."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        pixels = np.full((12, 16, 3), 60 * number, np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), pixels)
    return tmp_path


def test_sources(folder: Path) -> None:
    expected = sorted((folder / "images").iterdir())
    assert image_paths(folder) == image_paths(folder / "images") == expected
    (folder / "list.txt").write_text("# comment\nimages/1.png\n\nimages/0.png\n")
    assert image_paths(folder / "list.txt") == [expected[1], expected[0]]
    (folder / "instances.json").write_text('{"images": [{"id": 1, "file_name": "2.png"}]}')
    assert image_paths(folder / "instances.json") == [expected[2]]
    with pytest.raises(ConfigurationError, match="cannot be read as a list"):
        image_paths(expected[0])
    (folder / "broken.txt").write_text("images/9.png\n")
    with pytest.raises(ConfigurationError, match=r"9\.png"):
        image_paths(folder / "broken.txt")
    (folder / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="without images"):
        image_paths(folder / "empty")


def test_a_limit_is_spread_evenly_and_inputs_are_read_again(folder: Path) -> None:
    spec = read_image_input(RELU6)
    inputs = CalibrationInputs(folder, spec, limit=2)
    assert operator.length_hint(inputs) == 2
    for _ in range(2):
        arrays = list(inputs)
        assert [a.shape for a in arrays] == [(1, 3, spec.input_height, spec.input_width)] * 2
        assert [a[0, 0, 0, 0] for a in arrays] == [0, 120]  # the first picture and the third


def test_a_broken_picture_is_an_error_when_it_is_reached(folder: Path) -> None:
    (folder / "images" / "1.png").write_text("no picture")
    inputs = iter(CalibrationInputs(folder, read_image_input(RELU6)))
    next(inputs)
    with pytest.raises(FrameError, match=r"1\.png"):
        next(inputs)
