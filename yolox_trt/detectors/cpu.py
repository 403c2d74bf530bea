# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CpuDetector: preprocess, host engine, decode and NMS on the CPU."""

from __future__ import annotations

import time
from collections.abc import Sequence

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import EngineError
from yolox_trt.core.frame import Frame
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.detector import Detector, StageTimes, Ticket
from yolox_trt.engines.engine import Engine
from yolox_trt.kernels.cpu_preprocess import CpuPreprocessor
from yolox_trt.kernels.reference.postprocess import Postprocessor


class CpuDetector(Detector):
    """A Detector over an engine with host buffers. A call is over when enqueue() returns.

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
        super().__init__(engine.device, engine.spec, engine.max_batch)
        self._engine = engine
        self._preprocessor = CpuPreprocessor(engine.spec.preprocessing)
        self._postprocessor = Postprocessor(engine.spec)
        self._inputs = [engine.input[i] for i in range(engine.max_batch)]
        self._outputs = dict(engine.outputs)

    def close(self) -> None:
        """Release the engine; the detector cannot be used afterwards."""
        if not self._closed:
            self._closed = True
            self._engine.close()

    def _start(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> Ticket:
        start = time.perf_counter()
        try:
            letterboxes = [
                self._preprocessor(frame.on_host(), image)
                for frame, image in zip(frames, self._inputs, strict=False)
            ]
            preprocessed = time.perf_counter()
            self._engine.run(len(frames))
            inferred = time.perf_counter()
            detections = [
                self._postprocessor(self._outputs, index, letterbox, option)
                for index, (letterbox, option) in enumerate(zip(letterboxes, options, strict=True))
            ]
            for found, letterbox in zip(detections, letterboxes, strict=True):
                self.plausibility.look(found, letterbox, self._postprocessor.implausible)
        except MemoryError as error:
            self._raise(error, "running")
        self.stage_times = StageTimes(
            preprocess=preprocessed - start,
            inference=inferred - preprocessed,
            postprocess=time.perf_counter() - inferred,
        )
        return Ticket(len(frames), result=detections)

    def _finish(self, ticket: Ticket) -> list[Detections]:
        return ticket.result
