# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Sizes of a model that the cameras' images ask for, over real engines."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from sensor_msgs.msg import Image
from support.ros import Client, RosProcess, image_message
from vision_msgs.msg import Detection2DArray

from yolox_trt.core import Device, EngineError
from yolox_trt.ros.nodes.detection_service import DetectionService
from yolox_trt.ros.nodes.parameters import (
    CAMERA_OPTIONS,
    EXECUTOR_OPTIONS,
    CameraParameters,
    ExecutorParameters,
)

pytestmark = pytest.mark.ros

UPRIGHT, WIDE = (300, 200), (200, 300)


def camera(name: str = "front", **values: Any) -> CameraParameters:
    defaults = {option: each.default for option, each in CAMERA_OPTIONS.items()}
    return CameraParameters.of(name, defaults | values)


class NoProgress:
    @contextlib.contextmanager
    def watch(self, model: str, device: Device | None) -> Iterator[Any]:
        yield lambda fraction, phase: None


Load = Callable[..., DetectionService]


@pytest.fixture
def load(small_model: Path) -> Iterator[Load]:
    """Load the small model, of 64 x 96, for cameras on two devices."""
    made: list[DetectionService] = []

    def load_service(*cameras: CameraParameters, **values: Any) -> DetectionService:
        defaults = {name: option.default for name, option in EXECUTOR_OPTIONS.items()}
        own = {"model": str(small_model), "devices": ["cpu"], "cpu_threads": 1}
        service = DetectionService(
            SimpleNamespace(),  # type: ignore[arg-type]
            ExecutorParameters.of(defaults | own | values),
            {each.stream.id: each for each in cameras},
            progress=NoProgress(),  # type: ignore[arg-type]
        )
        made.append(service.load())
        return service

    yield load_service
    for service in made:
        service.close()


def chosen(service: DetectionService, camera: CameraParameters, *pictures: Any) -> list[str]:
    """Return what a camera's images of these shapes are served by."""
    answers: queue.Queue[str] = queue.Queue()
    for picture in pictures:
        service.choose(camera, picture, answers.put)
    return [answers.get(timeout=60.0) for _ in pictures]


def loaded(service: DetectionService) -> list[str]:
    (device,) = service.executor.snapshot().devices.values()
    return list(device.models)


def test_a_camera_of_another_shape_gets_the_model_at_its_size(load: Load) -> None:
    front = camera(input_size="auto")
    service = load(front)
    assert service.find(front)[0] == "small"
    assert chosen(service, front, WIDE) == ["small"]
    assert chosen(service, front, UPRIGHT, UPRIGHT) == ["small@96x64"] * 2
    assert loaded(service) == ["small", "small@96x64"]
    # A device that failed gets its detectors anew by their names.
    again = service.create(Device("cpu"), "small@96x64")
    assert again.spec.input_size == (96, 64)
    again.close()


@pytest.mark.parametrize("names", [["front"], ["front", "rear"]])
def test_the_cpu_works_on_as_many_images_as_there_are_cameras(load: Load, names: list[str]) -> None:
    service = load(*map(camera, names), cpu_threads=2)
    detector = service.create(Device("cpu"), "small")
    assert detector.max_calls == len(names)
    detector.close()


def test_sizes_that_are_named_are_there_at_once(load: Load) -> None:
    """One size for all by the process's parameter, another one by a camera's."""
    front, rear = camera("front"), camera("rear", input_size="96x64")
    service = load(front, rear, input_size="32x128")
    assert loaded(service) == ["small@32x128", "small@96x64"]
    assert [service.find(each)[0] for each in (front, rear)] == ["small@32x128", "small@96x64"]
    assert chosen(service, front, UPRIGHT) == ["small@32x128"]
    # Cameras that come later: one names a size, the other takes the model's own.
    late = camera("late", input_size="64x64")
    assert service.find(late)[0] == "small@32x128"
    assert chosen(service, late, UPRIGHT) == ["small@64x64"]
    assert chosen(service, camera("own", input_size="model"), UPRIGHT) == ["small"]


def test_publishers_do_not_load_sizes_without_end(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    front = camera(input_size="auto")
    service = load(front)
    # The small model has six cells of 32 x 32: there are not eight sizes of its cost.
    service._sizes._most = 2
    assert chosen(service, front, UPRIGHT) == ["small@96x64"]
    assert chosen(service, front, (32, 900), (32, 901)) == ["small", "small"]
    (warning,) = (r.message for r in caplog.records if r.levelno == logging.WARNING)
    assert "images of 32x900 (H x W) run at 64x96, without small@32x192: 2 sizes" in warning


def test_a_size_that_cannot_be_loaded_costs_nothing_else(
    load: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    front = camera(input_size="auto")
    service = load(front)

    def refuse(device: Device, name: str) -> Any:
        raise EngineError("no memory left")

    monkeypatch.setattr(service._sizes, "_create", refuse)
    assert chosen(service, front, UPRIGHT) == ["small"]
    assert "run at 64x96, without small@96x64: no memory left" in caplog.text
    assert loaded(service) == ["small"]


def test_a_service_that_is_closed_loads_none_of_the_sizes_that_wait(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine may take minutes to build, and the next configure needs the memory."""
    front = camera(input_size="auto")
    service = load(front)
    sizes, names = service._sizes, []
    began, gate = threading.Event(), threading.Event()

    def refuse(device: Device, name: str) -> Any:
        names.append(name)
        began.set()
        assert gate.wait(60.0)
        raise EngineError("no memory left")

    monkeypatch.setattr(sizes, "_create", refuse)
    answers: queue.Queue[str] = queue.Queue()
    service.choose(front, UPRIGHT, answers.put)
    assert began.wait(60.0)
    service.choose(front, (32, 900), answers.put)
    sizes.close()
    gate.set()
    assert [answers.get(timeout=60.0) for _ in range(2)] == ["small", "small"]
    assert names == ["small@96x64"]


@pytest.mark.timeout(180, method="signal")
def test_the_process_serves_two_cameras_at_two_sizes(
    start_cameras: Callable[..., RosProcess], client: Client
) -> None:
    process = start_cameras({"multi_camera": {"cameras": ["front", "rear"], "input_size": "auto"}})

    def publish(name: str, shape: tuple[int, int]) -> None:
        results = client.collect(Detection2DArray, f"/{name}/detections")
        publisher = client.publisher(Image, f"/{name}/image_raw")
        image = image_message(np.full((*shape, 3), 128, np.uint8))
        client.publish_until(publisher, image, lambda: results, what="a result")
        if shape == UPRIGHT:
            process.wait_for("images of 300x200 (H x W) are served by small@96x64")
            results.clear()
            client.publish_until(publisher, image, lambda: results, what="one at that size")

    publish("front", WIDE)
    publish("rear", UPRIGHT)
    assert process.stop()[0] == 0
    assert "front]: images of" not in process.output, "its model's own size fits"
