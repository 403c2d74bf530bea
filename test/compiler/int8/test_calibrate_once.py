# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A model is calibrated once for the same images and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from support.yolox_graphs import build_yolox

from yolox_trt.compiler.int8 import calibrate_once
from yolox_trt.compiler.int8.calibrate_once import calibrated_once
from yolox_trt.compiler.int8.calibration_cache import read_cache
from yolox_trt.compiler.int8.options import CalibrateOptions
from yolox_trt.core.errors import ConfigurationError


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """A model, and a list of two images, as Autoware's calibration_image_list_path names one."""
    model, images = tmp_path / "small.onnx", tmp_path / "images.txt"
    onnx.save(build_yolox(num_classes=3, metadata=True), model)
    rng = np.random.default_rng(0)
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 256, (48, 64, 3), np.uint8))
    images.write_text(f"{tmp_path / '0.png'}\n1.png\n")
    return model, images


def test_a_cache_is_made_once_for_the_same_input(
    paths: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = paths
    made: list[str] = []
    calibrate = calibrate_once.calibrate

    def counted(*args: Any, **kwargs: Any) -> Any:
        made.append("calibrated")
        return calibrate(*args, **kwargs)

    monkeypatch.setattr(calibrate_once, "calibrate", counted)

    def cache(options: CalibrateOptions | None = None, tensorrt: str = "10.3.0") -> Path:
        options = options or CalibrateOptions(algorithm="max")
        folder = tmp_path / "engines" / "calibration"
        return calibrated_once(model, images, options, tensorrt=tensorrt, folder=folder)

    first = cache()
    assert cache() == first
    assert len(made) == 1
    assert first.read_text().startswith("TRT-100300-EntropyCalibration2\n")
    assert len(read_cache(first)) > 10
    other = cache(CalibrateOptions(algorithm="max", dla=True))
    assert other != first
    assert cache(tensorrt="8.6.1") not in (first, other)
    assert len(made) == 3
    # Another image, and another model.
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((20, 20, 3), np.uint8))
    second = cache()
    assert second != first
    onnx.save(build_yolox(num_classes=4, metadata=True), model)
    assert cache() not in (first, second)
    assert len(made) == 5


def test_what_cannot_be_calibrated_is_refused_before_the_work(
    paths: tuple[Path, Path], tmp_path: Path
) -> None:
    model, images = paths
    options = CalibrateOptions(algorithm="max")
    with pytest.raises(ConfigurationError, match="which has no calibration caches"):
        calibrated_once(model, images, options, tensorrt="11.0", folder=tmp_path)
    with pytest.raises(ConfigurationError, match="no file or folder"):
        calibrated_once(model, tmp_path / "no", options, tensorrt="10.3.0", folder=tmp_path)
