# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A detector that registers itself, over CUDA buffers: decoded on the host, as on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pytest
from support import cuda_host
from support.gpu import requires_gpu

from yolox_trt.core import (
    Device,
    EngineError,
    Frame,
    HeadLayout,
    Letterbox,
    ModelSpec,
    PostprocessOptions,
)
from yolox_trt.core.model_types import (
    CustomDetector,
    Found,
    OutputShape,
    custom_detectors,
    register,
)
from yolox_trt.detectors.cuda import CudaDetector
from yolox_trt.engines.engine import Engine
from yolox_trt.kernels.reference.postprocess import Postprocessor

SPEC = ModelSpec(
    *("images", 64, 96, None, 3, HeadLayout.CUSTOM, ("boxes", "scores"), ()), model_type="pairs"
)


class Pairs(CustomDetector):
    """Corners (N, 4, A), and a score for each class (N, A, 3) as whole numbers up to 255."""

    name = "pairs"

    def num_classes(self, outputs: tuple[OutputShape, ...], size: tuple[int, int]) -> int | None:
        return 3

    def decode(self, outputs: Mapping[str, Any], size: tuple[int, int]) -> Found:
        assert size == (64, 96)
        scores = outputs["scores"] / np.float32(255)
        best = scores.argmax(1).astype(np.int32)
        return Found(outputs["boxes"].T, scores.max(1), best)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register(Pairs)
    yield
    custom_detectors().pop("pairs")  # type: ignore[attr-defined]


def make_outputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 60, (2, 2, 50))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 30, (2, 2, 50))], 1)
    scores = rng.integers(0, 256, (2, 50, 3)).astype(np.uint8)
    return {"boxes": boxes.astype(np.float32), "scores": scores}


class Fixed(Engine):
    """A CUDA engine whose outputs are always the same; on the host its arrays are HostArrays."""

    memory: Literal["host", "cuda"] = "cuda"
    capture_refusal = ""

    def __init__(self, make: Any) -> None:
        self.device, self.spec, self.max_batch = Device("gpu"), SPEC, 2
        self.input = make(np.zeros((2, 3, 64, 96), np.float32))
        self.outputs = {name: make(value) for name, value in make_outputs().items()}

    def run(self, batch: int, stream: Any = None) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("where", ["host", pytest.param("gpu", marks=requires_gpu)])
def test_it_equals_the_reference(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    if where == "host":
        cuda_host.install(monkeypatch)
        make = cuda_host.host_array
    else:
        import cupy

        make = cupy.asarray
    with caplog.at_level(logging.WARNING):
        detector = CudaDetector(Fixed(make), cuda_graph=where == "gpu")
    assert sum("'pairs' is decoded on the CPU" in r.message for r in caplog.records) == 1
    frames = [Frame.from_array(np.full((128, 150 + i, 3), 90, np.uint8)) for i in range(2)]
    options = [PostprocessOptions(0.5, 0.4), PostprocessOptions(0.2, 0.9, max_detections=900)]
    found = detector.detect(frames, options)
    for index, (got, frame, option) in enumerate(zip(found, frames, options, strict=True)):
        letterbox = Letterbox.of_frame(frame, 64, 96)
        expected = Postprocessor(SPEC)(make_outputs(), index, letterbox, option)
        assert len(got) == len(expected) > 10
        np.testing.assert_array_equal(got.boxes, expected.boxes)
        np.testing.assert_array_equal(got.scores, expected.scores)
    detector.close()


@pytest.mark.parametrize(
    "wrong",
    [
        Found(np.zeros((2, 3), np.float32), np.zeros(2, np.float32), np.zeros(2, np.int32)),
        Found(np.zeros((2, 4), np.float32), np.full(2, np.nan, np.float32), np.zeros(2, np.int32)),
        Found(np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.full(2, 3, np.int32)),
    ],
)
def test_what_is_no_detection_is_a_fault(monkeypatch: pytest.MonkeyPatch, wrong: Found) -> None:
    monkeypatch.setattr(Pairs, "decode", lambda *_: wrong)
    letterbox = Letterbox.fit(64, 96, 64, 96)
    with pytest.raises(EngineError, match=r"decode\(\) of 'pairs'.*classes from 0 to 2"):
        Postprocessor(SPEC)(make_outputs(), 0, letterbox, PostprocessOptions())
