# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What the detectors are made with where calibration images are given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from yolox_trt.core import ConfigurationError, Device
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.ros.nodes import detection_service
from yolox_trt.ros.nodes.detection_service import DetectionService
from yolox_trt.ros.nodes.parameters import EXECUTOR_OPTIONS, ExecutorParameters

pytestmark = pytest.mark.ros


def parameters(**values: Any) -> ExecutorParameters:
    defaults = {name: option.default for name, option in EXECUTOR_OPTIONS.items()}
    return ExecutorParameters.of(defaults | values)


class Progress:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    @contextlib.contextmanager
    def watch(self, model: str, device: Device | None) -> Iterator[Any]:
        yield lambda fraction, phase: self.phases.append(phase)


def test_calibration_images_give_the_builder_a_cache(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'a.png'}\n")
    made: list[DetectorOptions] = []
    monkeypatch.setattr(detection_service, "create_detector", made.append)
    api = SimpleNamespace(version_text="10.3.0")
    monkeypatch.setattr(detection_service, "load_api", lambda flavour: api)
    progress: Any = Progress()
    service = DetectionService(
        SimpleNamespace(),  # type: ignore[arg-type]
        parameters(
            model=str(small_model),
            precision="int8",
            engine_cache=str(tmp_path / "engines"),
            calibration_images=str(tmp_path / "list.txt"),
            calibration_algorithm="MinMax",
        ),
        {},
        progress=progress,
    )
    for device in ("gpu", "dla0", "cpu", "gpu"):
        service.create(Device.parse(device), small_model.stem)
    gpu, dla, cpu, again = (each.build.calibration_cache for each in made)
    assert gpu is not None and gpu.read_text().startswith("TRT-100300-")
    assert gpu.parent == tmp_path / "engines" / "calibration"
    assert again == gpu
    assert dla not in (None, gpu)
    assert cpu is None
    assert [phase.endswith("image 1 of 1") for phase in progress.phases] == [True, True]


@pytest.mark.parametrize(
    "against",
    [{"precision": "fp16"}, {"default_dynamic_range": 6.0}, {"calibration_cache": "a.cache"}],
)
def test_images_with_another_source_of_ranges_are_refused(against: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="one source of INT8 ranges"):
        parameters(calibration_images="list.txt", **against)


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"mean entropy\? set `calibration_a"):
        parameters(calibration_algorithm="Entropie")
