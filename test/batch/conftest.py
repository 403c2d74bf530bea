# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of batch work have in common: recordings, a small model, and its job."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from support.bags import write_bag
from support.frames import random_frame
from support.yolox_graphs import build_yolox

from yolox_trt.batch.detection import DetectJob
from yolox_trt.core.device import Device
from yolox_trt.core.postprocess_options import ThresholdOptions
from yolox_trt.detectors.options import DetectorOptions


def picture(seed: int = 0) -> np.ndarray:
    return np.array(random_frame("bgr8", 48, 64, seed=seed, smooth=True).rows)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("batch_model") / "net.onnx"
    onnx.save(build_yolox(depth=0, width=0.125, num_classes=5, metadata=True), path)
    return path


@pytest.fixture(scope="session")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bag of each storage, a broken one, and a folder of pictures."""
    folder = tmp_path_factory.mktemp("drives")
    write_bag(folder / "day", count=4, malformed=1)
    write_bag(folder / "night", storage="sqlite3", count=2)
    (folder / "broken.mcap").write_bytes(b"\x89MCAP0\r\nrubbish")
    (folder / "pictures").mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / "pictures" / f"{number}.png"), picture(number))
    return folder


@pytest.fixture(scope="session")
def job(model: Path) -> DetectJob:
    detector = DetectorOptions(model=model, device=Device("cpu"), threads=1)
    return DetectJob(detector, ThresholdOptions(score_threshold=0.05))
