# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CpuDetector: preprocess, host engine, decode and NMS on the CPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from yolox_trt.core.bound_network import BoundNetwork
from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import EngineError
from yolox_trt.core.frame import Frame
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.detector import StageTimes
from yolox_trt.engines.engine import Engine
from yolox_trt.kernels.cpu_preprocess import CpuPreprocessor
from yolox_trt.kernels.reference.postprocess import Postprocessor


class CpuDetector(BoundNetwork):
    """A Detector over an engine with host buffers. Implements detectors.detector.Detector.

    Args:
        engine: a host engine; the detector closes it.

    Raises:
        EngineError: the engine's buffers are not in host memory.
    """

    def __init__(self, engine: Engine) -> None:
        if engine.memory != "host":
            raise EngineError(
                f"an engine on {engine.device} with {engine.memory} buffers",
                expected="host buffers",
                fix="use detectors.factory.create_detector, which takes the right detector",
            )
        self._engine: Engine | None = engine
        self._device = engine.device
        self._spec = engine.spec
        self._max_batch = engine.max_batch
        self._preprocessor = CpuPreprocessor(engine.spec.preprocessing)
        self._postprocessor = Postprocessor(engine.spec)
        self._inputs = [engine.input[i] for i in range(engine.max_batch)]
        self._outputs: dict[str, Any] = dict(engine.outputs)
        self._stage_times = StageTimes()

    @property
    def stage_times(self) -> StageTimes:
        """Times of the last detect() call, in seconds, over all its frames."""
        return self._stage_times

    def detect(
        self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]
    ) -> list[Detections]:
        """Detect in 1 to max_batch frames; see detectors.detector.Detector."""
        if self._engine is None:
            raise EngineError("detect() of a closed detector", expected="an open one")
        if not 1 <= len(frames) <= self._max_batch or len(frames) != len(options):
            raise ValueError(
                f"{len(frames)} frames with {len(options)} options; expected 1 to "
                f"{self._max_batch} of both"
            )
        start = time.perf_counter()
        letterboxes = [
            self._preprocessor(frame, image)
            for frame, image in zip(frames, self._inputs, strict=False)
        ]
        preprocessed = time.perf_counter()
        self._engine.run(len(frames))
        inferred = time.perf_counter()
        detections = [
            self._postprocessor(self._outputs, index, letterbox, option)
            for index, (letterbox, option) in enumerate(zip(letterboxes, options, strict=True))
        ]
        done = time.perf_counter()
        self._stage_times = StageTimes(
            preprocess=preprocessed - start,
            inference=inferred - preprocessed,
            postprocess=done - inferred,
        )
        return detections

    def warmup(self) -> None:
        """Run once on grey frames of the network's size."""
        grey = np.full((self._spec.input_height, self._spec.input_width, 3), 114, np.uint8)
        frame = Frame.from_array(grey)
        self.detect([frame] * self._max_batch, [PostprocessOptions()] * self._max_batch)

    def close(self) -> None:
        """Release the engine; the detector cannot be used afterwards."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
